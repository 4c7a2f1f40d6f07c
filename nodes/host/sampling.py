"""The sampler ``dode``: for the stock menus, and with a table of one's own as a SAMPLER."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import comfy.k_diffusion.sampling
import comfy.samplers
from torch import Tensor

from ...dode_core import shelf
from ...dode_core.match.best import Choice, Query
from ...dode_core.match.scale import without_look_ahead
from ...dode_core.sampler import run_resolved
from ...dode_core.solve.noise import check_sigmas, infer_parametrization
from ...dode_core.tables.table import LambdaTable
from . import models, store
from .any_steps import AnySteps
from .fallback import warning
from .origin import running_prompt
from .settings import extra_samplers
from .shelf_list import LastRun
from .telling import notice
from .told import Told, follows_steps

SAMPLER_NAME = "dode"
RIDING = "dode"  # the key in a MODEL's transformer_options for tables that ride on it


def register() -> None:
    """Put ``dode`` in the host's sampler menus and models/dode among its folders; idempotent.

    The settings can add ``dode_<solver>``, which keeps to the tables of one solver.
    """
    store.register_folder()
    add_to_menus(SAMPLER_NAME, sample_dode)
    for solver in extra_samplers():
        add_to_menus(f"{SAMPLER_NAME}_{solver}", partial(sample_dode, solver=solver))


def add_to_menus(name: str, sampler: Callable[..., Tensor]) -> None:
    """Make the host know a sampler by its name."""
    setattr(comfy.k_diffusion.sampling, f"sample_{name}", sampler)
    # One and the same list, unless another pack has bound a new one.
    for menu in (comfy.samplers.SAMPLER_NAMES, comfy.samplers.KSampler.SAMPLERS):
        if name not in menu:
            menu.append(name)


def sample_dode(
    model: Callable[..., Tensor],
    x: Tensor,
    sigmas: Tensor,
    extra_args: dict[str, Any] | None = None,
    callback: Callable[[dict[str, Any]], None] | None = None,
    disable: bool | None = None,
    *,
    table: LambdaTable | list[LambdaTable] | None = None,
    solver: str | None = None,
    say: Callable[[str], None] | None = None,
    keep_schedule: bool = False,
) -> Tensor:
    """Sample with a table: the one given, one riding on the MODEL, or the best for the checkpoint:
    one that was made for just this run, or what a profile makes of it.

    Without any, the plain solver runs with its natural extrapolation. What was used is logged, and
    told to ``say``. With ``keep_schedule`` the run stays on ``sigmas``, whatever table serves it.
    """
    guider = getattr(model, "inner_model", None)
    patcher = getattr(guider, "model_patcher", None)
    kind = models.known_parametrization(model) or infer_parametrization(model, check_sigmas(sigmas))
    carried = table or riding_tables((extra_args or {}).get("model_options", {}))
    query = query_of(patcher, sigmas, models.guidance(guider))
    query = replace(
        query,
        parametrization=kind,
        solver=solver,
        channels=x.shape[1],
        keep_schedule=keep_schedule,
    )
    choice = choose(patcher, query, carried, guider)
    LastRun.query, LastRun.choice = query, choice
    resolution = choice.resolution
    if follows_steps(guider):
        resolution = without_look_ahead(resolution)
    message = replace(choice, resolution=resolution).message
    logging.info("D-ODE: %s", message)
    if say is not None:
        say(message)
    elif len(sigmas) > 1 and (doubt := warning(choice, len(sigmas) - 1, models.guidance(guider))):
        notice(doubt)

    return run_resolved(Told(model), x, resolution, extra_args, callback, disable)


def query_of(patcher: Any, sigmas: Tensor, cfg: float | None) -> Query:
    """What a run of this MODEL will ask of tables, before it begins."""
    kind, highest = models.parametrization(patcher), models.highest_sigma(patcher)
    return Query(check_sigmas(sigmas), kind, cfg, highest=highest)


def choose(patcher: Any, query: Query, carried: Any = None, guider: Any = None) -> Choice:
    """What a run of this MODEL uses, and where that is from.

    ``carried`` tables, connected or riding on the MODEL, go first; where they do not fit, the
    stored ones serve, and that is said. ``guider``: see :func:`.models.identify`.
    """
    identity = models.identify(patcher, *running_prompt(), guider) if patcher else None
    LastRun.identity = identity
    own = carried if isinstance(carried, list | tuple) else [carried] if carried else []
    if identity and isinstance(carried, AnySteps):
        made, why = shelf.serve([carried.stored], identity, query)
        if made is not None:
            return made
    return shelf.choose(
        query,
        identity,
        own,
        lambda: store.find(identity) if identity else [],
        lambda: store.find_profiles(identity) if identity else [],
    )


def riding_tables(model_options: dict[str, Any]) -> Any:
    """A table or tables that ride on the MODEL with these options."""
    return model_options.get("transformer_options", {}).get(RIDING)
