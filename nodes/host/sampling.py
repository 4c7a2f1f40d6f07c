"""The sampler ``dode``: for the stock menus, and with a table of one's own as a SAMPLER."""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import partial
from typing import Any

import comfy.k_diffusion.sampling
import comfy.model_management as management
import comfy.samplers
from torch import Tensor

from ...dode_core.match.best import Choice, Query, first_of
from ...dode_core.sampler import run_resolved
from ...dode_core.solve.noise import check_sigmas, infer_parametrization
from ...dode_core.tables.table import LambdaTable
from . import models, store
from .fallback import warning
from .origin import running_prompt
from .settings import extra_samplers
from .telling import notice

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
) -> Tensor:
    """Sample with a table: the one given, one riding on the MODEL, or the best for the checkpoint.

    Without any, the plain solver runs with its natural extrapolation. What was used is logged, and
    told to ``say``.
    """
    guider = getattr(model, "inner_model", None)
    patcher = getattr(guider, "model_patcher", None)
    kind = models.known_parametrization(model) or infer_parametrization(model, check_sigmas(sigmas))
    carried = table or riding_tables((extra_args or {}).get("model_options", {}))
    how = models.guidance(guider), carried, solver, kind, x.shape[1], guider
    choice = choose(patcher, sigmas, *how)
    message = choice.resolution.message + choice.note
    logging.info("D-ODE: %s", message)
    if say is not None:
        say(message)
    elif len(sigmas) > 1 and (doubt := warning(choice, len(sigmas) - 1, models.guidance(guider))):
        notice(doubt)

    def interruptible(x: Tensor, sigma: Tensor, **kwargs: Any) -> Tensor:
        management.throw_exception_if_processing_interrupted()
        return model(x, sigma, **kwargs)

    return run_resolved(interruptible, x, choice.resolution, extra_args, callback, disable)


def choose(
    patcher: Any,
    sigmas: Tensor,
    cfg: float | None,
    carried: Any = None,
    solver: str | None = None,
    parametrization: str | None = None,
    channels: int | None = None,
    guider: Any = None,
) -> Choice:
    """What a run of this MODEL uses, and where that is from.

    ``carried`` tables, connected or riding on the MODEL, go first; where they do not fit, the
    stored ones serve, and that is said. ``guider``: see :func:`.models.identify`.
    """
    kind = parametrization or models.parametrization(patcher)
    query = Query(check_sigmas(sigmas), kind, cfg, solver, channels)
    identity = models.identify(patcher, *running_prompt(), guider) if patcher else None
    own = carried if isinstance(carried, list | tuple) else [carried] if carried else []
    return first_of(own, lambda: store.find(identity) if identity else [], identity, query.pick)


def riding_tables(model_options: dict[str, Any]) -> Any:
    """A table or tables that ride on the MODEL with these options."""
    return model_options.get("transformer_options", {}).get(RIDING)
