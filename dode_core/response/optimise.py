"""The best plan for a run by its simulated final error: starts, then Levenberg-Marquardt.

Jacobians by forward differences of one batched simulation: every parameter is a candidate.
Marquardt 1963; sigmas move on the line (log sigma, or the logit for flow models), by at most
MAX_MOVE of the gap to a neighbour.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from .model import Array, line
from .simulate import HISTORY, Batch, Plan, Simulation, available

MAX_MOVE = 0.45
ROUNDS = 24
DAMPINGS = (0.1, 1.0, 10.0)  # of the last one that helped, tried together
LEAST_DAMPING, MOST_DAMPING = 1e-8, 1e4
STALLED = 0.998  # rounds in a row that lower the error by less end the search
DELTA = 1e-5
MOST_WEIGHT = 8.0  # of an output in a row: larger ones live off differences that are noise
PRIOR = 1e-7  # pulls rows to where they began, or the last digits of the error move them far


@dataclass
class Moves:
    """What may move: the inner sigmas, the look ahead, the rows; ``low`` and ``top`` bound them."""

    parametrization: str
    low: float
    sigmas: bool = True
    look: tuple[float, float] | None = None  # bounds of the look ahead, None: it stays

    def line(self, sigma: Array) -> Array:
        return line(sigma, self.parametrization)

    def sigma(self, line: Array) -> Array:
        return 1 / (1 + np.exp(-line)) if self.parametrization == "flow" else np.exp(line)


def optimise(
    simulation: Simulation, start: Plan, moves: Moves, weight: float = 0.0, rounds: int = ROUNDS
) -> Plan:
    """The plan that Levenberg-Marquardt finds from ``start``.

    ``weight`` is that of the states on the way against the final one.
    """
    simulation = Simulation(simulation.response, weight > 0)
    plan, damping, stalled = start, 1e-3, 0
    error = float((simulation.run(Batch.of([plan])).residuals(weight) ** 2).sum())
    for _ in range(rounds):
        gram, rhs = _normal_equations(simulation, plan, moves, weight)
        scale = np.sqrt(np.diagonal(gram) + 1e-300)
        gram = gram / scale[:, None] / scale
        dampings = np.clip([damping * d for d in DAMPINGS], LEAST_DAMPING, MOST_DAMPING)
        eye = np.eye(len(gram))
        steps = [np.linalg.solve(gram + (d + PRIOR) * eye, rhs / scale) / scale for d in dampings]
        tried = [_moved(plan, step, moves) for step in steps]
        results = simulation.run(Batch.of(tried)).residuals(weight)
        squares = np.where(np.isfinite(results).all(1), (results**2).sum(1), np.inf)
        best = int(np.argmin(squares))
        if squares[best] < error:
            stalled = stalled + 1 if squares[best] > STALLED**2 * error else 0
            error, plan = float(squares[best]), tried[best]
            damping = float(dampings[best])
        else:
            damping, stalled = float(dampings[-1]) * 10, stalled + 1
        if stalled >= 3 or damping > MOST_DAMPING:
            break
    return replace(plan, expected=float(predicted(simulation, [plan])[0]))


def predicted(simulation: Simulation, plans: Sequence[Plan]) -> Array:
    """Predicted RMS final errors of plans of one size."""
    return simulation.run(Batch.of(plans)).errors()


def greedy(simulation: Simulation, plans: Sequence[Plan], ridge: float = 1e-3) -> list[Plan]:
    """The same grids with rows by least squares to the teacher, stage by stage."""
    found = simulation.run(Batch.of(plans), fit=ridge)
    return [
        replace(plan, rows=rows, expected=float(error))
        for plan, rows, error in zip(plans, found.rows, found.errors(), strict=True)
    ]


def _places(plan: Plan) -> list[tuple[int, int]]:
    return [(k, j) for k in range(plan.stages) for j in range(available(k))]


def _normal_equations(
    simulation: Simulation, plan: Plan, moves: Moves, weight: float
) -> tuple[Array, Array]:
    """J J^T and -J r in the order of :func:`_moved`."""
    since, candidates = _perturbed(plan, moves)
    order = np.argsort(since, kind="stable")
    batch = Batch.of([plan, *[candidates[i] for i in order]])
    gram, rhs = simulation.normal_equations(batch, np.append(0, since[order]), DELTA, weight)
    back = np.argsort(order)
    return gram[np.ix_(back, back)], rhs[back]


def _perturbed(plan: Plan, moves: Moves) -> tuple[Array, list[Plan]]:
    """Plans with one parameter moved by DELTA, and the stage from where on each goes its way."""
    since: list[int] = []
    found: list[Plan] = []
    nodes = moves.line(np.array(plan.sigmas[1:-1]))
    if moves.sigmas:
        for j in range(len(nodes)):
            line = nodes.copy()
            line[j] += DELTA
            since.append(j)
            found.append(_with_nodes(plan, moves.sigma(line)))
    if moves.look is not None and plan.ahead is not None:
        since.append(0)
        found.append(
            replace(plan, ahead=float(moves.sigma(moves.line(np.array(plan.ahead)) + DELTA)))
        )
    for k, j in _places(plan):
        rows = plan.rows.copy()
        rows[k, j] += DELTA
        since.append(k)
        found.append(replace(plan, rows=rows))
    return np.array(since), found


def _moved(plan: Plan, step: Array, moves: Moves) -> Plan:
    taken = 0
    if moves.sigmas:
        line = moves.line(np.array(plan.sigmas[:-1]))
        top = line[0]
        if plan.ahead is not None:
            top = float(moves.line(np.array(plan.ahead)))
        full = np.concatenate([[top], line[1:], [line[-1] - 1.5]])
        gaps = np.minimum(full[:-2] - full[1:-1], full[1:-1] - full[2:])
        taken = len(gaps)
        inner = full[1:-1] + np.clip(step[:taken], -MAX_MOVE * gaps, MAX_MOVE * gaps)
        low = np.minimum(np.array(plan.sigmas[1:-1]), moves.low)
        plan = _with_nodes(plan, np.maximum(moves.sigma(inner), low))
    if moves.look is not None and plan.ahead is not None:
        line = float(moves.line(np.array(plan.ahead))) + float(np.clip(step[taken], -0.1, 0.1))
        taken += 1
        ahead = float(np.clip(moves.sigma(np.array(line)), *moves.look))
        if ahead > plan.sigmas[1] * 1.02:
            plan = replace(plan, ahead=ahead)
    rows = plan.rows.copy()
    for value, (k, j) in zip(step[taken:], _places(plan), strict=True):
        rows[k, j] = np.clip(rows[k, j] + value, -MOST_WEIGHT, MOST_WEIGHT)
    return replace(plan, rows=rows)


def _with_nodes(plan: Plan, inner: Array) -> Plan:
    return replace(plan, sigmas=(plan.sigmas[0], *inner.tolist(), plan.sigmas[-1]))


def blank(sigmas: Sequence[float], ahead: float | None = None) -> Plan:
    """A plan with DDIM's rows."""
    rows = np.zeros((len(sigmas) - 1, HISTORY))
    rows[:, 0] = 1
    return Plan(tuple(float(s) for s in sigmas), rows, ahead)
