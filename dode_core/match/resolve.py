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
from ..solve.solvers import Row, Stage, get_solver
from ..tables.table import LambdaTable
from .between_cfgs import SAME_CFG, between

UNCALIBRATED_SOLVER = "dpmpp_2m"  # what a run without any table falls back to
# Interpolation reaches this far in step density. Measured on the demo model: from 8 steps, 6 and 10
# come out ahead of every uncalibrated fallback, 12 does not; tables with several columns, a gain or
# learned sigmas do not carry over to other grids at all.
STEP_RATIO_LIMIT = 1.4
_ROW_TOLERANCE = 1e-2  # relative; rows follow from sigmas that agree to SAME_SIGMA
UNKNOWN_CFG_DISTANCE = 1.0  # a table that does not say its cfg ranks with one that is 1 off
KINDS = ("exact", "slice", "interpolated", "uncalibrated")


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


def resolve(
    tables: Sequence[LambdaTable],
    sigmas: Sequence[float],
    *,
    solver: str | None = None,
    cfg: float | None = None,
    parametrization: str = "ve",
    channels: int | None = None,
) -> Resolution:
    """The best that ``tables`` offer for a run over ``sigmas``.

    Exact grids come first, then slices, then interpolation; among equals the nearest cfg and then
    the lowest held-out error; between two calibrated cfgs lambdas (and learned sigmas) are
    interpolated (:mod:`.between_cfgs`). A table with learned sigmas serves every full run of its
    step count and brings them along: that counts as exact. A table whose look ahead has a mean of
    other than the latent's ``channels`` is for another model. Without a usable table the solver
    runs with Adams-Bashforth lambdas. Raises :class:`SigmasError` and, for an unknown solver or one
    that none of the tables has, :class:`DodeError`.
    """
    grid = check_sigmas(sigmas)
    if solver is not None:
        get_solver(solver)
        if tables and all(table.solver != solver for table in tables):
            made = ", ".join(sorted({table.solver for table in tables}))
            raise DodeError(
                f"The table is for {made}, but {solver} was asked for; drop one of the two."
            )
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
        return _uncalibrated(tables, grid, solver, parametrization)
    rank, table = ranked[0]
    kind = KINDS[int(rank[0])]
    used = _at_cfg(usable, table, cfg)
    if kind == "exact" and brings_sigmas(used, grid):
        stages, rows = used.stages, [tuple(row) for row in used.lambdas.tolist()]
    else:
        stages = get_solver(used.solver).stages(
            grid,
            parametrization,
            columns=used.columns,
            gain=used.gain,
            look_ahead=used.look_ahead if _from_the_first(used, grid) else None,
        )
        rows = _interpolated(used, stages) if kind == "interpolated" else _sliced(used, stages)
    message = f"{kind} table: {table.describe()}" + _cfg_note(table, cfg)
    message += "" if used is table else ", between the tables of two cfgs or three"
    return Resolution(kind, table.solver, parametrization, stages, rows, table, message)


def _rank(table: LambdaTable, grid: Sequence[float], cfg: float | None) -> tuple[float, ...] | None:
    """Sort key of a candidate, best first; None when it cannot serve."""
    own = table.sigmas.tolist()
    error = table.errors.distilled_holdout if table.errors else None
    quality = math.inf if error is None else error
    distance = 0.0
    if cfg is not None:
        distance = UNKNOWN_CFG_DISTANCE if table.cfg is None else abs(table.cfg - cfg)
    if same_sigmas(own, grid) or brings_sigmas(table, grid):
        return 0, distance, quality
    if _offset(own, grid) is not None:
        return 1, distance, -table.steps, quality
    if table.columns > 1 or table.gain or table.learned_sigmas:
        return None
    steps = _density(table, grid)
    if steps is None or not 1 / STEP_RATIO_LIMIT <= steps <= STEP_RATIO_LIMIT:
        return None
    return 2, abs(math.log(steps)), distance, quality


def brings_sigmas(table: LambdaTable, grid: Sequence[float]) -> bool:
    """Whether a full run of as many steps can take a learned table's sigmas instead of its own."""
    own = table.sigmas.tolist()
    ends = same_sigmas((own[0], own[-1]), (grid[0], grid[-1]))
    return table.learned_sigmas and len(own) == len(grid) and ends


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


def natural(stage: Stage) -> Row:
    """Lambdas where nothing is calibrated: Adams-Bashforth 2 on a first-order base, else 0."""
    return (stage.adams_bashforth or 0.0,) + (0.0,) * (len(stage.c) - 1)


def _reaches_guess(k: int, row: Row) -> bool:
    """Whether a direction of stage k uses the output before the first."""
    return len(row) > k + 1


def _close(a: Row, b: Row) -> bool:
    scale = max((abs(v) for v in (*a, *b)), default=0.0)
    return len(a) == len(b) and all(
        abs(p - q) <= _ROW_TOLERANCE * scale for p, q in zip(a, b, strict=True)
    )


