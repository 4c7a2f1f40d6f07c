"""The sampler: picks the best table for the loaded checkpoint, grid and cfg, and says which."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor

from dode_core import shelf
from dode_core.errors import DodeError
from dode_core.match.best import Choice, Query
from dode_core.match.resolve import Resolution, brings_sigmas
from dode_core.match.scale import scaled
from dode_core.sampler import run_resolved
from dode_core.solve.noise import check_sigmas, infer_parametrization
from dode_core.solve.solvers import get_solver
from dode_core.tables.identity import Identity

from . import host
from .options import (
    AUTOMATIC,
    KEEP_LABEL,
    NONE,
    Options,
    chosen,
    of_run,
    table_id,
    wanted_id,
)

# Infotext keys; the hires pass has its own.
TABLE, SOLVER, MATCH = "D-ODE table", "D-ODE solver", "D-ODE match"
CHOICE, SCALE, KEEP = "D-ODE choice", "D-ODE scale", "D-ODE keep schedule"
# What a user should know. The infotext reaches everybody: some hosts' HTTP answers have no
# comments, and Neo's log shows errors only.
NOTE, ERROR = "D-ODE note", "D-ODE error"
ANY = "Distill for any steps"  # the button of the accordion
PROFILE = "profile"  # a match: made for the run from a profile
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
    used = choose(model, p, grid, extra_args or {}, options, solver, channels)
    note(p, used, options)  # before the loop: an interrupted run keeps its infotext
    refuse(p, used.error or (options.problem and f"D-ODE: {options.problem}."))
    held = Held(model, iter([stage.step for stage in used.resolution.stages]))
    return run_resolved(held, x, used.resolution, extra_args, callback, disable)


def refuse(p: Any, error: str) -> None:
    """Fail a request over HTTP that asked for what is not there, as the hosts do for a script of
    no known name. In the browser a picture is made all the same, and says so.
    """
    if error and getattr(p, "is_api", False):
        from fastapi import HTTPException

        raise HTTPException(422, error)


@dataclass(frozen=True)
class Used:
    """What a run uses, and what the user should be warned of."""

    choice: Choice
    warning: str = ""
    error: str = ""

    @property
    def resolution(self) -> Resolution:
        return self.choice.resolution

    @property
    def file(self) -> str:
        """The name of the table's file."""
        return self.choice.file.name if self.choice.file else ""


def choose(
    model: Any,
    p: Any,
    grid: Sequence[float],
    extra_args: dict[str, Any],
    options: Options,
    solver: str | None,
    channels: int | None = None,
) -> Used:
    """The table for this run, scaled as asked."""
    kind = infer_parametrization(model, grid)
    cfg, keep = host.guidance(p, extra_args), options.keep_schedule
    query = Query(grid, kind, cfg, solver, channels, keep_schedule=keep)
    warning, used = "", None
    if options.given is not None:
        used = Used(Choice(query.pick(options.given)))
    elif options.table == NONE:
        used = Used(Choice(query.pick([])))
    elif options.table != AUTOMATIC:
        used, warning = pinned(options.table, query)
    used = of_another_cfg(used or automatic(p, query, warning))
    if options.missing:
        used = replace(used, error=f"{not_here(options.missing)}: {AUTOMATIC} was used instead.")
    resolution = scaled(used.resolution, grid, options.scale)
    return replace(used, choice=replace(used.choice, resolution=resolution))


def of_another_cfg(used: Used) -> Used:
    """Warned that its table was made at another cfg, as the line in the accordion says before."""
    run = used.resolution
    if not run.cfg_note or run.cfg_note in used.warning:
        return used
    return replace(used, warning=f"{used.warning} {used.choice.message}.".strip())


