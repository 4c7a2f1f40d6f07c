"""One calibration run: the samples in micro-batches, the counted model, the teachers."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from .errors import CalibrationError
from .fit import distributed
from .fit.guarded import ALL_ROWS, SAMPLES, CountingModel, Progress, has_rows
from .fit.products import Batch
from .fit.stagewise import Calibration, held_out_count, listed, split
from .fit.teacher import Teacher
from .fit.trajectory import (
    DENSE_LOW,
    DENSE_SOLVER,
    DENSE_STEPS,
    Trajectory,
    dense_grid,
    dense_teacher,
)
from .learn.learn import learn, least_budget
from .learn.starts import Start
from .solve.integrate import Denoiser, State
from .solve.noise import infer_parametrization
from .solve.solvers import LookAhead, Stage, get_solver
from .solve.stages import MAX_CHANNELS
from .tables.table import Errors, LambdaTable
from .version import PROGRAM


class Session:
    """One calibration run: the samples in micro-batches, the counted model, the teachers."""

    def __init__(
        self,
        model: Denoiser,
        x: Tensor,
        grid: Sequence[float],
        extra_args: Mapping[str, Any] | None,
        holdout: float,
        progress: Progress | None,
        parametrization: str | None,
        batch_size: int,
    ) -> None:
        _check(x, grid, holdout, batch_size)
        self.x, self.grid = x, grid
        self.extra_args = {**(extra_args or {}), SAMPLES: torch.arange(len(x))}
        self.parametrization = parametrization or infer_parametrization(model, grid)
        self.held_out = held_out_count(len(x), holdout)
        self.parts = split(len(x), self.held_out, batch_size)
        rows = frozenset(k for k, v in self.extra_args.items() if has_rows(v, len(x)))
        self.model = CountingModel(model, progress, 0, rows - {SAMPLES})
        self.dense_name = f"{DENSE_SOLVER} {DENSE_STEPS} dense"
        self.counted = 0

    def stages(self, grid: Sequence[float], solver: str, columns: int, gain: bool) -> list[Stage]:
        return get_solver(solver).stages(grid, self.parametrization, columns=columns, gain=gain)

    def calls(self, evaluations: int) -> int:
        """Model calls that so many evaluations per sample take."""
        return len(self.parts) * evaluations

    def student_calls(self, stages: int) -> int:
        """The most calls that fitting a student and checking it takes."""
        held = sum(self._held(part) for part in self.parts)
        return self.calls(3 * stages) + held * stages * (stages + 1) // 2

    def most_calls(self, budget: float) -> int:
        """The most model calls that so many evaluations per sample make, whichever samples run."""
        smallest = min(part.stop - part.start for part in self.parts)
        return math.ceil(budget * len(self.x) / smallest)

    def check_budget(self, stages: int, budget: float) -> None:
        """Refuse a budget that cannot pay for a table, before anything is run."""
        if budget < (least := least_budget(stages)):
            raise CalibrationError(
                f"A budget of {budget + DENSE_STEPS:g} evaluations per sample is too small: "
                f"{stages} stages take at least {least + DENSE_STEPS}; raise it, or "
                "turn learn_sigmas off."
            )

    def held(self, i: int) -> bool:
        """Whether micro-batch ``i`` is held out."""
        return self._held(self.parts[i])

    def state(self, i: int) -> State:
        """The first state of micro-batch ``i``."""
        return self._state(self.parts[i])

    def _held(self, part: slice) -> bool:
        return part.start >= len(self.x) - self.held_out

    def _state(self, part: slice) -> State:
        samples = len(self.x)
        own = distributed.share(part)
        args = {k: v[own] if has_rows(v, samples) else v for k, v in self.extra_args.items()}
        args[ALL_ROWS] = part.stop - part.start
        return State.begin(self.x[own], args, park=len(self.parts) > 1)

    def aligned(
        self,
        grid: Sequence[float],
        stages: Sequence[Stage],
        teacher: Teacher,
        targets: Tensor | None,
    ) -> list[Batch]:
        """Batches whose goals are an aligned teacher's states, or given ones."""
        if targets is not None and targets.shape != (len(stages), *self.x.shape):
            raise CalibrationError(
                f"targets have shape {tuple(targets.shape)}, expected "
                f"{(len(stages), *self.x.shape)}: one state per model evaluation and sample."
            )
        batches = []
        for part in self.parts:
            state = self._state(part)
            if targets is None:
                nodes = teacher.states(self.model, state, grid, self.parametrization)
                goals = [nodes[stage.step] for stage in stages]
            else:
                goals = list(targets[:, distributed.share(part)])
            batches.append(listed(state, goals, self._held(part)))
        return batches

    @cached_property
    def trajectories(self) -> list[Trajectory]:
        """The dense teacher's run, once for the whole session."""
        low = self.grid[-1]
        if low == 0:  # room for learned sigmas below the given grid's last
            own = min(sigma for sigma in self.grid if sigma)
            low = min(own, DENSE_LOW[self.parametrization] * self.grid[0])
        fine = dense_grid(self.grid[0], low, self.parametrization, DENSE_STEPS)
        fine = fine if self.grid[-1] == 0 else fine[:-1]
        return [
            dense_teacher(self.model, self._state(part), fine, self.parametrization)
            for part in self.parts
        ]

    @cached_property
    def mean(self) -> tuple[float, ...] | None:
        """The mean of every channel of the teacher's first denoised output, over the fit samples.

        What a run that looks ahead guesses; None where none should be tried: flow models, whose
        first sigma is 1 whatever they were trained on (see docs/benchmarks.md).
        """
        if self.parametrization == "flow":
            return None
        channels = self.x.shape[1]
        if self.x.ndim < 3 or channels > MAX_CHANNELS:
            return ()
        pairs = zip(self.trajectories, self.parts, strict=True)
        first = [t.x[0] - t.slope[0] for t, part in pairs if not self._held(part)]
        sums = sum(d.cpu().double().transpose(0, 1).flatten(1).sum(1) for d in first)
        each = math.prod(self.x.shape[2:])
        total = distributed.total(torch.as_tensor(sums))
        return tuple((total / ((len(self.x) - self.held_out) * each)).tolist())

    def dense(self) -> list[Batch]:
        """Batches whose goals are read off the dense teacher at whatever sigma is asked for."""
        return [
            Batch(self._state(part), dense_goal(trajectory), trajectory.final, self._held(part))
            for part, trajectory in zip(self.parts, self.trajectories, strict=True)
        ]

    def fixed(
        self,
        grid: Sequence[float],
        solver: str,
        columns: int,
        gain: bool,
        batches: Sequence[Batch],
        teacher: str,
    ) -> LambdaTable:
        """A table on the given grid."""
        stages = self.stages(grid, solver, columns, gain)
        calibration = Calibration(self.model, batches, stages, self.parametrization)
        lambdas, errors = calibration.run()
        zeroed = tuple(sorted(calibration.zeroed))
        return self._table(solver, grid, lambdas, gain, errors, teacher, zeroed)

    def learned(
        self,
        grid: Sequence[float],
        solver: str,
        columns: int,
        gain: bool,
        budget: float,
        starts: Sequence[Start] = (),
    ) -> LambdaTable:
        """A table with learned inner sigmas, or the given grid's where those do not help."""
        batches, low = self.dense(), self.trajectories[0].sigmas[-1]
        spent = (self.model.evaluations - self.counted) / len(self.x)
        how = solver, self.parametrization, columns, gain
        left = budget - spent - 1 / len(self.x)  # which checks the model at the end
        found = learn(
            self.model, batches, self.trajectories, grid, *how, low, left, starts, self.mean
        )
        rows, errors = torch.tensor(found.run.lambdas, dtype=torch.float64), found.errors
        if not found.helps:
            rows = torch.zeros_like(rows)
            errors = replace(
                errors, distilled_fit=errors.plain_fit, distilled_holdout=errors.plain_holdout
            )
        learned = found.helps and not found.given
        sigmas = found.run.sigmas if learned else grid
        name, ahead = self.dense_name, found.run.look_ahead if learned else None
        return self._table(solver, sigmas, rows, gain, errors, name, (), learned, ahead)

    def _table(
        self,
        solver: str,
        grid: Sequence[float],
        lambdas: Tensor,
        gain: bool,
        errors: Errors,
        teacher: str,
        zeroed: tuple[int, ...] = (),
        learned: bool = False,
        look_ahead: LookAhead | None = None,
    ) -> LambdaTable:
        self.model.check_unchanged()
        evaluations, self.counted = self.model.evaluations - self.counted, self.model.evaluations
        return LambdaTable(
            solver=solver,
            sigmas=torch.tensor(grid, dtype=torch.float64),
            lambdas=lambdas,
            parametrization=self.parametrization,
            gain=gain,
            learned_sigmas=learned,
            look_ahead=look_ahead,
            errors=errors,
            zeroed=zeroed,
            teacher=teacher,
            samples_fit=len(self.x) - self.held_out,
            samples_holdout=self.held_out,
            evaluations=evaluations / len(self.x),
            latent_shape=tuple(self.x.shape[1:]),
            program=PROGRAM,
        )


def dense_goal(trajectory: Trajectory) -> Callable[[int, Stage], Tensor]:
    """The teacher's state wherever a stage lands."""
    return lambda k, stage: trajectory.at(stage.sigma_next)


def _check(x: Tensor, grid: Sequence[float], holdout: float, batch_size: int) -> None:
    if len(grid) < 2:
        raise CalibrationError("One sigma makes no step; give at least two.")
    if x.ndim < 2 or not len(x) or not x.is_floating_point():
        raise CalibrationError(f"x has shape {tuple(x.shape)}; give noise of shape (B, ...).")
    if not 0 <= holdout < 1:
        raise CalibrationError(f"holdout is {holdout}; use a fraction from 0 to below 1.")
    if batch_size < 1:
        raise CalibrationError(f"batch_size is {batch_size}; use at least 1.")
