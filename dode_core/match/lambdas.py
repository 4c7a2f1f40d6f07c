"""The lambdas of a run whose stages are not the table's own: sliced, interpolated, or natural."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from ..solve.noise import same_sigmas
from ..solve.stages import Row, Stage
from ..tables.table import LambdaTable

_ROW_TOLERANCE = 1e-2  # relative; rows follow from sigmas that agree to SAME_SIGMA


def natural(stage: Stage) -> Row:
    """Lambdas where nothing is calibrated: Adams-Bashforth 2 on a first-order base, else 0."""
    scale = stage.b[0]
    newest = stage.c[0] == (scale, -scale)  # the direction that its lambda is of
    first = stage.adams_bashforth or 0.0 if newest else 0.0
    return (first,) + (0.0,) * (len(stage.c) - 1)


def _reaches_guess(k: int, row: Row) -> bool:
    """Whether a direction of stage k uses the output before the first."""
    return len(row) > k + 1


def _close(a: Row, b: Row) -> bool:
    scale = max((abs(v) for v in (*a, *b)), default=0.0)
    return len(a) == len(b) and all(
        abs(p - q) <= _ROW_TOLERANCE * scale for p, q in zip(a, b, strict=True)
    )


def sliced(table: LambdaTable, stages: Sequence[Stage]) -> list[Row]:
    """The table's own lambdas where this run's stages are the table's.

    A part that starts below the table's first sigma has less history at its start: stages whose
    rows differ for it, or that would use the noise guess, take what is natural without a table.
    """
    rows = []
    full = from_the_first(table, [stages[0].sigma])
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


def from_the_first(table: LambdaTable, grid: Sequence[float]) -> bool:
    """Whether a run starts where the table does: from pure noise."""
    return same_sigmas(grid[:1], table.sigmas[:1].tolist())


def _rows(stage: Stage) -> tuple[Row, ...]:
    return (stage.b, *stage.c)


def _same_stage(a: Stage, b: Stage) -> bool:
    ends_a = (a.sigma_start, a.sigma, a.sigma_next)
    ends_b = (b.sigma_start, b.sigma, b.sigma_next)
    return same_sigmas(ends_a, ends_b) and a.role == b.role


def interpolated(table: LambdaTable, stages: Sequence[Stage]) -> list[Row]:
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
