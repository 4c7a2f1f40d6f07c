"""The sampler: picks the best table for the loaded checkpoint, grid and cfg, and says which."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from dode_core.errors import DodeError
from dode_core.match.best import best
from dode_core.match.resolve import Resolution, resolve
from dode_core.match.scale import scaled
from dode_core.sampler import run_resolved
from dode_core.solve.noise import check_sigmas, infer_parametrization
from dode_core.solve.solvers import get_solver
from dode_core.tables.table import LambdaTable

from . import host
from .options import AUTOMATIC, NONE, Options, chosen, of_run, table_id, wanted_id

# Infotext keys; the hires pass has its own.
TABLE, SOLVER, MATCH = "D-ODE table", "D-ODE solver", "D-ODE match"
CHOICE, SCALE = "D-ODE choice", "D-ODE scale"
BETWEEN = " between cfgs"  # not one table's lambdas: added to the match


def hires(key: str) -> str:
    """The key for the hires pass."""
    return key.replace("D-ODE", "D-ODE hires")


def sample_dode(
    model: Any,
    x: Tensor,
    sigmas: Tensor,
    extra_args: dict[str, Any] | None = None,
    callback: Callable[[dict[str, Any]], None] | None = None,
    disable: bool | None = None,
    *,
    solver: str | None = None,
) -> Tensor:
    """Sample with the best table there is; without any, the plain solver runs and says so."""
    p = getattr(model, "p", None)
    options = of_run(p)
    grid, channels = check_sigmas(sigmas), x.shape[1]
    choice = choose(model, p, grid, extra_args or {}, options, solver, channels)
    note(p, choice, options)  # before the loop: an interrupted run keeps its infotext
    held = Held(model, iter([stage.step for stage in choice.resolution.stages]))
    return run_resolved(held, x, choice.resolution, extra_args, callback, disable)


@dataclass(frozen=True)
class Choice:
    """What a run uses, the file it is from, and what the user should know."""

    resolution: Resolution
    file: str = ""
    warning: str = ""


def choose(
    model: Any,
    p: Any,
    grid: Sequence[float],
    extra_args: dict[str, Any],
    options: Options,
    solver: str | None,
    channels: int | None = None,
) -> Choice:
    """The table for this run, scaled as asked."""
    cfg = host.guidance(p, extra_args)
    kind = infer_parametrization(model, grid)

    def pick(tables: Sequence[LambdaTable]) -> Resolution:
        usable = [table for table in tables if solver in (None, table.solver)]
        how = {"solver": solver, "cfg": cfg, "parametrization": kind, "channels": channels}
        return resolve(usable, grid, **how)

    warning = ""
    if options.given is not None:
        choice = Choice(pick(options.given))
    elif options.table == NONE:
        choice = Choice(pick([]))
    else:
        choice = None
        if options.table != AUTOMATIC:
            choice, warning = pinned(options.table, pick, solver)
        choice = choice or automatic(p, pick, warning)
    resolution = scaled(choice.resolution, grid, options.scale)
    return Choice(resolution, choice.file, choice.warning)


def pinned(
    table: str, pick: Callable[[Sequence[LambdaTable]], Resolution], solver: str | None
) -> tuple[Choice | None, str]:
    """The chosen table where it can serve this run, else None and why not."""
    try:
        stored = chosen(table, host.library())
    except DodeError as error:
        return None, f"{error} {AUTOMATIC} is used."
    resolution = pick([stored.table])
    if resolution.table is None:
        made_for = stored.table.describe()
        asked = f" as {get_solver(solver).label}" if solver else ""
        return None, f"The chosen table ({made_for}) cannot serve this run{asked}."
    return Choice(resolution, stored.file.name), ""


def automatic(
    p: Any, pick: Callable[[Sequence[LambdaTable]], Resolution], warning: str = ""
) -> Choice:
    """The best table of the loaded checkpoint."""
    who = host.identity(host.first_prompt(p))
    stored = host.library().find(who)
    resolution, where = best(stored, who, pick)
    file = next((each.file.name for each in stored if each.table is resolution.table), "")
    if resolution.table is None:
        warning = f"{warning} {resolution.message}.".strip()
    elif "made " in where:
        warning = f"{warning} {resolution.message}{where}.".strip()
    return Choice(resolution, file, warning)


class Held:
    """The host's denoiser with its step counter kept at the sampler's step.

    The host counts model calls: prompts that change by step would run ahead of a solver with two
    evaluations a step.
    """

    def __init__(self, model: Any, steps: Iterator[int]) -> None:
        self.model, self.steps = model, steps

    def __call__(self, x: Tensor, sigma: Tensor, **extra_args: Any) -> Tensor:
        self.model.step = next(self.steps)
        return self.model(x, sigma, **extra_args)


def is_between(resolution: Resolution) -> bool:
    """Whether the lambdas are interpolated between tables of several cfgs."""
    return "between the tables" in resolution.message


def note(p: Any, choice: Choice, options: Options) -> None:
    """Write into the infotext what is used, and say once what is not as it should be."""
    resolution, table = choice.resolution, choice.resolution.table
    message = f"D-ODE: {resolution.message}" + (f" (from {choice.file})" if choice.file else "")
    if choice.warning:
        message = f"D-ODE: {choice.warning}"
        logging.warning(message)
        if hasattr(p, "comment"):
            p.comment(message)
    else:
        logging.info(message)
    params = getattr(p, "extra_generation_params", None)
    if params is None:
        return
    name = (lambda key: hires(key)) if getattr(p, "is_hr_pass", False) else (lambda key: key)
    known = f"{choice.file} {table_id(table)}".strip() if table else "none"
    params[name(TABLE)] = known
    label = get_solver(resolution.solver).label
    params[name(SOLVER)] = label if table else label.removeprefix("D-")
    params[name(MATCH)] = resolution.kind + (BETWEEN if is_between(resolution) else "")
    if options.table != AUTOMATIC:
        params[CHOICE] = NONE if options.table == NONE else wanted_id(options.table)
    if options.scale != 1:
        params[SCALE] = f"{options.scale:g}"
