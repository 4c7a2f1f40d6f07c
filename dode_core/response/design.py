"""Designing a run: many grids by greedy rows and by built-in ones, the best of them by
Levenberg-Marquardt.
"""

from __future__ import annotations

from collections.abc import Sequence
from statistics import NormalDist

import numpy as np

from .model import Array, Response
from .optimise import ROUNDS, Moves, blank, greedy, optimise, predicted
from .simulate import Plan, Simulation, with_expected
from .usual import plain_plans, usual_grids

KEPT = 3  # starts with greedy rows that are optimised
PLAIN = 2  # starts with built-in rows, of partial and long runs
# Beyond LONG steps one greedy start has so many rounds; built-in ones have TRIAL_ROUNDS, and the
# better of them goes on.
LONG, LONG_ROUNDS, TRIAL_ROUNDS = 12, 8, 4
CLEARLY = 0.5  # of the product of both beliefs: where it is less, that one (docs/benchmarks.md)
CENTRES = {"ve": (-0.6, 0.0, 0.5, 1.0), "flow": (-0.6, 0.0, 0.6, 1.2)}
SPREADS = {"ve": (1.2, 1.6, 2.0, 2.5), "flow": (1.2, 1.7, 2.2)}
POWERS = (0.7, 0.85, 1.0, 1.2)  # of partial runs' nodes on the line
DEPTHS = (1.2, 2.0, 3.0, 4.0)  # how far below the start their last node lies, on the line
TOP = {True: 0.8, False: 0.97}  # the highest inner node against the look ahead, or the start


