"""D-ODE in the sampler dropdowns: one registration for every host, as often as one likes."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from dode_core.solve.noise import infer_parametrization
from dode_core.solve.solvers import SOLVERS

from . import host
from .sampling import sample_dode

NAME = "D-ODE"
HIDDEN = "D-ODE calibration"  # never in a menu
MORE = tuple(SOLVERS)  # one by one, where the setting asks for them
MORE_SETTING = "dode_more_samplers"
NO_PLACE = (
    "D-ODE: this WebUI has no k-diffusion samplers, so nothing was added to its menus. In "
    "diffusers pipelines a table is a scheduler: see DodeScheduler in D-ODE's README."
)
# What DPM++ 2M has as its automatic schedule; API answers allow strings and booleans only.
OPTIONS: Mapping[str, str | bool] = {"scheduler": "karras"}


def register() -> bool:
    """Put the samplers in the menus; False, with a line in the log, where there is no place."""
    kdiffusion = host.optional("modules.sd_samplers_kdiffusion")
    if not hasattr(kdiffusion, "KDiffusionSampler"):
        log = getattr(host.optional("modules.logger"), "log", logging)  # SD.Next has its own
        log.warning(NO_PLACE)
        return False
    wanted = [NAME]
    functions: dict[str, Callable[..., Any]] = {NAME: sample_dode}
    if host.option(MORE_SETTING, False):
        for name in MORE:
            label = SOLVERS[name].label
            functions[label] = partial(sample_dode, solver=name)
            wanted.append(label)
    drop([NAME, *(SOLVERS[name].label for name in MORE)])
    for label in wanted:
        if host.schedule_names():
            add(label, functions[label], OPTIONS)
        else:  # no dropdown for schedules: they are in the names
            add(label, functions[label], {})
            add(f"{label} Karras", functions[label], OPTIONS)
    return True


def is_ours(label: str) -> bool:
    """Whether a sampling method is one of these."""
    ours = [NAME, *(SOLVERS[name].label for name in MORE)]
    return label.removesuffix(" Karras") in ours


def solver_of(label: str) -> str | None:
    """The solver that a menu entry is for; None for the one that takes the best there is."""
    name = label.removesuffix(" Karras")
    return next((each for each in MORE if SOLVERS[each].label == name), None)


def drop(labels: list[str]) -> None:
    """Take earlier entries out, those with a schedule in their name too."""
    from modules import sd_samplers

    old = {*labels, *(f"{label} Karras" for label in labels)}
    sd_samplers.all_samplers[:] = [
        each for each in sd_samplers.all_samplers if each.name not in old
    ]
    for label in old:
        sd_samplers.all_samplers_map.pop(label, None)


def add(label: str, function: Callable[..., Any], options: Mapping[str, str | bool]) -> None:
    """One entry in every menu."""
    from modules import sd_samplers

    cut = cut_by(label)
    if cut is not None:  # the host would read the end as a schedule, and fall back to DPM++ 2M
        logging.warning("D-ODE: %r is left out, this host has a schedule named %r.", label, cut)
        return
    data = sampler_data(label, function, options)
    sd_samplers.all_samplers.append(data)
    sd_samplers.all_samplers_map[label] = data
    refresh()


def hide(function: Callable[..., Any], scheduler: str = "Karras") -> str:
    """Make ``function`` a sampler that only a program can choose; its name.

    Done anew for every calibration: other extensions rebuild the map from the menu.
    """
    from modules import sd_samplers

    options = {} if not host.schedule_names() and scheduler != "Karras" else OPTIONS
    sd_samplers.all_samplers_map[HIDDEN] = sampler_data(HIDDEN, function, options)
    refresh()
    return HIDDEN


def unhide() -> None:
    """Forget the hidden sampler."""
    from modules import sd_samplers

    sd_samplers.all_samplers_map.pop(HIDDEN, None)
    refresh()


def sampler_data(
    label: str, function: Callable[..., Any], options: Mapping[str, str | bool]
) -> Any:
    """The host's own record of a k-diffusion sampler."""
    from modules import sd_samplers_common

    def construct(model: Any) -> Any:
        return sampler_class()(function, model)

    aliases = [label.lower().replace(" ", "_").replace("+", "p")]
    return sd_samplers_common.SamplerData(label, construct, aliases, dict(options))


def sampler_class() -> Any:
    """The host's sampler, whose automatic schedule on flow models is the host's own."""
    from modules import sd_samplers_kdiffusion

    class Sampler(sd_samplers_kdiffusion.KDiffusionSampler):
        def get_sigmas(self, p: Any, steps: int) -> Any:
            """Karras is what DPM++ 2M has for noise-predicting models, and means nothing here."""
            if infer_parametrization(self.model_wrap_cfg, (0.0,)) == "flow" and self.config:
                self.config = self.config._replace(options={})
            return super().get_sigmas(p, steps)

    return Sampler


def cut_by(label: str) -> str | None:
    """The schedule whose name this host would cut off the end of a sampler's name."""
    schedulers = host.optional("modules.sd_schedulers")
    for each in getattr(schedulers, "schedulers", []):
        for name in (each.label, each.name, *(each.aliases or [])):
            if label.lower().endswith(f" {name.lower()}"):
                return name
    return None


def refresh() -> None:
    """Have the host build its menus and look-ups from the lists anew."""
    from modules import sd_samplers

    sd_samplers.set_samplers()
    lookup = getattr(sd_samplers, "get_sampler_and_scheduler", None)
    forget = getattr(lookup, "cache_clear", None)
    if forget is not None:
        forget()
