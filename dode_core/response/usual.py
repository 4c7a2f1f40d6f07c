"""What people run: the grids that a careful user tries, and built-in rows on them as plans.

Rows of two or three past outputs, which a plan has exactly: DEIS (Zhang and Chen 2023,
arXiv 2204.13902) and Adams-Bashforth of order 3, which iPNDM has but for its fourth order.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from ..solve.noise import from_minus_log_snr, minus_log_snr
from ..solve.schedules import exponential, karras
from ..solve.scheme import Scheme
from ..solve.solvers import ADAMS_BASHFORTH
from .model import Array
from .simulate import HISTORY, Plan

RAISED = (1.0, 15.0, 50.0)  # the last inner sigma against the lowest of the range
MARGIN = 1.0  # of the even sigma to the ends of the range, in log sigma (logit for flow models)


def even_sigma(kind: str, high: float, low: float) -> float:
    """Where image to image begins, about: signal and noise are even, sigma 1 or 0.5 of flow models.

    The middle of the range (of log-SNR) where it does not hold that, or only just.
    """
    top, bottom = minus_log_snr(high, kind), minus_log_snr(low, kind)
    inside = bottom + MARGIN < 0 < top - MARGIN
    return from_minus_log_snr(0.0 if inside else (top + bottom) / 2, kind)


def usual_grids(first: float, low: float, steps: int, kind: str) -> list[list[float]]:
    """Grids of so many steps from ``first`` down to 0; ``low`` is the lowest sigma of the range.

    Only those that stay in it: none where ``first`` is next to ``low``.
    """
    if steps < 2:
        return [[first, 0.0]]
    grids = _ve_grids(first, low, steps) if kind == "ve" else _flow_grids(first, low, steps)
    return [grid for grid in grids if grid[0] > grid[1] and grid[-2] >= low * (1 - 1e-6)]


def _ve_grids(first: float, low: float, steps: int) -> list[list[float]]:
    lows = [low * r for r in RAISED if low * r < 0.3 * first]
    grids = [karras(steps, each, first) for each in lows]
    grids += [exponential(steps, each, first) for each in lows]
    return [[first, *grid[1:].tolist()] for grid in grids]  # the first to its last bit


def _flow_grids(first: float, low: float, steps: int) -> list[list[float]]:
    top, bottom = (minus_log_snr(v, "flow") for v in (first, max(low, 0.01)))
    places = [top + (bottom - top) * i / (steps - 1) for i in range(1, steps)]
    grids = [[first, *[from_minus_log_snr(place, "flow") for place in places], 0.0]]
    grids.append([first * (1 - i / steps) for i in range(steps + 1)])
    begin = math.acos(2 * min(first, 1.0) - 1)  # a half cosine: the beta schedule's shape
    angles = [begin + (math.pi - begin) * i / steps for i in range(1, steps)]
    return [*grids, [first, *[(1 + math.cos(angle)) / 2 for angle in angles], 0.0]]


def plain_plans(grids: Sequence[Sequence[float]], kind: str) -> list[Plan]:
    """DEIS's and Adams-Bashforth's rows on every grid."""
    rows = (_deis, _adams_bashforth)
    return [Plan(tuple(grid), each(grid, kind)) for grid in grids for each in rows]


def _deis(grid: Sequence[float], kind: str) -> Array:
    rows = np.zeros((len(grid) - 1, HISTORY))
    for k, stage in enumerate(Scheme("deis", kind).plain(grid)):
        rows[k, : len(stage.b)] = np.array(stage.b) / (grid[k + 1] - grid[k])
    return rows


def _adams_bashforth(grid: Sequence[float], kind: str) -> Array:
    rows = np.zeros((len(grid) - 1, HISTORY))
    for k, to in enumerate(grid[1:]):
        row = ADAMS_BASHFORTH[min(k, HISTORY - 1) if to > 0 else 0]
        rows[k, : len(row)] = row
    return rows