class Designer:
    """Finds plans for a response; ``low`` is the teacher's lowest sigma.

    They are made with what is hoped of it and chosen by what is expected: what a plan was made for
    it seems to do well.
    """

    def __init__(self, response: Response, weight: float = 0.0) -> None:
        self.response, self.weight = response, weight
        self.parametrization = response.parametrization
        self.simulation, self.judge = Simulation(response.hoped()), Simulation(response)
        self.low = float(response.knots[-1]) * 1.02
        self.high = float(response.knots[0])

    def own(self, steps: int, start: float | None = None, ahead: float | None = None) -> Plan:
        """A plan of ``steps`` evaluations on sigmas of its own, from ``start`` or pure noise.

        From KEPT grids with greedy rows; partial and long runs from built-in rows on usual grids as
        well. Whole runs of up to LONG steps were no nearer with them (docs/benchmarks.md).
        """
        moves, first = Moves(self.parametrization, self.low), start or self.high
        greedily = self._greedily(self._grids(steps, first, ahead), ahead)
        if steps == 1:
            return with_expected(greedily[0], self.predict(greedily[0]))
        plans, built_in = _apart(greedily, KEPT if steps <= LONG else 1, moves), []
        if steps > LONG or self._is_part(first):
            built_in = self._plain(usual_grids(first, self.low, steps, self.parametrization))
        if steps <= LONG:
            return self._optimised([*plans, *built_in], moves)
        found = self._optimised(plans, moves, LONG_ROUNDS)
        if not built_in:
            return found
        other = self._optimised(built_in, moves, TRIAL_ROUNDS)
        if self._both(other) > CLEARLY * self._both(found):
            return found
        return self._optimised([other], moves, LONG_ROUNDS - TRIAL_ROUNDS)

    def next(self, steps: int, ahead: float | None, known: Sequence[Plan] = ()) -> Plan:
        """What a calibration observes next: from the best grid with greedy rows, and from ``known``
        plans of as many steps.
        """
        moves = Moves(self.parametrization, self.low)
        grids = [*(plan.sigmas for plan in known), *self._grids(steps, self.high, ahead)]
        return self._optimised([*self._greedily(grids, ahead)[:1], *known], moves)

    def _greedily(self, grids: Sequence[Sequence[float]], ahead: float | None) -> list[Plan]:
        """Greedy rows on these grids, those of least expected error first."""
        plans = greedy(self.simulation, [blank(grid, ahead) for grid in grids])
        return sorted(plans, key=lambda plan: plan.expected)

    def _plain(self, grids: Sequence[Sequence[float]]) -> list[Plan]:
        """Built-in rows on these grids, those of least expected error."""
        plans = plain_plans(grids, self.parametrization)
        if not plans:
            return []
        errors = predicted(self.simulation, plans).tolist()
        plans = [with_expected(p, e) for p, e in zip(plans, errors, strict=True)]
        return sorted(plans, key=lambda plan: plan.expected)[:PLAIN]

    def _optimised(self, plans: Sequence[Plan], moves: Moves, rounds: int = ROUNDS) -> Plan:
        """The best plan that is reached from these, by the product of what is hoped and expected:
        the latter alone prefers plans that are cautious, and ended further off (flow, cfg 3, 8).
        """
        found = [optimise(self.simulation, plan, moves, self.weight, rounds) for plan in plans]
        best = min(found, key=self._both)
        return with_expected(best, self.predict(best))

    def _both(self, plan: Plan) -> float:
        """The product of what is hoped and expected of a plan."""
        return self.predict(plan) * float(predicted(self.simulation, [plan])[0])

    def given(self, sigmas: Sequence[float]) -> Plan:
        """Rows for a grid that is given."""
        moves = Moves(self.parametrization, self.low, sigmas=False)
        return self._optimised(greedy(self.simulation, [blank(sigmas)]), moves)

    def predict(self, plan: Plan) -> float:
        """The predicted RMS of the final error."""
        return float(predicted(self.judge, [plan])[0])

    def _is_part(self, first: float) -> bool:
        """Whether a run from there begins with an image in its noise."""
        return first < 0.9 * self.high

    def _grids(self, steps: int, first: float, ahead: float | None) -> list[tuple[float, ...]]:
        moves = Moves(self.parametrization, self.low)
        limit = (ahead or first) * TOP[ahead is not None]
        top, bottom = (float(moves.line(np.array(v))) for v in (limit, self.low))
        if self._is_part(first):
            lines = _partial(steps - 1, top, bottom)
        else:
            kind = self.parametrization
            lines = [
                mu + sd * _quantiles(steps - 1) for mu in CENTRES[kind] for sd in SPREADS[kind]
            ]
        return [(first, *moves.sigma(_spread(v, top, bottom)).tolist(), 0.0) for v in lines]


def _quantiles(n: int) -> Array:
    """Normal quantiles, falling."""
    return np.array([-NormalDist().inv_cdf((i + 0.5) / n) for i in range(n)])


def _partial(n: int, top: float, bottom: float) -> list[Array]:
    t = (np.arange(n) + 0.6) / n
    depths = [min(d, top - bottom) for d in DEPTHS]
    return [top + 0.1 - d * t**p for d in depths for p in POWERS]


def _spread(line: Array, top: float, bottom: float) -> Array:
    """Nodes within the bounds and apart: falling, none on another."""
    n = len(line)
    if not n:
        return line
    least = min(0.08, 0.5 * (top - bottom) / n)
    out = np.minimum(line, top - least * np.arange(n))
    for i in range(1, n):
        out[i] = min(out[i], out[i - 1] - least)
    floor = bottom + least * np.arange(n)[::-1]
    return np.maximum(out, floor)


def _apart(plans: Sequence[Plan], count: int, moves: Moves) -> list[Plan]:
    """The first plans whose grids differ."""
    found: list[Plan] = []
    for plan in plans:
        line = moves.line(np.array(plan.sigmas[1:-1]))
        gaps = [
            np.abs(line - moves.line(np.array(p.sigmas[1:-1]))).mean() for p in found if line.size
        ]
        if all(gap > 0.15 for gap in gaps) and (line.size or not found):
            found.append(plan)
        if len(found) == count:
            break
    return found
