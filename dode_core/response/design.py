"""Designing a run: many grids by greedy rows, the best of them by Levenberg-Marquardt."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import NormalDist

import numpy as np

from .model import Array, Response
from .optimise import ROUNDS, Moves, blank, greedy, optimise, predicted
from .simulate import Plan, Simulation

KEPT = 3  # starts that are optimised
LONG, LONG_ROUNDS = 12, 8  # beyond so many steps one start is, for so many rounds
CENTRES = {"ve": (-0.6, 0.0, 0.5, 1.0), "flow": (-0.6, 0.0, 0.6, 1.2)}
SPREADS = {"ve": (1.2, 1.6, 2.0, 2.5), "flow": (1.2, 1.7, 2.2)}
POWERS = (0.7, 0.85, 1.0, 1.2)  # of partial runs' nodes on the line
DEPTHS = (1.2, 2.0, 3.0, 4.0)  # how far below the start their last node lies, on the line
TOP = {True: 0.8, False: 0.97}  # the highest inner node against the look ahead, or the start


class Designer:
    """Finds plans for a response; ``low`` is the teacher's lowest sigma."""

    def __init__(self, response: Response, weight: float = 0.0) -> None:
        self.response, self.weight = response, weight
        self.parametrization = response.parametrization
        self.simulation = Simulation(response)
        self.low = float(response.knots[-1]) * 1.02
        self.high = float(response.knots[0])

    def own(
        self,
        steps: int,
        start: float | None = None,
        ahead: float | None = None,
        known: Sequence[Plan] = (),
        kept: int = KEPT,
    ) -> Plan:
        """A plan of ``steps`` evaluations on sigmas of its own, from ``start`` or pure noise."""
        moves = Moves(self.parametrization, self.low)
        first = self.high if start is None else start
        grids = [plan.sigmas for plan in known if plan.stages == steps]
        grids += self._grids(steps, first, ahead)
        plans = greedy(self.simulation, [blank(grid, ahead) for grid in grids])
        plans = sorted(plans, key=lambda plan: plan.expected)
        plans = _apart(plans, kept if steps <= LONG else 1, moves) + [
            p for p in known if p.stages == steps
        ]
        if steps == 1:
            return plans[0]
        rounds = ROUNDS if steps <= LONG else LONG_ROUNDS
        found = [optimise(self.simulation, plan, moves, self.weight, rounds) for plan in plans]
        return min(found, key=lambda plan: plan.expected)

    def given(self, sigmas: Sequence[float], known: Sequence[Plan] = ()) -> Plan:
        """Rows for a grid that is given."""
        moves = Moves(self.parametrization, self.low, sigmas=False)
        plans = greedy(self.simulation, [blank(sigmas)])
        plans += [p for p in known if np.allclose(p.sigmas, sigmas, rtol=1e-6)]
        found = [optimise(self.simulation, plan, moves, self.weight) for plan in plans]
        return min(found, key=lambda plan: plan.expected)

    def predict(self, plan: Plan) -> float:
        """The predicted RMS of the final error."""
        return float(predicted(self.simulation, [plan])[0])

    def _grids(self, steps: int, first: float, ahead: float | None) -> list[tuple[float, ...]]:
        moves = Moves(self.parametrization, self.low)
        limit = (ahead or first) * TOP[ahead is not None]
        top, bottom = (float(moves.line(np.array(v))) for v in (limit, self.low))
        if first < 0.9 * self.high:
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
