"""Where learning starts: families of grids, tried on a few samples with lambdas fitted on the way.

* Log-normal grids: the inner nodes are quantiles of a normal distribution in log sigma (in
  log(sigma / (1 - sigma)) for flow). Two numbers, found by a pattern search on real runs; published
  few-step grids have about this shape.
* Nodes chosen by dynamic programming on the teacher's own trajectory (arXiv 2405.11326).
* The given grid, and Karras grids with a raised end; for long runs of flow models a half cosine.

A start may look ahead (:class:`dode_core.solve.stages.LookAhead`); then it has one node more.
"""

from __future__ import annotations

import bisect
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import TYPE_CHECKING

from ..fit.trajectory import Trajectory, choose_nodes, dense_grid, euler_costs
from ..solve.noise import from_minus_log_snr, minus_log_snr
from ..solve.schedules import karras
from .student import Student

if TYPE_CHECKING:
    from ..tables.table import LambdaTable

COEFFICIENTS = (1.03, 1.1)  # of the dynamic programme: more nodes late above 1
RAISED_END = {"ve": 0.1, "flow": 0.08}  # lowest inner sigma of the extra Karras starts
LONG, LONG_END = 12, {"ve": 0.03, "flow": 0.03}  # steps beyond which one more goes further down
RAISED_RHO = (7.0, 10.0)
# (centre, spread) in minus log-SNR where the search begins, and its first and last step.
CENTRES = {"ve": ((0.3, 1.3), (1.0, 1.8)), "flow": ((-0.3, 1.3), (0.7, 1.3))}
FIRST_STEP, LAST_STEP = (0.4, 0.3), 0.2
MAX_TRIALS = 16
CLEARANCE = 0.95  # the second node stays this far below the first, the last this far above the end

Point = tuple[float, float]
_NORMAL = NormalDist()


@dataclass(frozen=True)
class Start:
    """Nodes to learn from: the grid, with the look-ahead sigma as the second where ``ahead``.

    ``rows`` are lambdas that are known already, from a profile or another table; without them they
    are fitted. ``mean`` is what its look ahead guesses; None: the session's own.
    """

    nodes: tuple[float, ...]
    ahead: bool = False
    rows: tuple[tuple[float, ...], ...] | None = None
    mean: tuple[float, ...] | None = None

    @classmethod
    def of(cls, table: LambdaTable) -> Start:
        """A table's nodes and lambdas."""
        rows = tuple(tuple(row) for row in table.lambdas.tolist())
        first, *others = table.sigmas.tolist()
        if table.look_ahead is None:
            return cls((first, *others), rows=rows)
        ahead = table.look_ahead
        return cls((first, ahead.sigma, *others), True, rows, tuple(ahead.mean))

    @classmethod
    def looking(cls, grid: Sequence[float], parametrization: str, at: float | None = None) -> Start:
        """The grid with a look ahead at ``at``, or halfway to its second node in minus log-SNR."""
        if at is None or not grid[1] < CLEARANCE * at < CLEARANCE**2 * grid[0]:
            line = [minus_log_snr(sigma, parametrization) for sigma in grid[:2]]
            at = from_minus_log_snr(sum(line) / 2, parametrization)
        return cls((grid[0], at, *grid[1:]), True)


def log_normal(
    steps: int, high: float, low: float, centre: float, spread: float, parametrization: str
) -> list[float] | None:
    """``high``, quantiles (i + 1/2) / steps of N(centre, spread^2) in minus log-SNR, 0.

    None where the nodes do not fit between ``high`` and ``low``.
    """
    normal = NormalDist(centre, spread)
    line = [normal.inv_cdf((i + 0.5) / steps) for i in reversed(range(steps - 1))]
    nodes = [from_minus_log_snr(u, parametrization) for u in line]
    if not nodes or nodes[0] > CLEARANCE * high or nodes[-1] * CLEARANCE < low:
        return None
    return [high, *nodes, 0.0]


