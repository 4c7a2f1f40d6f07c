"""Distilled sigmas: inner sigmas move together with the lambdas to lower the final error.

Damped Gauss-Newton (Levenberg 1944, Marquardt 1963) on the final residual r = x_N - x_teacher,
Jacobian by finite differences: perturbing sigma_j or lambda_k re-runs the student from there only.
It starts from the best of a few grids (the given one, Karras's with a raised end, and nodes chosen
by dynamic programming on the teacher's own trajectory). First come *projected* iterations: only
sigmas are perturbed, and the lambdas are refitted in closed form along every perturbed run
(variable projection, Golub and Pereyra 1973), one from each of the two best starts; then *joint*
ones, over sigmas and lambdas, from the better. Samples whose run ends far off (under guidance a few
fork to another image) weigh less. Held-out samples decide which iteration is kept.
No backpropagation: any host, any quantised or offloaded model.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from .calibration import NEGLIGIBLE, start_size
from .dense import Trajectory, choose_nodes, euler_costs
from .fit import Batch
from .integrate import Denoiser
from .schedules import karras
from .student import Row, Run, Student, robust_weights
from .table import MAX_LAMBDA, Errors

DEFAULT_BUDGET = 300  # model evaluations per sample, teacher included
JOINT = 3  # joint iterations at most
COEFFICIENTS = (1.03, 1.1)  # of the dynamic programme: more nodes late above 1
RAISED_END = {"ve": 0.1, "flow": 0.08}  # lowest inner sigma of the extra Karras starts
RAISED_RHO = (7.0, 10.0)
PERTURBATION = 0.15  # of the gap to the nearer neighbour, in log sigma (logit for flow)
LAMBDA_PERTURBATION = 0.05
MAX_MOVE = 0.45  # of the gap, per iteration: the order of the grid is kept
DAMPINGS = (0.003, 0.03, 0.3)


def to_line(sigma: float, parametrization: str) -> float:
    """Where grids are moved: log sigma, or log(sigma / (1 - sigma)) for flow."""
    return math.log(sigma if parametrization == "ve" else sigma / (1 - min(sigma, 1 - 1e-4)))


def from_line(u: float, parametrization: str) -> float:
    return math.exp(u) if parametrization == "ve" else 1 / (1 + math.exp(-u))


def gaps(sigmas: Sequence[float], parametrization: str) -> list[float]:
    """For every inner sigma the distance to its nearer neighbour, on the line."""
    line = [to_line(sigma, parametrization) for sigma in sigmas if sigma > 0]
    line += [line[-1] - 1.5] * (len(sigmas) - len(line))  # 0 lies far below
    return [min(line[j - 1] - line[j], line[j] - line[j + 1]) for j in range(1, len(line) - 1)]


def moved(sigmas: Sequence[float], steps: Sequence[float], parametrization: str) -> list[float]:
    """Inner sigmas moved on the line, by at most MAX_MOVE of the gap to their neighbours."""
    out = [float(sigmas[0])]
    room = gaps(sigmas, parametrization)
    for sigma, step, gap in zip(sigmas[1:-1], steps, room, strict=True):
        step = max(-MAX_MOVE * gap, min(MAX_MOVE * gap, step))
        out.append(from_line(to_line(sigma, parametrization) + step, parametrization))
    return [*out, float(sigmas[-1])]


@dataclass(frozen=True)
class Learned:
    """What :func:`learn` found: the run, its errors, and whether held-out samples prefer it."""

    run: Run
    errors: Errors
    helps: bool


def learn(
    model: Denoiser,
    batches: Sequence[Batch],
    trajectories: Sequence[Trajectory],
    sigmas: Sequence[float],
    solver: str,
    parametrization: str,
    columns: int,
    gain: bool,
    low: float,
    budget: float,
) -> Learned:
    """Move the inner sigmas of a grid together with the lambdas, within ``budget`` evaluations.

    ``low`` is the teacher's lowest sigma; no node goes below. Compared with the plain solver on
    the given grid.
    """
    student = Student(model, batches, solver, parametrization, columns, gain)
    stages = len(student.stages(sigmas))
    budget -= least_budget(stages, 1 - student.share)
    before = student.run_plain(sigmas)
    given = student.run(sigmas)
    starts, spent = _starts(student, trajectories, given, low, budget)
    left = budget - spent

    def step(run: Run, refit: bool) -> Run | None:
        nonlocal left
        if (cost := _iteration_cost(student, run, refit)) > left:
            return None
        left -= cost
        student.weights = robust_weights(student.residuals(run).square().mean(1))
        return iterate(student, run, low, refit)

    tried = [given, *starts, *(found for start in starts if (found := step(start, True)))]
    run = min(tried, key=lambda run: student.robust_error(run, False))
    for _ in range(JOINT):
        if (found := step(run, False)) is None:
            break
        tried.append(run := found)
    kept = min(tried, key=lambda run: student.robust_error(run, student.validates))
    return _judge(student, before, kept, given)


def least_budget(stages: int, held_out: float) -> float:
    """Evaluations per sample without any learning: the plain and the fitted run on the given grid,
    and what falling back to a plain calibration would still cost.
    """
    return 5 * stages + held_out * stages * (stages + 1) / 2


def _judge(student: Student, before: Run, kept: Run, given: Run) -> Learned:
    """Errors of plain and learned run; the held-out ones decide."""
    pairs = [(student.error(before, held), student.error(kept, held)) for held in (False, True)]
    sane = pairs[-1][0] > NEGLIGIBLE * start_size(student.batches) and kept is not given
    sane = sane and all(abs(value) <= MAX_LAMBDA for row in kept.lambdas for value in row)
    if not student.validates:
        return Learned(kept, Errors(*pairs[0]), sane)
    return Learned(kept, Errors(*pairs[0], *pairs[1]), sane and pairs[1][1] < pairs[1][0])


def _starts(
    student: Student,
    trajectories: Sequence[Trajectory],
    given: Run,
    low: float,
    budget: float,
) -> tuple[list[Run], float]:
    """The best run of either family of starts, and the evaluations per sample that they took."""
    sigmas, steps = given.sigmas, len(given.sigmas) - 1
    usual: list[list[float]] = []
    chosen: list[list[float]] = []
    raised = RAISED_END[student.parametrization]
    if sigmas[-1] == 0 and steps > 2 and low < raised < sigmas[0]:
        usual += [karras(steps, raised, sigmas[0], rho).tolist() for rho in RAISED_RHO]
    knots = [*trajectories[0].sigmas, trajectories[0].end]
    if 1 < steps < len(knots) - 1:
        fit = [t for t, b in zip(trajectories, student.batches, strict=True) if not b.held_out]
        costs = euler_costs(fit)
        chosen = [choose_nodes(knots, costs, steps, c) for c in COEFFICIENTS]
    each = len(student.stages(sigmas))
    spent, best = 0.0, []
    for family, known in ((usual, [given]), (chosen, [])):
        affordable = int((budget - spent - each) // (each * student.share))
        runs = [student.run(grid, fit_only=True) for grid in family[: max(0, affordable)]]
        spent += len(runs) * each * student.share
        if known or runs:
            run = min([*known, *runs], key=lambda run: student.robust_error(run, False))
            if run is not given:
                run = student.run(run.sigmas, run.lambdas)
                spent += each
            best.append(run)
    return best, spent


def _iteration_cost(student: Student, run: Run, refit: bool) -> float:
    """Evaluations per sample of one iteration: every perturbed run, then the candidates."""
    n = len(run.stages)
    reruns = 0 if refit else sum(n - 1 - k for k in range(n) for row in run.stages[k].c if row)
    for j, _ in enumerate(run.sigmas[1:-1]):
        first = next(k for k, s in enumerate(run.stages) if s.sigma_next == run.sigmas[j + 1])
        reruns += n - 1 - first
    return student.share * (reruns + len(DAMPINGS) * n) + n


def iterate(student: Student, run: Run, low: float, refit: bool) -> Run | None:
    """One Gauss-Newton iteration; None when the fit error does not fall.

    ``refit``: over sigmas, lambdas refitted along each run; otherwise over sigmas and lambdas.
    """
    base = student.residuals(run)
    columns: list[Tensor] = []
    places: list[tuple[int, int]] = []
    inner = len(run.sigmas) - 2
    for j, gap in enumerate(gaps(run.sigmas, student.parametrization)):
        delta = PERTURBATION * gap
        steps = [delta * (i == j) for i in range(inner)]
        sigmas = moved(run.sigmas, steps, student.parametrization)
        other = student.run(sigmas, None if refit else run.lambdas, run, fit_only=True)
        columns.append((student.residuals(other) - base) / delta)
    for k, stage in enumerate(() if refit else run.stages):
        for i, direction in enumerate(stage.c):
            if direction:
                lambdas = _nudged(run.lambdas, [(k, i)], [LAMBDA_PERTURBATION])
                other = student.run(run.sigmas, lambdas, run, fit_only=True)
                columns.append((student.residuals(other) - base) / LAMBDA_PERTURBATION)
                places.append((k, i))
    if not columns:
        return None
    best, error = None, student.weighted_error(run)
    for move in _moves(base, columns, student.weights):
        sigmas = moved(run.sigmas, move[:inner], student.parametrization)
        sigmas[1:-1] = [max(sigma, low * 1.0001) for sigma in sigmas[1:-1]]
        if any(a <= b for a, b in zip(sigmas, sigmas[1:], strict=False)):
            continue
        lambdas = None if refit else _nudged(run.lambdas, places, move[inner:])
        other = student.run(sigmas, lambdas, fit_only=True)
        if student.weighted_error(other) < error:
            best, error = other, student.weighted_error(other)
    return None if best is None else student.run(best.sigmas, best.lambdas)


def _nudged(
    lambdas: Sequence[Row], places: Sequence[tuple[int, int]], steps: Sequence[float]
) -> list[Row]:
    out = [list(row) for row in lambdas]
    for (k, i), step in zip(places, steps, strict=True):
        out[k][i] += step
    return out


def _moves(base: Tensor, columns: Sequence[Tensor], weights: Tensor | None) -> list[Row]:
    """Solutions of the damped normal equations, one per damping; rows of residuals streamed."""
    w = torch.ones(len(base), dtype=torch.float64) if weights is None else weights
    gram = torch.zeros(len(columns), len(columns), dtype=torch.float64)
    rhs = torch.zeros(len(columns), dtype=torch.float64)
    for b in range(len(base)):
        jacobian = torch.stack([column[b] for column in columns])
        gram += w[b] * jacobian @ jacobian.T
        rhs -= w[b] * jacobian @ base[b]
    scale = gram.diagonal().clamp(min=1e-30).sqrt()
    unit = gram / scale[:, None] / scale
    eye = torch.eye(len(unit), dtype=torch.float64)
    return [
        (torch.linalg.solve(unit + damping * eye, rhs / scale) / scale).tolist()
        for damping in DAMPINGS
    ]
