"""Distilled sigmas: inner sigmas move together with the lambdas to lower the final error.

Damped Gauss-Newton on the final residual r = x_N - x_teacher(0), Jacobian by finite differences:
perturbing sigma_j or lambda_k re-runs the student from there only. Two kinds of iteration:

* projected: only sigmas are perturbed; along every perturbed run the lambdas are refitted in
  closed form against the dense teacher (variable projection, Golub and Pereyra 1973);
* joint: sigmas and lambdas are perturbed, each by itself.

No backpropagation, so it works with any host and any quantised or offloaded model.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from .fit import Batch, flat, stage_products
from .integrate import Denoiser, State, integrate, update
from .solvers import Stage, get_solver

Row = list[float]
PERTURBATION = 0.15  # of the gap to the nearer neighbour, in log sigma (logit for flow)
MAX_MOVE = 0.45  # of the gap, per iteration: the order of the grid is kept
RIDGE = 1e-4  # of the closed-form fits, relative to each direction's size
DAMPINGS = (0.003, 0.03, 0.3, 3.0)


@dataclass
class Run:
    """A student run: its grid, its lambdas, the states after each evaluation, the final states."""

    sigmas: list[float]
    stages: list[Stage]
    lambdas: list[Row]
    checkpoints: list[list[State]] = field(repr=False)
    finals: list[State] = field(repr=False)


class Student:
    """Runs one solver over changing grids from shared starting states."""

    def __init__(
        self,
        model: Denoiser,
        batches: Sequence[Batch],
        solver: str,
        parametrization: str,
        columns: int,
        gain: bool,
    ) -> None:
        self.model, self.batches = model, batches
        self.solver, self.parametrization = get_solver(solver), parametrization
        self.columns, self.gain = columns, gain
        self.width = columns + gain
        self.weights: Tensor | None = None  # per fit sample, for robust fits

    def stages(self, sigmas: Sequence[float]) -> list[Stage]:
        return self.solver.stages(
            sigmas, self.parametrization, columns=self.columns, gain=self.gain
        )

    def run(
        self,
        sigmas: Sequence[float],
        lambdas: Sequence[Row] | None = None,
        base: Run | None = None,
        fit_only: bool = False,
    ) -> Run:
        """Run over ``sigmas`` with given lambdas, or fit them on the way.

        With ``base``, everything before the first stage that differs is taken from there; with
        ``fit_only`` held-out samples stay behind.
        """
        stages = self.stages(sigmas)
        first = 0
        if base is not None:
            first = _first_change(base, stages, lambdas)
        batches = [b for b in self.batches if not (fit_only and b.held_out)]
        found: list[Row] = [] if base is None else [list(row) for row in base.lambdas[:first]]
        checkpoints = [] if base is None else base.checkpoints[:first]

        def choose(k: int, stage: Stage, states: Sequence[State]) -> Sequence[float]:
            checkpoints.append([state.copy() for state in states])
            if lambdas is not None:
                found.append(list(lambdas[k]))
            else:
                products = stage_products(batches, k, stage, states, self.width)
                row = None if products is None else products.solve(RIDGE, weights=self.weights)
                found.append([0.0] * self.width if row is None else row.tolist())
            return found[-1]

        if base is None:
            states = [batch.state.copy() for batch in batches]
            start = 0
        else:
            pairs = zip(base.checkpoints[first], self._kept(base), strict=True)
            states = [s.copy() for s, batch in pairs if not (fit_only and batch.held_out)]
            row = choose(first, stages[first], states)
            for state in states:
                state.x = update(state, stages[first], row)
            start = first + 1
        loop = integrate(
            self.model, states, stages, choose, parametrization=self.parametrization, first=start
        )
        for _ in loop:
            pass
        return Run(list(sigmas), stages, found, checkpoints, states)

    def _kept(self, base: Run) -> list[Batch]:
        """The batches that a run carries."""
        if len(base.finals) == len(self.batches):
            return list(self.batches)
        return [batch for batch in self.batches if not batch.held_out]

    def residuals(self, run: Run, held_out: bool = False) -> Tensor:
        """x_final - teacher, shape (samples, elements), float64."""
        pairs = zip(run.finals, self._kept(run), strict=True)
        rows = [flat(s.x - b.final).cpu() for s, b in pairs if b.held_out == held_out]
        return torch.cat(rows) if rows else torch.zeros(0, 1, dtype=torch.float64)

    def error(self, run: Run, held_out: bool = False) -> float:
        """RMS final error; the fit samples' with their weights."""
        squares = self.residuals(run, held_out).square().mean(1)
        if not held_out and self.weights is not None:
            squares = squares * self.weights
        return math.sqrt(float(squares.mean())) if len(squares) else 0.0


