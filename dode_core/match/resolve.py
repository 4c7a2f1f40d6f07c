"""Which table serves this run: its exact grid, a slice of it, interpolation, or none.

Tables are indexed by sigmas, never by step number: image to image and start/end steps run parts of
a schedule, and equal schedule names do not mean equal sigmas.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ..errors import DodeError
from ..solve.noise import check_sigmas, same_sigmas
from ..solve.solvers import get_solver
from ..solve.stages import Row, Stage
from ..tables.table import LambdaTable
from .between_cfgs import SAME_CFG, between, cfg_note
from .lambdas import from_the_first, interpolated, natural, sliced

UNCALIBRATED_SOLVER = "dpmpp_2m"  # what a run without any table falls back to
# Interpolation reaches this far in step density. Measured on the demo model: from 8 steps, 6 and 10
# come out ahead of every uncalibrated fallback, 12 does not; tables with several columns, a gain or
# learned sigmas do not carry over to other grids at all.
STEP_RATIO_LIMIT = 1.4
UNKNOWN_CFG_DISTANCE = 1.0  # a table that does not say its cfg ranks with one that is 1 off
CARRIED = "carried over"
KINDS = ("exact", "slice", CARRIED, "interpolated", "uncalibrated")
# A run that starts lower than this part of the model's highest sigma is no run from pure noise.
FULL = {"ve": 0.7, "flow": 0.98}


@dataclass(frozen=True)
class Resolution:
    """What a run will use: stages with one row of lambdas each, and where they come from."""

    kind: str
    solver: str
    parametrization: str
    stages: list[Stage]
    lambdas: list[Row]
    table: LambdaTable | None
    message: str
    advice: str = ""  # what would serve, where a table of as many steps would not
    between_cfgs: bool = False  # lambdas of several tables, mixed for this run's cfg
    worth: str = ""  # how much closer it comes, measured or expected for just such a run
    cfg_note: str = ""  # that its table was made at another cfg, in words

    @property
    def said(self) -> str:
        """The message with what it is worth."""
        return ", ".join(filter(None, [self.message, self.worth]))


def resolve(
    tables: Sequence[LambdaTable],
    sigmas: Sequence[float],
    *,
    solver: str | None = None,
    cfg: float | None = None,
    parametrization: str = "ve",
    channels: int | None = None,
    highest: float | None = None,
) -> Resolution:
    """The best that ``tables`` offer for a run over ``sigmas``.

    Exact grids come first, then slices, then interpolation; among equals the nearest cfg and then
    the lowest held-out error; between two calibrated cfgs lambdas (and learned sigmas) are
    interpolated (:mod:`.between_cfgs`). A table with learned sigmas serves the grid that it was
    asked for exactly, and brings its own; for another full grid of as many steps, or where nobody
    knows what was asked for, it is "carried over": its sigmas replace the run's. A table whose look
    ahead has a mean of other than the latent's ``channels`` is for another model. Without a usable
    table the solver runs with Adams-Bashforth lambdas, and the message says what would serve;
    ``highest`` is the model's highest sigma, where known. Raises :class:`SigmasError` and, for an
    unknown solver or one that none of the tables has, :class:`DodeError`.
    """
    grid = check_sigmas(sigmas)
    _check_solver(solver, tables)
    usable = [
        table
        for table in tables
        if table.parametrization == parametrization
        and solver in (None, table.solver)
        and _has_channels(table, channels)
    ]
    ranked = sorted(
        ((rank, table) for table in usable if (rank := _rank(table, grid, cfg)) is not None),
        key=lambda pair: pair[0],
    )
    if len(grid) < 2 or not ranked:
        return _uncalibrated(tables, grid, solver, parametrization, highest)
    rank, table = ranked[0]
    kind = KINDS[int(rank[0])]
    used = _at_cfg(usable, table, cfg)
    stages, rows = _run(used, kind, grid)
    between_cfgs = used is not table
    message = f"{kind} table: {table.describe(worth=False)}" + _carried_note(table, kind, grid)
    message += f"; it was {other}" if (other := cfg_note(table.cfg, cfg)) else ""
    message += ", between the tables of two cfgs or three" if between_cfgs else ""
    how = table.solver, parametrization, stages, rows, table, message
    worth = table.worth if kind == "exact" and not other else ""
    return Resolution(
        kind, *how, between_cfgs=between_cfgs, worth=worth, cfg_note="" if between_cfgs else other
    )


def _run(table: LambdaTable, kind: str, grid: Sequence[float]) -> tuple[list[Stage], list[Row]]:
    """The stages of a run over ``grid`` with this table, and a row of lambdas for each."""
    if kind in ("exact", CARRIED) and brings_sigmas(table, grid):
        # The run's own ends, to the last bit: guiders look steps up by them.
        own = [grid[0], *table.sigmas.tolist()[1:-1], grid[-1]]
        stages = table.scheme.stages(own, table.look_ahead)
        return stages, [tuple(row) for row in table.lambdas.tolist()]
    ahead = table.look_ahead if from_the_first(table, grid) else None
    stages = table.scheme.stages(grid, ahead)
    return stages, interpolated(table, stages) if kind == "interpolated" else sliced(table, stages)


def _check_solver(solver: str | None, tables: Sequence[LambdaTable]) -> None:
    if solver is None:
        return
    get_solver(solver)
    if tables and all(table.solver != solver for table in tables):
        made = ", ".join(sorted({table.solver for table in tables}))
        raise DodeError(
            f"The table is for {made}, but {solver} was asked for; drop one of the two."
        )


def _rank(table: LambdaTable, grid: Sequence[float], cfg: float | None) -> tuple[float, ...] | None:
    """Sort key of a candidate, best first; None when it cannot serve."""
    own = table.sigmas.tolist()
    error = table.errors.distilled_holdout if table.errors else None
    quality = math.inf if error is None else error
    distance = 0.0
    if cfg is not None:
        distance = UNKNOWN_CFG_DISTANCE if table.cfg is None else abs(table.cfg - cfg)
    if same_sigmas(own, grid) or was_asked_for(table, grid):
        return 0, distance, quality
    if _offset(own, grid) is not None:
        return 1, distance, -table.steps, quality
    if brings_sigmas(table, grid):
        return 2, distance, quality
    if not table.paper or table.learned_sigmas:
        return None
    steps = _density(table, grid)
    if steps is None or not 1 / STEP_RATIO_LIMIT <= steps <= STEP_RATIO_LIMIT:
        return None
    return 3, abs(math.log(steps)), distance, quality


def brings_sigmas(table: LambdaTable, grid: Sequence[float]) -> bool:
    """Whether a full run of as many steps can take a learned table's sigmas instead of its own."""
    own = table.sigmas.tolist()
    ends = same_sigmas((own[0], own[-1]), (grid[0], grid[-1]))
    return table.learned_sigmas and len(own) == len(grid) and ends