def resampled(sigmas: Sequence[float], steps: int, parametrization: str) -> list[float] | None:
    """A learned grid at another number of steps.

    Its inner nodes are read as quantiles (i + 1/2) / n in minus log-SNR, as :func:`log_normal`
    places them, and interpolated linearly against the normal ones. None where that gives no grid.
    """
    n = len(sigmas) - 1
    if n < 3 or steps < 2 or sigmas[-1] != 0:
        return None
    scores = [_NORMAL.inv_cdf((i + 0.5) / n) for i in range(n - 1)]
    line = [minus_log_snr(sigma, parametrization) for sigma in reversed(sigmas[1:-1])]
    nodes = []
    for i in reversed(range(steps - 1)):
        z = _NORMAL.inv_cdf((i + 0.5) / steps)
        j = min(max(bisect.bisect(scores, z), 1), len(scores) - 1)
        slope = (line[j] - line[j - 1]) / (scores[j] - scores[j - 1])
        nodes.append(from_minus_log_snr(line[j] + slope * (z - scores[j]), parametrization))
    if nodes[0] > CLEARANCE * sigmas[0]:
        return None
    return [float(sigmas[0]), *nodes, 0.0]


def fixed_starts(
    student: Student, trajectories: Sequence[Trajectory], sigmas: Sequence[float], low: float
) -> Iterator[list[float]]:
    """Grids that need no search; ``low`` is the teacher's lowest sigma."""
    steps, kind = len(sigmas) - 1, student.parametrization
    if sigmas[-1] == 0 and steps > LONG:  # first, the budget of long runs tries few
        if low < LONG_END[kind] < sigmas[0]:
            yield karras(steps, LONG_END[kind], sigmas[0]).tolist()
        if kind == "flow":
            yield dense_grid(sigmas[0], low, kind, steps)
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


class Trials:
    """Starts that were tried, each once: the fitted student's typical error on a few samples.

    ``ahead`` runs the starts that look ahead; without it those are never chosen. At most
    ``budget`` runs, but the errors of what was tried before can be asked for at any time.
    """

    def __init__(self, plain: Student, ahead: Student | None, budget: float) -> None:
        self.plain, self.ahead, self.budget = plain, ahead, int(budget)
        self.errors: dict[Start, float] = {}

    @property
    def left(self) -> int:
        return max(0, self.budget - len(self.errors))

    def error(self, start: Start) -> float:
        student = self.ahead if start.ahead else self.plain
        if start not in self.errors and student is not None:
            self.errors[start] = student.typical_error(student.run(start.nodes))
        return self.errors.get(start, math.inf)

    def best(self, family: Sequence[Start]) -> list[Start]:
        """The best of as many as the budget lets be tried; none where that is none."""
        tried = family[: self.left]
        return [min(tried, key=self.error)] if tried else []

    def best_log_normal(self, sigmas: Sequence[float], low: float) -> list[Start]:
        """What a pattern search over centre and spread finds; for grids that end at 0."""
        steps, kind = len(sigmas) - 1, self.plain.parametrization

        def shape(point: Point) -> Start | None:
            if point[1] <= 0.1:
                return None
            grid = log_normal(steps, sigmas[0], low, *point, kind)
            if grid is None:
                return None
            return Start(tuple(grid)) if self.ahead is None else Start.looking(grid, kind)

        def value(point: Point) -> float:
            start = shape(point)
            return math.inf if start is None else self.error(start)

        trials = min(MAX_TRIALS, self.left)
        if sigmas[-1] != 0 or steps <= 2 or trials <= 1:
            return []
        found = pattern_search(value, CENTRES[kind], trials)
        start = None if found is None else shape(found)
        return [] if start is None else [start]


def rank_starts(
    plain: Student,
    ahead: Student | None,
    trajectories: Sequence[Trajectory],
    sigmas: Sequence[float],
    extra: Sequence[Start],
    low: float,
    budget: float,
) -> list[Start]:
    """Where to learn from, best first, by the fitted student's final error on a few samples.

    ``ahead`` runs the starts that look ahead; None leaves those out. ``extra`` are starts that the
    caller brings; ``budget`` is in runs of a student. The best of every family is in the list, the
    given grid always.
    """
    trials, given = Trials(plain, ahead, budget), Start(tuple(sigmas))
    brought = [given, *extra]
    if ahead is not None and len(sigmas) > 2:
        kind = plain.parametrization
        brought += [Start.looking(s.nodes, kind) for s in extra if not s.ahead]
    fixed = [Start(tuple(grid)) for grid in fixed_starts(plain, trajectories, sigmas, low)]
    kept = trials.best(brought) + trials.best(fixed) + trials.best_log_normal(sigmas, low)
    ranked = sorted(kept, key=trials.error) or [given]
    return ranked if given in ranked else [*ranked, given]
