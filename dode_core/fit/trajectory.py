"""One teacher trajectory with dense output: the state at any sigma, for every table at once."""

from __future__ import annotations

import bisect
import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..errors import CalibrationError
from ..solve.integrate import Denoiser, State, complete
from ..solve.solvers import get_solver
from ..solve.stages import Stage, plain
from . import distributed

DENSE_SOLVER = "ipndm"
DENSE_STEPS = 40  # 30 do at cfg 1; at cfg 7 they end at other images (docs/benchmarks.md)
DENSE_NAME = f"{DENSE_SOLVER} {DENSE_STEPS} dense"  # as tables say it
DENSE_LOW = {"ve": 2e-3, "flow": 3e-3}  # of the first sigma: how far down it goes at least
DENSE_RHO = 7.0


@dataclass
class Trajectory:
    """States of one micro-batch along its teacher's run, cubic Hermite in log sigma between them.

    ``x[i]`` is the state at ``sigmas[i]`` and ``slope[i]`` = x - denoised there, which is
    dx / d log sigma in both parametrisations; ``final`` is the state at ``end``, where no slope is
    known: an interval down to an end above 0 is quadratic.
    """

    sigmas: list[float]
    x: list[Tensor]
    slope: list[Tensor]
    final: Tensor
    end: float = 0.0

    def at(self, sigma: float) -> Tensor:
        """The state at ``sigma``, shape (b, ...). Never extrapolates."""
        if math.isclose(sigma, self.end, rel_tol=1e-9):
            return self.final
        i = bisect.bisect_left(self.sigmas, -sigma, key=lambda s: -s)
        for near in (i - 1, i):
            if 0 <= near < len(self.x) and math.isclose(self.sigmas[near], sigma, rel_tol=1e-9):
                return self.x[near]
        if i == len(self.sigmas) and self.end and sigma > self.end:
            h = math.log(self.end / self.sigmas[-1])
            t = math.log(sigma / self.sigmas[-1]) / h
            out = self.x[-1] * (1 - t * t)
            return out.add_(self.slope[-1], alpha=t * (1 - t) * h).add_(self.final, alpha=t * t)
        if not 0 < i < len(self.sigmas):
            raise CalibrationError(
                f"The teacher covers sigma {self.sigmas[0]:g} to {self.sigmas[-1]:g}, and "
                f"{self.end:g}, but "
                f"{sigma:g} was asked for; start the teacher from the same noise level."
            )
        high, low = math.log(self.sigmas[i - 1]), math.log(self.sigmas[i])
        h = low - high
        t = (math.log(sigma) - high) / h
        weights = (
            (1 + 2 * t) * (1 - t) ** 2,
            t * (1 - t) ** 2 * h,
            t * t * (3 - 2 * t),
            t * t * (t - 1) * h,
        )
        terms = (self.x[i - 1], self.slope[i - 1], self.x[i], self.slope[i])
        out = terms[0] * weights[0]
        for weight, tensor in zip(weights[1:], terms[1:], strict=True):
            out.add_(tensor, alpha=weight)
        return out


def dense_grid(high: float, low: float, parametrization: str, steps: int) -> list[float]:
    """The dense teacher's grid: ``steps`` evaluations from ``high`` to ``low``, then 0.

    Karras's for ``ve``. For ``flow`` a half cosine, dense at both ends: on the demo model it is
    0.002 RMS from the converged solution where equal steps in sigma^(1/2) were 0.028.
    """
    parts = [i / (steps - 1) for i in range(1, steps - 1)]
    if parametrization == "flow":
        inner = [low + (high - low) * (1 + math.cos(math.pi * part)) / 2 for part in parts]
    else:
        a, b = high ** (1 / DENSE_RHO), low ** (1 / DENSE_RHO)
        inner = [(a + part * (b - a)) ** DENSE_RHO for part in parts]
    return [high, *inner, low, 0.0]


