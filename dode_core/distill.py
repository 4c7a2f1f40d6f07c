"""Distilling tables: one solver on one grid, or many from one teacher.

    lambda_k = argmin || target_{k+1} - x_plain - sum_i lambda_i q_i ||^2,  q_i = sum_j c_ij m_j

for one column <q, target - x_plain> / <q, q> (arXiv 2309.16421, equation 9), summed over all
elements of all samples in float64. Only inner products are needed, so micro-batches are streamed
and their states parked on the CPU. Some samples are held out: they decide whether a stage's lambda
is kept, and what the table may claim.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from .calibration import Calibration, CountingModel, Progress, listed, split
from .dense import DENSE_LOW, DENSE_SOLVER, DENSE_STEPS, Trajectory, dense_grid, dense_teacher
from .errors import CalibrationError
from .fit import Batch
from .integrate import Denoiser, State
from .learn import DEFAULT_BUDGET, learn, least_budget
from .noise import check_sigmas, infer_parametrization
from .solvers import Stage, get_solver
from .table import Errors, LambdaTable, same_sigmas
from .teacher import Teacher
from .version import PROGRAM


@torch.no_grad()
def distill(
    model: Denoiser,
    x: Tensor,
    sigmas: Tensor | Sequence[float],
    solver: str = "ddim",
    *,
    extra_args: Mapping[str, Any] | None = None,
    teacher: Teacher | None = None,
    targets: Tensor | None = None,
    holdout: float = 0.25,
    progress: Progress | None = None,
    parametrization: str | None = None,
    batch_size: int = 8,
    columns: int = 1,
    gain: bool = False,
    learn_sigmas: bool = False,
    budget: int = DEFAULT_BUDGET,
) -> LambdaTable:
    """Fit a lambda table for one solver on one sigma grid.

    model: ``model(x, sigma, **extra_args) -> denoised``, sigma of shape (b,). x: the noise at
    sigmas[0], shape (B, ...). Tensors in ``extra_args`` whose first dimension is B belong to the
    samples and are split with them. ``targets``, shape (stages, B, ...), replace the teacher.
    The last ``round(holdout * B)`` samples (at least one when B > 1 and holdout > 0) are kept out
    of the fit: a stage whose lambda does not bring them nearer to their target takes 0, and so does
    the whole table when their final error is not below the plain solver's. With ``holdout=0``
    nothing is held out or zeroed.

    ``columns`` 2 and 3 fit differences of older outputs as well, ``gain`` the newest output itself;
    each needs some more samples (4 to 16 serve one column, from 8 for more): held-out samples
    choose how many columns and how much regularisation a stage gets. ``learn_sigmas`` moves the
    inner sigmas together with the lambdas to lower the final error, with a dense teacher and at
    most ``budget`` model evaluations per sample; the first and last sigma stay, and the given grid
    is kept when held-out samples do not prefer the learned one.

    ``progress(done, total, denoised)`` is called after every model call with the calls made, the
    most there will be, and the newest prediction; raising from it stops the calibration.
    Raises :class:`SigmasError`, :class:`DodeError` (unknown solver) and :class:`CalibrationError`.
    Source: Kim, Tang, Yu, CVPR 2024, arXiv 2309.16421, section 4.
    """
    grid = check_sigmas(sigmas)
    session = Session(model, x, grid, extra_args, holdout, progress, parametrization, batch_size)
    stages = session.stages(grid, solver, columns, gain)
    teacher = teacher or Teacher()
    if learn_sigmas:
        _check_descending(grid)
        if targets is not None:
            raise CalibrationError("learn_sigmas needs its own teacher; drop targets.")
        session.check_budget(len(stages), budget - DENSE_STEPS)
        session.model.total = session.most_calls(budget)
        table = session.learned(grid, solver, columns, gain, budget)
    else:
        fine = 0 if targets is not None else len(teacher.stages(grid, session.parametrization))
        session.model.total = session.calls(fine) + session.student_calls(len(stages))
        batches = session.aligned(grid, stages, teacher, targets)
        table = session.fixed(grid, solver, columns, gain, batches, _teacher_name(teacher, targets))
    session.model.finish()
    return table


@torch.no_grad()
def distill_many(
    model: Denoiser,
    x: Tensor,
    grids: Sequence[Tensor | Sequence[float]],
    solvers: Sequence[str] = ("ddim",),
    *,
    extra_args: Mapping[str, Any] | None = None,
    holdout: float = 0.25,
    progress: Progress | None = None,
    parametrization: str | None = None,
    batch_size: int = 8,
    settings: Sequence[tuple[int, bool]] = ((1, False),),
    learn_sigmas: bool = False,
    budget: int = DEFAULT_BUDGET,
) -> list[LambdaTable]:
    """Tables for every grid, solver and (columns, gain) setting from one dense teacher.

    ``grids`` all start and end at the same sigmas; otherwise the arguments are those of
    :func:`distill`. One teacher trajectory of ``DENSE_STEPS`` evaluations serves all of them.
    ``LambdaTable.evaluations`` counts each table's own share, the teacher with the first.
    :func:`best_tables` picks the best for every number of evaluations. Raises as :func:`distill`.
    """
    checked = [check_sigmas(grid) for grid in grids]
    ends = [(grid[0], grid[-1]) for grid in checked]
    if not ends or not all(same_sigmas(pair, ends[0]) for pair in ends):
        raise CalibrationError(
            "The grids of one run must start and end at the same sigmas; distil the others apart."
        )
    for grid in checked:
        _check_descending(grid)
    finest = min(checked, key=lambda grid: min(s for s in grid if s))
    session = Session(model, x, finest, extra_args, holdout, progress, parametrization, batch_size)
    jobs = [
        (grid, solver, *setting) for grid in checked for solver in solvers for setting in settings
    ]
    counts = [len(session.stages(*job)) for job in jobs]
    if learn_sigmas:
        session.check_budget(max(counts), budget - DENSE_STEPS)
    each = sum(
        session.most_calls(budget) if learn_sigmas else session.student_calls(n) for n in counts
    )
    session.model.total = session.calls(DENSE_STEPS) + each
    found = []
    for grid, solver, columns, gain in jobs:
        if learn_sigmas:
            found.append(session.learned(grid, solver, columns, gain, budget))
        else:
            batches = session.dense()
            found.append(session.fixed(grid, solver, columns, gain, batches, session.dense_name))
    session.model.finish()
    return found


def best_tables(tables: Sequence[LambdaTable]) -> dict[int, LambdaTable]:
    """For every number of model evaluations the table of lowest held-out error."""
    best: dict[int, LambdaTable] = {}
    for table in tables:
        errors = table.errors
        if errors is None or errors.distilled_holdout is None:
            continue
        other = best.get(len(table.stages))
        known = other.errors.distilled_holdout if other and other.errors else None
        if known is None or errors.distilled_holdout < known:
            best[len(table.stages)] = table
    return dict(sorted(best.items()))


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
        self.x, self.grid, self.extra_args = x, grid, extra_args or {}
        self.parametrization = parametrization or infer_parametrization(model, grid)
        self.held_out = min(len(x) - 1, max(1, round(holdout * len(x)))) if holdout > 0 else 0
        self.parts = split(len(x), self.held_out, batch_size)
        self.model = CountingModel(model, progress, 0)
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
        held = sum(self._held(part) for part in self.parts)
        shares = [(len(self.parts), len(self.x)), (held, self.held_out)]
        shares.append((len(self.parts) - held, len(self.x) - self.held_out))
        return math.ceil(budget * len(self.x) * max(calls / max(n, 1) for calls, n in shares))

    def check_budget(self, stages: int, budget: float) -> None:
        """Refuse a budget that cannot pay for a table, before anything is run."""
        least = least_budget(stages, self.held_out / len(self.x))
        if budget < least:
            raise CalibrationError(
                f"A budget of {budget + DENSE_STEPS:g} evaluations per sample is too small: "
                f"{stages} stages take at least {math.ceil(least) + DENSE_STEPS}; raise it, or "
                "turn learn_sigmas off."
            )

    def _held(self, part: slice) -> bool:
        return part.start >= len(self.x) - self.held_out

    def _state(self, part: slice) -> State:
        args = {key: _rows(value, part, len(self.x)) for key, value in self.extra_args.items()}
        return State.begin(self.x[part], args, park=len(self.parts) > 1)

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
                goals = list(targets[:, part])
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
        return self._table(solver, grid, lambdas, gain, errors, teacher, zeroed=zeroed)

    def learned(
        self, grid: Sequence[float], solver: str, columns: int, gain: bool, budget: int
    ) -> LambdaTable:
        """A table with learned inner sigmas, or the given grid's where those do not help."""
        batches, low = self.dense(), self.trajectories[0].sigmas[-1]
        spent = (self.model.evaluations - self.counted) / len(self.x)
        found = learn(
            self.model,
            batches,
            self.trajectories,
            grid,
            solver,
            self.parametrization,
            columns,
            gain,
            low,
            budget - spent,
        )
        if found.helps:
            rows = torch.tensor(found.run.lambdas, dtype=torch.float64)
            return self._table(
                solver, found.run.sigmas, rows, gain, found.errors, self.dense_name, learned=True
            )
        return self.fixed(grid, solver, columns, gain, batches, self.dense_name)

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
    ) -> LambdaTable:
        evaluations, self.counted = self.model.evaluations - self.counted, self.model.evaluations
        return LambdaTable(
            solver=solver,
            sigmas=torch.tensor(grid, dtype=torch.float64),
            lambdas=lambdas,
            parametrization=self.parametrization,
            gain=gain,
            learned_sigmas=learned,
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


def _teacher_name(teacher: Teacher, targets: Tensor | None) -> str:
    return "targets" if targets is not None else f"{teacher.solver} x{teacher.substeps}"


def _check_descending(grid: Sequence[float]) -> None:
    if any(a <= b for a, b in zip(grid, grid[1:], strict=False)):
        raise CalibrationError(
            "A dense teacher needs a descending grid; distil this one with distill and without "
            "learn_sigmas."
        )


def _rows(value: Any, part: slice, samples: int) -> Any:
    """A sample's share of an extra argument: rows of a tensor with one row per sample."""
    if isinstance(value, Tensor) and value.ndim and len(value) == samples:
        return value[part]
    return value


def _check(x: Tensor, grid: Sequence[float], holdout: float, batch_size: int) -> None:
    if len(grid) < 2:
        raise CalibrationError("One sigma makes no step; give at least two.")
    if x.ndim < 2 or not len(x) or not x.is_floating_point():
        raise CalibrationError(f"x has shape {tuple(x.shape)}; give noise of shape (B, ...).")
    if not 0 <= holdout < 1:
        raise CalibrationError(f"holdout is {holdout}; use a fraction from 0 to below 1.")
    if batch_size < 1:
        raise CalibrationError(f"batch_size is {batch_size}; use at least 1.")