def _sliced(table: LambdaTable, stages: Sequence[Stage]) -> list[Row]:
    """The table's own lambdas where this run's stages are the table's.

    A part that starts below the table's first sigma has less history at its start: stages whose
    rows differ for it, or that would use the noise guess, take what is natural without a table.
    """
    rows = []
    full = _from_the_first(table, [stages[0].sigma])
    found = 0
    for k, stage in enumerate(stages):
        while found < len(table.stages) and not _same_stage(table.stages[found], stage):
            found += 1
        short = not full and any(_reaches_guess(k, row) for row in stage.c)
        if found == len(table.stages):  # another grouping (DPM-Solver): start the search again
            found = 0
            rows.append(natural(stage))
        elif short or not all(map(_close, (stage.b, *stage.c), _rows(table.stages[found]))):
            rows.append(natural(stage))
        else:
            rows.append(tuple(table.lambdas[found].tolist()))
    return rows


def _from_the_first(table: LambdaTable, grid: Sequence[float]) -> bool:
    """Whether a run starts where the table does: from pure noise."""
    return same_sigmas(grid[:1], table.sigmas[:1].tolist())


def _has_channels(table: LambdaTable, channels: int | None) -> bool:
    mean = table.look_ahead.mean if table.look_ahead else ()
    return not mean or channels is None or len(mean) == channels


def _rows(stage: Stage) -> tuple[Row, ...]:
    return (stage.b, *stage.c)


def _same_stage(a: Stage, b: Stage) -> bool:
    ends_a = (a.sigma_start, a.sigma, a.sigma_next)
    ends_b = (b.sigma_start, b.sigma, b.sigma_next)
    return same_sigmas(ends_a, ends_b) and a.role == b.role


def _interpolated(table: LambdaTable, stages: Sequence[Stage]) -> list[Row]:
    """Lambda relative to its Adams-Bashforth value, interpolated in log sigma, role by role.

    The first stage keeps its lambda only where both runs start from the same noise level, the last
    only where both end at 0 from about the same sigma; elsewhere they mean something else.
    """
    first, last = table.stages[0], table.stages[-1]
    rows = []
    for k, stage in enumerate(stages):
        if k == 0:
            same = abs(stage.sigma / first.sigma - 1) < 0.05 and len(stage.c) == len(first.c)
            rows.append(tuple(table.lambdas[0].tolist()) if same else natural(stage))
        elif stage.sigma_next == 0:
            same = last.sigma_next == 0 and abs(math.log(stage.sigma / last.sigma)) < 0.25
            rows.append(tuple(table.lambdas[-1].tolist()) if same else natural(stage))
        else:
            rows.append(_interpolate_row(table, stage))
    return rows


def _interpolate_row(table: LambdaTable, stage: Stage) -> Row:
    known = [
        (math.log(other.sigma), row if not other.adams_bashforth else row / other.adams_bashforth)
        for other, row in zip(table.stages[1:], table.lambdas.numpy()[1:], strict=True)
        if other.role == stage.role
        and other.sigma_next > 0
        and (other.adams_bashforth is None or other.adams_bashforth != 0)
    ]
    if not known or any(not row for row in stage.c):
        return natural(stage)
    known.sort(key=lambda pair: pair[0])
    at = [log for log, _ in known]
    unit = 1.0 if stage.adams_bashforth is None else stage.adams_bashforth
    columns = np.array([row for _, row in known]).T
    log = math.log(stage.sigma)
    return tuple(unit * float(np.interp(log, at, column)) for column in columns)


def _uncalibrated(
    tables: Sequence[LambdaTable],
    grid: Sequence[float],
    solver: str | None,
    parametrization: str,
) -> Resolution:
    name = solver or UNCALIBRATED_SOLVER
    stages = get_solver(name).stages(grid, parametrization)
    rows = [natural(stage) for stage in stages]
    why = "no table fits these sigmas" if tables else "no table found"
    message = (
        f"uncalibrated: {why}, {name} runs without one; distil a table for {len(grid) - 1} steps"
    )
    return Resolution("uncalibrated", name, parametrization, stages, rows, None, message)


def _at_cfg(tables: Sequence[LambdaTable], table: LambdaTable, cfg: float | None) -> LambdaTable:
    """The table itself, or one interpolated between its relatives at other guidance scales."""
    if cfg is None or table.cfg is None or abs(table.cfg - cfg) < SAME_CFG:
        return table
    return between(tables, table, cfg) or table


def _cfg_note(table: LambdaTable, cfg: float | None) -> str:
    if cfg is None or table.cfg is None or abs(table.cfg - cfg) < SAME_CFG:
        return ""
    return f"; it was made at cfg {table.cfg:g}, this run uses {cfg:g}"