def _first_change(base: Run, stages: Sequence[Stage], lambdas: Sequence[Row] | None) -> int:
    """The first stage whose rows, landing point or lambdas differ from ``base``'s."""
    for k, (old, new) in enumerate(zip(base.stages, stages, strict=True)):
        if old != new or (lambdas is not None and base.lambdas[k] != list(lambdas[k])):
            return k
    return len(stages) - 1


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


class Learner:
    """Gauss-Newton iterations from a starting run; ``best`` is the best so far on ``score``."""

    def __init__(self, student: Student, run: Run, low: float) -> None:
        self.student, self.best, self.low = student, run, low
        self.parametrization = student.parametrization

    def projected(self) -> bool:
        """One projected iteration; whether the fit error fell."""
        run, student = self.best, self.student
        base = student.residuals(run)
        columns = []
        for j, gap in enumerate(gaps(run.sigmas, self.parametrization)):
            delta = PERTURBATION * gap
            steps = [0.0] * (len(run.sigmas) - 2)
            steps[j] = delta
            sigmas = moved(run.sigmas, steps, self.parametrization)
            other = student.run(sigmas, base=run, fit_only=True)
            columns.append((student.residuals(other) - base) / delta)
        return self._step(base, columns, lambda move: (self._grid(move), None))

    def joint(self) -> bool:
        """One joint iteration over sigmas and lambdas; whether the fit error fell."""
        run, student = self.best, self.student
        base = student.residuals(run)
        columns, places = [], []
        inner = len(run.sigmas) - 2
        for j, gap in enumerate(gaps(run.sigmas, self.parametrization)):
            delta = PERTURBATION * gap
            steps = [0.0] * inner
            steps[j] = delta
            sigmas = moved(run.sigmas, steps, self.parametrization)
            other = student.run(sigmas, run.lambdas, base=run, fit_only=True)
            columns.append((student.residuals(other) - base) / delta)
        for k, stage in enumerate(run.stages):
            for i, direction in enumerate(stage.c):
                if not direction:
                    continue
                delta = 0.05
                lambdas = [list(row) for row in run.lambdas]
                lambdas[k][i] += delta
                other = student.run(run.sigmas, lambdas, base=run, fit_only=True)
                columns.append((student.residuals(other) - base) / delta)
                places.append((k, i))

        def candidate(move: Row) -> tuple[list[float], list[Row]]:
            lambdas = [list(row) for row in run.lambdas]
            for (k, i), step in zip(places, move[inner:], strict=True):
                lambdas[k][i] += step
            return self._grid(move[:inner]), lambdas

        return self._step(base, columns, candidate)

    def _grid(self, move: Sequence[float]) -> list[float]:
        sigmas = moved(self.best.sigmas, move, self.parametrization)
        return [sigmas[0], *(max(s, self.low * 1.0001) for s in sigmas[1:-1]), sigmas[-1]]

    def _step(
        self,
        base: Tensor,
        columns: Sequence[Tensor],
        candidate: Callable[[Row], tuple[list[float], list[Row] | None]],
    ) -> bool:
        """Solve the damped normal equations and keep the best candidate, if it is better."""
        weights = self.student.weights
        w = torch.ones(len(base), dtype=torch.float64) if weights is None else weights
        gram = torch.tensor(
            [[float((w[:, None] * a * b).sum()) for b in columns] for a in columns],
            dtype=torch.float64,
        )
        rhs = torch.tensor([-float((w[:, None] * a * base).sum()) for a in columns]).double()
        scale = gram.diagonal().clamp(min=1e-30).sqrt()
        unit = gram / scale[:, None] / scale
        start = self.student.error(self.best)
        better = self.best
        for damping in DAMPINGS:
            damped = unit + damping * torch.eye(len(unit), dtype=torch.float64)
            move = (torch.linalg.solve(damped, rhs / scale) / scale).tolist()
            sigmas, lambdas = candidate(move)
            if any(a <= b for a, b in zip(sigmas, sigmas[1:], strict=False)):
                continue
            run = self.student.run(sigmas, lambdas)
            if self.student.error(run) < self.student.error(better):
                better = run
        improved = self.student.error(better) < start
        self.best = better
        return improved