def pinned(table: str, query: Query) -> tuple[Used | None, str]:
    """The chosen table where it can serve this run, else None and why not."""
    try:
        stored = chosen(table, host.library())
    except DodeError:  # never another one in its place; nor the user's folders, in an image
        said = f"{not_here(table)}: this is made without one."
        return Used(Choice(query.pick([])), error=said), ""
    resolution = query.pick([stored.table])
    if resolution.table is None:
        made_for = stored.table.describe(worth=False)
        asked = f" as {get_solver(query.solver).label}" if query.solver else ""
        if query.keep_schedule and brings_sigmas(stored.table, query.grid):
            asked += f" with {KEEP_LABEL} on: it has noise levels of its own"
        return None, f"The chosen table ({made_for}) cannot serve this run{asked}."
    # For whatever model: nobody looked whether it was measured on this one.
    return Used(Choice(replace(resolution, worth=""), stored.file)), ""


def not_here(table: str) -> str:
    return f"Table {table[-60:]!r} is not among the table files here"


def automatic(p: Any, query: Query, warning: str = "") -> Used:
    """The best table of the loaded checkpoint."""
    prompt, distilled = host.first_prompt(p), host.distilled_cfg(p)
    choice = decide(query, host.identity(prompt, distilled=distilled, p=p))
    if choice.resolution.table is None:
        warning = f"{warning} {without(p, query, choice)}".strip()
    elif choice.doubts:
        warning = f"{warning} {choice.message}.".strip()
    return Used(choice, warning)


def decide(query: Query, who: Identity) -> Choice:
    """What a run of this model uses; the line in the accordion asks here as well."""
    library = host.library()
    return shelf.choose(
        query, who, (), lambda: library.find(who), lambda: shelf.find_profiles(library, who)
    )


def without(p: Any, query: Query, choice: Choice) -> str:
    """That nothing served a run, and what would, in the words of the tab.

    A part of a schedule (image to image, the hires pass) is served by a profile, which serves the
    whole ones as well; a table of as many steps would not help there.
    """
    steps, hr = len(query.grid) - 1, getattr(p, "is_hr_pass", False)
    part, plain = hr or bool(choice.resolution.advice), choice.resolution.solver
    what = "The hires pass" if hr else "This run"
    denoise = getattr(p, "denoising_strength", None) if part else None
    asked = f"{steps} steps" + (f" at denoise {denoise:g}" if denoise else "")
    said = f"{what} ({asked}) has no table, so plain {plain_label(plain)} runs"
    if choice.doubts:
        said += f" ({', '.join(choice.doubts)})"
    serves = f'"{ANY}" in txt2img makes what serves it'
    return f"{said}: {serves}{', and every other run' if part else ''}."


def plain_label(solver: str) -> str:
    """The built-in sampler that a solver is without its corrections."""
    return get_solver(solver).label.removeprefix("D-")


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


def note(p: Any, used: Used, options: Options) -> None:
    """Write into the infotext what is used, and say once what is not as it should be."""
    resolution, table = used.resolution, used.resolution.table
    message = f"D-ODE: {used.choice.message}"
    if used.error or used.warning:
        message = f"D-ODE: {' '.join(filter(None, (used.error, used.warning)))}"
        logging.warning(message)
        if hasattr(p, "comment"):
            p.comment(message)
    else:
        logging.info(message)
    params = getattr(p, "extra_generation_params", None)
    if params is None:
        return
    name = (lambda key: hires(key)) if getattr(p, "is_hr_pass", False) else (lambda key: key)
    known = f"{used.file} {table_id(table)}".strip() if table else "none"
    if resolution.kind == PROFILE:  # not a table that the files here could have
        known = f"{used.file} {PROFILE}"
    params[name(TABLE)] = known
    if used.error:
        params[name(ERROR)] = used.error
    if used.warning:
        params[name(NOTE)] = used.warning
    solver = resolution.solver
    params[name(SOLVER)] = get_solver(solver).label if table else plain_label(solver)
    params[name(MATCH)] = resolution.kind + (BETWEEN if resolution.between_cfgs else "")
    if options.table != AUTOMATIC:
        params[CHOICE] = NONE if options.table == NONE else wanted_id(options.table)
    if options.scale != 1:
        params[SCALE] = f"{options.scale:g}"
    if options.keep_schedule:
        params[KEEP] = "True"
