"""The sampler ``dode``: for the stock menus, and with a table of one's own as a SAMPLER."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import comfy.k_diffusion.sampling
import comfy.model_management as management
import comfy.samplers
from torch import Tensor

from ...dode_core.match.best import best
from ...dode_core.match.resolve import Resolution, resolve
from ...dode_core.sampler import run_resolved
from ...dode_core.solve.noise import check_sigmas, infer_parametrization
from ...dode_core.tables.likeness import compare
from ...dode_core.tables.table import LambdaTable
from . import models, store
from .settings import extra_samplers

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
    table: LambdaTable | None = None,
    solver: str | None = None,
    say: Callable[[str], None] | None = None,
) -> Tensor:
    """Sample with a table: the one given, one riding on the MODEL, or the best for the checkpoint.

    Without any, the plain solver runs with its natural extrapolation. What was used is logged, and
    told to ``say``.
    """
    guider = getattr(model, "inner_model", None)
    patcher = getattr(guider, "model_patcher", None)
    kind = models.parametrization(model) or infer_parametrization(model, check_sigmas(sigmas))
    carried = table or riding_tables((extra_args or {}).get("model_options", {}))
    how = models.guidance(guider), carried, solver, kind, x.shape[1], guider
    resolution, note = choose(patcher, sigmas, *how)
    message = resolution.message + note
    logging.info("D-ODE: %s", message)
    if say is not None:
        say(message)

    def interruptible(x: Tensor, sigma: Tensor, **kwargs: Any) -> Tensor:
        management.throw_exception_if_processing_interrupted()
        return model(x, sigma, **kwargs)

    return run_resolved(interruptible, x, resolution, extra_args, callback, disable)


def choose(
    patcher: Any,
    sigmas: Tensor,
    cfg: float | None,
    carried: LambdaTable | Sequence[LambdaTable] | None = None,
    solver: str | None = None,
    parametrization: str | None = None,
    channels: int | None = None,
    guider: Any = None,
) -> tuple[Resolution, str]:
    """What a run of this MODEL uses, and where that is from.

    ``carried`` tables, connected or riding on the MODEL, go first; where they do not fit, the
    stored ones serve, and that is said. ``guider``: see :func:`.models.identify`.
    """
    grid, kind = check_sigmas(sigmas), parametrization or models.parametrization(patcher) or "ve"

    def pick(tables: Sequence[LambdaTable]) -> Resolution:
        usable = [each for each in tables if solver in (None, each.solver)]
        how = {"solver": solver, "cfg": cfg, "parametrization": kind, "channels": channels}
        return resolve(usable, grid, **how)

    identity = models.identify(patcher, *models.running_prompt(), guider) if patcher else None
    own = list(carried) if isinstance(carried, list | tuple) else [carried] if carried else []
    found, note = of_own(own, identity, pick)
    if found is not None and found.table is not None:
        return found, note
    stored = store.find(identity) if identity else []
    resolution, where = best(stored, identity, pick)
    return resolution, where + note


def of_own(
    tables: Sequence[LambdaTable],
    identity: models.Identity | None,
    pick: Callable[[Sequence[LambdaTable]], Resolution],
) -> tuple[Resolution | None, str]:
    """(what a user's own tables give, what is to be said of them)."""
    if not tables:
        return None, ""
    own = identity.fingerprint if identity else ""
    alike = {id(table): compare(own, table.model_fingerprint) for table in tables}
    found = pick([table for table in tables if alike[id(table)].kind != "refused"])
    if found.table is not None:
        known = own and found.table.model_fingerprint  # else there is nothing to compare
        doubts = alike[id(found.table)].doubts if known else ()
        return found, f" ({', '.join(doubts)})" if doubts else ""
    refused = next((each.note for each in alike.values() if each.kind == "refused"), "")
    first = tables[0]
    ends = f"{first.steps} steps over sigmas {first.sigmas[0]:.4g} to {first.sigmas[-1]:.4g}"
    return None, f"; the connected table does not serve this run: it is {refused or f'for {ends}'}"


def riding_tables(model_options: dict[str, Any]) -> Any:
    """A table or tables that ride on the MODEL with these options."""
    return model_options.get("transformer_options", {}).get(RIDING)