def was_asked_for(table: LambdaTable, grid: Sequence[float]) -> bool:
    """Whether a table with learned sigmas was distilled for this very grid."""
    asked = table.asked_sigmas
    return asked is not None and brings_sigmas(table, grid) and same_sigmas(asked, grid)


def _offset(own: Sequence[float], grid: Sequence[float]) -> int | None:
    """Where ``grid`` lies in ``own`` as a contiguous part."""
    for i in range(len(own) - len(grid) + 1):
        if same_sigmas(own[i : i + len(grid)], grid):
            return i
    return None


def _density(table: LambdaTable, grid: Sequence[float]) -> float | None:
    """Steps of the run over steps of the table, in the range of sigmas that both cover."""
    own = table.sigmas.tolist()
    if len(grid) < 2 or (own[0] > own[-1]) != (grid[0] > grid[-1]):
        return None
    ranges = [sorted(sigma for sigma in sigmas if sigma > 0) for sigmas in (own, grid)]
    low, high = max(r[0] for r in ranges), min(r[-1] for r in ranges)
    if not low < high:
        return None

    def steps(sigmas: Sequence[float]) -> float:
        at = np.interp(np.log([low, high]), np.log(sigmas), np.arange(len(sigmas)))
        return float(at[1] - at[0])

    return steps(ranges[1]) / steps(ranges[0])


def _has_channels(table: LambdaTable, channels: int | None) -> bool:
    mean = table.look_ahead.mean if table.look_ahead else ()
    return not mean or channels is None or len(mean) == channels


def _uncalibrated(
    tables: Sequence[LambdaTable],
    grid: Sequence[float],
    solver: str | None,
    parametrization: str,
    highest: float | None,
) -> Resolution:
    name = solver or UNCALIBRATED_SOLVER
    stages = get_solver(name).stages(grid, parametrization)
    rows = [natural(stage) for stage in stages]
    why = "no table fits these sigmas" if tables else "no table found"
    known = [float(table.sigmas[0]) for table in tables if table.parametrization == parametrization]
    top = max([highest or 0.0, *known])
    advice = _advice(grid, top * FULL[parametrization])
    message = f"uncalibrated: {why}, {name} runs without one; "
    message += advice or f"distill a table for {len(grid) - 1} steps"
    return Resolution("uncalibrated", name, parametrization, stages, rows, None, message, advice)


def _advice(grid: Sequence[float], full: float) -> str:
    """What would serve a part of a schedule, which no table of as many steps does; else ""."""
    if len(grid) < 2:
        return "there is nothing to do at one sigma"
    whole = grid[0] >= full and grid[-1] == 0
    if grid[0] < grid[-1]:
        return f"it runs backwards, from sigma {grid[0]:.3g} up; distill on these sigmas"
    if whole:
        return ""
    part = f"starts at sigma {grid[0]:.3g}" if grid[0] < full else ""
    if grid[-1] > 0:
        part += (" and " if part else "") + f"ends at sigma {grid[-1]:.3g}"
    return (
        f'this run {part}: what serves it is a profile (method "any steps"), or a table of the '
        'whole schedule on its own noise levels (method "one lambda" or "columns")'
    )


def _carried_note(table: LambdaTable, kind: str, grid: Sequence[float]) -> str:
    if kind != CARRIED:
        return ""
    if table.asked_sigmas is None:
        return "; its file does not say for which schedule, its own noise levels replace this run's"
    return "; it was made for another schedule, its own noise levels replace this run's"


def _at_cfg(tables: Sequence[LambdaTable], table: LambdaTable, cfg: float | None) -> LambdaTable:
    """The table itself, or one interpolated between its relatives at other guidance scales."""
    if cfg is None or table.cfg is None or abs(table.cfg - cfg) < SAME_CFG:
        return table
    return between(tables, table, cfg) or table