def reaching_grid(grid: Sequence[float], parametrization: str) -> list[float]:
    """The dense teacher's grid for students on ``grid`` and on sigmas learned from it."""
    low = grid[-1]
    if low == 0:  # room for learned sigmas below the given grid's last
        own = min(sigma for sigma in grid if sigma)
        low = min(own, DENSE_LOW[parametrization] * grid[0])
    fine = dense_grid(grid[0], low, parametrization, DENSE_STEPS)
    return fine if grid[-1] == 0 else fine[:-1]


def dense_teacher(
    model: Denoiser,
    start: State,
    grid: Sequence[float],
    parametrization: str = "ve",
    solver: str = DENSE_SOLVER,
) -> Trajectory:
    """Run the teacher once over ``grid``, keeping every state and slope."""
    stages = plain(get_solver(solver).stages(grid, parametrization))
    state = start.copy()
    states, slopes = [], []

    def keep(k: int, stage: Stage, running: Sequence[State]) -> None:
        if stage.starts_step:
            states.append(running[0].x)
            slopes.append(torch.sub(running[0].x, running[0].denoised))

    complete(model, [state], stages, watch=keep, parametrization=parametrization)
    return Trajectory(list(grid[: len(states)]), states, slopes, state.x, grid[-1])


def euler_costs(trajectories: Sequence[Trajectory]) -> Tensor:
    """Squared local error of one Euler step between any two knots, (knots + 1, knots + 1).

    Entry (i, j), j > i, is the mean of || x_i + (sigma_j - sigma_i) d_i - x_j ||^2 over samples;
    the last is the end of the run and its final state. Costs no model evaluation.
    """
    sigmas = [*trajectories[0].sigmas, trajectories[0].end]
    n = len(sigmas)
    costs = torch.zeros(n, n, dtype=torch.float64)
    for trajectory in trajectories:
        states = [*trajectory.x, trajectory.final]
        for i in range(n - 1):
            for j in range(i + 1, n):
                ratio = (sigmas[j] - sigmas[i]) / sigmas[i]
                step = torch.add(states[i], trajectory.slope[i], alpha=ratio)
                costs[i, j] += (step - states[j]).double().square().sum().cpu()
    samples = torch.tensor(float(sum(len(trajectory.final) for trajectory in trajectories)))
    return distributed.total(costs) / distributed.total(samples)


def choose_nodes(
    sigmas: Sequence[float], costs: Tensor, steps: int, coefficient: float = 1.0
) -> list[float]:
    """The ``steps``-step grid on the teacher's knots of least accumulated local error.

    Dynamic programming over cost(0, k1) + coefficient * (cost(k1, k2) + coefficient * ...), cost
    being the local error's norm; a coefficient above 1 puts more nodes late. Chen et al. 2024,
    "On the Trajectory Regularity of ODE-based Diffusion Sampling", arXiv 2405.11326, section 4.
    """
    cost = costs.sqrt()
    n = len(cost)
    if not 1 <= steps < n:
        raise CalibrationError(f"{steps} steps do not fit the teacher's {n - 1} intervals.")
    far = torch.triu(torch.ones_like(cost), 1) == 0
    cost = cost.masked_fill(far, math.inf)
    best = cost[:, -1].clone()  # from each knot to the end in one step
    choices = []
    for _ in range(steps - 1):
        through = cost + coefficient * best[None, :]
        best, choice = through.min(1)
        choices.append(choice)
    node, grid = 0, [float(sigmas[0])]
    for choice in reversed(choices):
        node = int(choice[node])
        grid.append(float(sigmas[node]))
    return [*grid, float(sigmas[n - 1])]


def check_descending(grid: Sequence[float]) -> None:
    """Raises :class:`CalibrationError` for grids that a dense teacher cannot cover."""
    if any(a <= b for a, b in zip(grid, grid[1:], strict=False)):
        raise CalibrationError(
            "A dense teacher needs a descending grid; distill this one with distill and without "
            "learn_sigmas."
        )
