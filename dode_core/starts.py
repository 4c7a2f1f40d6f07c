"""Where learning starts: families of grids, tried on a few samples with lambdas fitted on the way.

* Log-normal grids: the inner nodes are quantiles of a normal distribution in log sigma (in
  log(sigma / (1 - sigma)) for flow). Two numbers, found by a pattern search on real runs; published
  few-step grids have about this shape.
* Nodes chosen by dynamic programming on the teacher's own trajectory (arXiv 2405.11326).
* The given grid, and Karras grids with a raised end.
"""

from __future__ import annotations

import bisect
import math
from collections.abc import Callable, Iterator, Sequence
from statistics import NormalDist

from .dense import Trajectory, choose_nodes, euler_costs
from .noise import from_line, to_line
from .schedules import karras
from .student import Student

COEFFICIENTS = (1.03, 1.1)  # of the dynamic programme: more nodes late above 1
RAISED_END = {"ve": 0.1, "flow": 0.08}  # lowest inner sigma of the extra Karras starts
RAISED_RHO = (7.0, 10.0)
# (centre, spread) on the line where the search begins, and its first and last step.
CENTRES = {"ve": ((0.3, 1.3), (1.0, 1.8)), "flow": ((-0.3, 1.3), (0.7, 1.3))}
FIRST_STEP, LAST_STEP = (0.4, 0.3), 0.2
MAX_TRIALS = 16
CLEARANCE = 0.95  # the second node stays this far below the first, the last this far above the end

Point = tuple[float, float]
_NORMAL = NormalDist()


def log_normal(
    steps: int, high: float, low: float, centre: float, spread: float, parametrization: str
) -> list[float] | None:
    """``high``, quantiles (i + 1/2) / steps of N(centre, spread^2) on the line, 0.

    None where the nodes do not fit between ``high`` and ``low``.
    """
    normal = NormalDist(centre, spread)
    line = [normal.inv_cdf((i + 0.5) / steps) for i in reversed(range(steps - 1))]
    nodes = [from_line(u, parametrization) for u in line]
    if not nodes or nodes[0] > CLEARANCE * high or nodes[-1] * CLEARANCE < low:
        return None
    return [high, *nodes, 0.0]


def resampled(sigmas: Sequence[float], steps: int, parametrization: str) -> list[float] | None:
    """A learned grid at another number of steps.

    Its inner nodes are read as quantiles (i + 1/2) / n on the line, as :func:`log_normal` places
    them, and interpolated linearly against the normal ones. None where that gives no grid.
    """
    n = len(sigmas) - 1
    if n < 3 or steps < 2 or sigmas[-1] != 0:
        return None
    scores = [_NORMAL.inv_cdf((i + 0.5) / n) for i in range(n - 1)]
    line = [to_line(sigma, parametrization) for sigma in reversed(sigmas[1:-1])]
    nodes = []
    for i in reversed(range(steps - 1)):
        z = _NORMAL.inv_cdf((i + 0.5) / steps)
        j = min(max(bisect.bisect(scores, z), 1), len(scores) - 1)
        slope = (line[j] - line[j - 1]) / (scores[j] - scores[j - 1])
        nodes.append(from_line(line[j] + slope * (z - scores[j]), parametrization))
    if nodes[0] > CLEARANCE * sigmas[0]:
        return None
    return [float(sigmas[0]), *nodes, 0.0]


def fixed_starts(
    student: Student, trajectories: Sequence[Trajectory], sigmas: Sequence[float], low: float
) -> Iterator[list[float]]:
    """Grids that need no search; ``low`` is the teacher's lowest sigma."""
    steps, kind = len(sigmas) - 1, student.parametrization
    if sigmas[-1] == 0 and steps > 2 and low < RAISED_END[kind] < sigmas[0]:
        for rho in RAISED_RHO:
            yield karras(steps, RAISED_END[kind], sigmas[0], rho).tolist()
    knots = [*trajectories[0].sigmas, trajectories[0].end]
    if 1 < steps < len(knots) - 1:
        costs = euler_costs(trajectories)
        for coefficient in COEFFICIENTS:
            yield choose_nodes(knots, costs, steps, coefficient)


def pattern_search(
    value: Callable[[Point], float], points: Sequence[Point], trials: int
) -> Point | None:
    """The least of a function of two numbers: compass search, halving its step, at most ``trials``
    calls. None when no point has a finite value.
    """
    known: dict[Point, float] = {}

    def at(point: Point) -> float:
        key = round(point[0], 4), round(point[1], 4)
        if key not in known:
            known[key] = value(point) if len(known) < trials else math.inf
        return known[key]

    best = min(points, key=at)
    step = FIRST_STEP
    while len(known) < trials and step[0] >= LAST_STEP:
        a, b = step
        around = [(best[0] + da, best[1] + db) for da, db in ((a, 0), (-a, 0), (0, b), (0, -b))]
        found = min(around, key=at)
        if at(found) < at(best):
            best = found
        else:
            step = a / 2, b / 2
    return best if at(best) < math.inf else None


def rank_starts(
    student: Student,
    trajectories: Sequence[Trajectory],
    sigmas: Sequence[float],
    extra: Sequence[Sequence[float]],
    low: float,
    budget: float,
) -> list[list[float]]:
    """Grids to learn from, best first, by the fitted student's final error on a few samples.

    ``extra`` are grids that the user brings; ``budget`` is in runs of the student. The best of
    every family is in the list, the given grid always.
    """
    errors: dict[tuple[float, ...], float] = {}

    def error(grid: Sequence[float]) -> float:
        key = tuple(grid)
        if key not in errors:
            errors[key] = student.robust_error(student.run(grid))
        return errors[key]

    families = [
        [list(sigmas), *map(list, extra)],
        list(fixed_starts(student, trajectories, sigmas, low)),
    ]
    kept = []
    for family in families:
        family = family[: max(0, int(budget) - len(errors))]
        if family:
            kept.append(min(family, key=error))
    kind, steps = student.parametrization, len(sigmas) - 1

    def shape(point: Point) -> list[float] | None:
        return log_normal(steps, sigmas[0], low, *point, kind) if point[1] > 0.1 else None

    def value(point: Point) -> float:
        grid = shape(point)
        return math.inf if grid is None else error(grid)

    trials = min(MAX_TRIALS, int(budget) - len(errors))
    if sigmas[-1] == 0 and steps > 2 and trials > 1:
        found = pattern_search(value, CENTRES[kind], trials)
        if found is not None and (grid := shape(found)) is not None:
            kept.append(grid)
    if not kept:
        return [list(sigmas)]
    ranked = sorted(kept, key=error)
    return ranked if list(sigmas) in ranked else [*ranked, list(sigmas)]
