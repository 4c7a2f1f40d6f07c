"""The sampler ``dode``: for the stock menus, and with a table of one's own as a SAMPLER."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import Any

import comfy.k_diffusion.sampling
import comfy.model_management as management
import comfy.samplers
from torch import Tensor

from ..dode_core.noise import check_sigmas, infer_parametrization
from ..dode_core.resolve import Resolution, resolve
from ..dode_core.sampler import run_resolved
from ..dode_core.table import LambdaTable
from . import models, store

SAMPLER_NAME = "dode"
RIDING = "dode"  # the key in a MODEL's transformer_options for tables that ride on it


def register() -> None:
    """Put ``dode`` in the host's sampler menus and models/dode among its folders; idempotent."""
    store.register_folder()
    setattr(comfy.k_diffusion.sampling, f"sample_{SAMPLER_NAME}", sample_dode)
    # One and the same list, unless another pack has bound a new one.
    for menu in (comfy.samplers.SAMPLER_NAMES, comfy.samplers.KSampler.SAMPLERS):
        if SAMPLER_NAME not in menu:
            menu.append(SAMPLER_NAME)


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
) -> Tensor:
    """Sample with a table: the one given, one riding on the MODEL, or the best for the checkpoint.

    Without any, the plain solver runs with its natural extrapolation. What was used is logged.
    """
    resolution, note = choose(model, sigmas, extra_args or {}, table, solver)
    logging.info("D-ODE: %s%s", resolution.message, note)

    def interruptible(x: Tensor, sigma: Tensor, **kwargs: Any) -> Tensor:
        management.throw_exception_if_processing_interrupted()
        return model(x, sigma, **kwargs)

    return run_resolved(interruptible, x, resolution, extra_args, callback, disable)


def choose(
    model: Any,
    sigmas: Tensor,
    extra_args: dict[str, Any],
    table: LambdaTable | None,
    solver: str | None,
) -> tuple[Resolution, str]:
    """What this run uses, and where it is from."""
    guider = getattr(model, "inner_model", None)
    patcher = getattr(guider, "model_patcher", None)
    grid = check_sigmas(sigmas)
    kind = models.parametrization(patcher) if patcher else infer_parametrization(model, grid)
    cfg = getattr(guider, "cfg", None)  # not every guider has one
    cfg = float(cfg) if isinstance(cfg, int | float) else None

    def pick(tables: Sequence[LambdaTable]) -> Resolution:
        usable = [each for each in tables if solver in (None, each.solver)]
        return resolve(usable, grid, solver=solver, cfg=cfg, parametrization=kind)

    riding = table or riding_tables(extra_args)
    if riding:
        return pick([riding] if isinstance(riding, LambdaTable) else riding), ""
    identity = models.identify(patcher, *models.running_prompt()) if patcher else None
    stored = store.find(identity) if identity else []
    return best(stored, identity, pick)


def best(
    stored: Sequence[store.Stored],
    identity: models.Identity | None,
    pick: Callable[[Sequence[LambdaTable]], Resolution],
) -> tuple[Resolution, str]:
    """The best table made for exactly this model, else for it without its LoRAs, else any."""

    def trust(table: LambdaTable) -> int:
        if identity is None or not identity.same_model(table.model_fingerprint):
            return 2
        return 0 if identity.same_patches(table.model_fingerprint) else 1

    resolution = pick([each.table for each in stored])
    for least in (0, 1):
        trusted = [each.table for each in stored if trust(each.table) <= least]
        found = pick(trusted)
        if found.table is not None:
            resolution = found
            break
    if resolution.table is None:
        return resolution, ""
    file = next(each.file for each in stored if each.table is resolution.table)
    notes = ("", ", made with other LoRAs", ", made for another checkpoint: distil it again")
    return resolution, f" (from {file.name}{notes[trust(resolution.table)]})"


def riding_tables(extra_args: dict[str, Any]) -> Any:
    """A table or tables that ride on the MODEL."""
    options = extra_args.get("model_options", {}).get("transformer_options", {})
    return options.get(RIDING)
