"""The fit: lambdas in closed form, stage by stage, along the student's own path.

    lambda_k = argmin || target_{k+1} - x_plain - sum_i lambda_i q_i ||^2,  q_i = sum_j c_ij m_j

for one column <q, target - x_plain> / <q, q> (arXiv 2309.16421, equation 9), summed over all
elements of all samples in float64. Only inner products are needed, so micro-batches are streamed
and their states parked on the CPU. Some samples are held out: they decide whether a stage's lambda
is kept, and what the table may claim.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from .errors import CalibrationError
from .fit import Batch, Products, flat, stage_products
from .integrate import Denoiser, State, integrate, no_lambdas, plain, update
from .noise import check_sigmas, infer_parametrization
from .solvers import Stage, get_solver
from .table import MAX_LAMBDA as TABLE_LIMIT
from .table import Errors, LambdaTable
from .teacher import Teacher
from .version import PROGRAM

Progress = Callable[[int, int, Tensor], None]
MAX_LAMBDA = 100.0  # of a validated fit; anything larger is noise over noise
_RIDGES = (0.0, 1e-4, 1e-3, 1e-2, 1e-1)  # tried where several columns are fitted


class CountingModel:
    """The denoiser with its calls counted and reported; raising from progress stops everything."""

    def __init__(self, model: Denoiser, progress: Progress | None, total: int) -> None:
        self.model, self.progress, self.total = model, progress, total
        self.calls = self.evaluations = 0
        self.newest: Tensor | None = None

    def __call__(self, x: Tensor, sigma: Tensor, **extra_args: Any) -> Tensor:
        denoised = self.model(x, sigma, **extra_args)
        self.calls += 1
        self.evaluations += len(x)
        self.newest = denoised
        if not denoised.isfinite().all():
            raise CalibrationError(
                f"The model's output is not finite at sigma {float(sigma[0]):g}; check its "
                "precision (an fp16 overflow?) or use other calibration noise."
            )
        if self.progress is not None:
            self.progress(self.calls, max(self.total, self.calls), denoised)
        return denoised

    def finish(self) -> None:
        """Report the end: calls that were reserved and not needed count as done."""
        if self.progress is not None and self.newest is not None:
            self.progress(self.total, self.total, self.newest)


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
) -> LambdaTable:
    """Fit a lambda table for one solver on one sigma grid.

    model: ``model(x, sigma, **extra_args) -> denoised``, sigma of shape (b,). x: the noise at
    sigmas[0], shape (B, ...). Tensors in ``extra_args`` whose first dimension is B belong to the
    samples and are split with them. ``targets``, shape (stages, B, ...), replace the teacher.
    The last ``round(holdout * B)`` samples (at least one when B > 1 and holdout > 0) are kept out
    of the fit: a stage whose lambda does not bring them nearer to their target takes 0, and so does
    the whole table when their final error is not below the plain solver's. With ``holdout=0``
    nothing is held out or zeroed.

    ``progress(done, total, denoised)`` is called after every model call with the calls made, the
    most there will be, and the newest prediction; raising from it stops the calibration.
    Raises :class:`SigmasError`, :class:`DodeError` (unknown solver) and :class:`CalibrationError`.
    Source: Kim, Tang, Yu, CVPR 2024, arXiv 2309.16421, section 4.
    """
    grid = check_sigmas(sigmas)
    parametrization = parametrization or infer_parametrization(model, grid)
    stages = get_solver(solver).stages(grid, parametrization, columns=columns, gain=gain)
    held_out = min(len(x) - 1, max(1, round(holdout * len(x)))) if holdout > 0 else 0
    _check(x, stages, targets, holdout, batch_size)
    teacher = teacher or Teacher()
    parts = split(len(x), held_out, batch_size)

    fine = 0 if targets is not None else len(teacher.stages(grid, parametrization))
    held_parts = sum(part.start >= len(x) - held_out for part in parts)
    trials = held_parts * len(stages) * (len(stages) + 1) // 2
    most = len(parts) * (fine + 3 * len(stages)) + trials
    counted = CountingModel(model, progress, most)
    batches = []
    for part in parts:
        args = {key: _rows(value, part, len(x)) for key, value in (extra_args or {}).items()}
        park = len(parts) > 1
        if targets is None:
            aligned = teacher.states(
                counted,
                x[part],
                grid,
                extra_args=args,
                parametrization=parametrization,
                park=park,
            )
            goals = [aligned[stage.step] for stage in stages]
        else:
            goals = list(targets[:, part])
        state = State.begin(x[part], args, park)
        held = part.start >= len(x) - held_out
        batches.append(listed(state, goals, held))

    calibration = Calibration(counted, batches, stages, parametrization)
    lambdas, errors = calibration.run()
    counted.finish()
    return LambdaTable(
        solver=solver,
        sigmas=torch.tensor(grid, dtype=torch.float64),
        lambdas=lambdas,
        parametrization=parametrization,
        gain=gain,
        errors=errors,
        zeroed=tuple(sorted(calibration.zeroed)),
        teacher="targets" if targets is not None else f"{teacher.solver} x{teacher.substeps}",
        samples_fit=len(x) - held_out,
        samples_holdout=held_out,
        evaluations=counted.evaluations / len(x),
        latent_shape=tuple(x.shape[1:]),
        program=PROGRAM,
    )


class Calibration:
    """The student's run with lambdas fitted on the way, and what held-out samples say of it."""

    def __init__(
        self,
        model: Denoiser,
        batches: Sequence[Batch],
        stages: Sequence[Stage],
        parametrization: str,
    ) -> None:
        self.model, self.batches, self.stages = model, batches, stages
        self.parametrization = parametrization
        self.validate = any(batch.held_out for batch in batches)
        self.width = max((len(stage.c) for stage in stages), default=1)
        self.lambdas: list[list[float]] = []
        self.zeroed: set[int] = set()

    def run(self) -> tuple[Tensor, Errors]:
        """(lambdas (stages, columns), errors of the final states)."""
        before = self._errors(self._run(plain(self.stages), self.batches))
        checkpoints: list[list[State]] = []  # held-out states before each stage's update
        finals = self._run(self.stages, self.batches, self._fit(checkpoints))
        after = self._errors(finals)
        if self.validate and not after[1] < before[1]:
            after = self._eliminate(checkpoints, before, after)
        rows = torch.tensor(self.lambdas, dtype=torch.float64).reshape(len(self.stages), self.width)
        holdout = (before[1], after[1]) if self.validate else (None, None)
        return rows, Errors(before[0], after[0], *holdout)

    def _fit(self, checkpoints: list[list[State]]) -> Callable[..., Sequence[float]]:
        def choose(k: int, stage: Stage, states: Sequence[State]) -> Sequence[float]:
            pairs = zip(states, self.batches, strict=True)
            checkpoints.append([state.copy() for state, batch in pairs if batch.held_out])
            products = stage_products(self.batches, k, stage, states, self.width)
            if products is None:
                row = torch.zeros(self.width, dtype=torch.float64)
            elif self.validate:
                row = self._validated(k, products)
            else:
                row = products.solve()
                if not float(row.abs().max()) <= TABLE_LIMIT:  # its direction is noise
                    row = torch.zeros_like(row)
            self.lambdas.append(row.tolist())
            return self.lambdas[-1]

        return choose

    def _validated(self, k: int, products: Products) -> Tensor:
        """The candidate that brings held-out samples nearest to their targets; 0 is always one."""
        candidates = [products.solve()]
        if self.width > 1:
            active = range(1, self.width + 1)
            candidates = [products.solve(ridge, n) for n in active for ridge in _RIDGES]
        sane = [row for row in candidates if float(row.abs().max()) <= MAX_LAMBDA]
        best = min(sane, key=products.change, default=None)
        if best is None or not products.change(best) < 0:
            self.zeroed.add(k)
            return torch.zeros(self.width, dtype=torch.float64)
        return best

    def _eliminate(
        self,
        checkpoints: Sequence[Sequence[State]],
        before: tuple[float, float],
        after: tuple[float, float],
    ) -> tuple[float, float]:
        """Zero lambdas that do not help the held-out final error, last stage first.

        Each trial re-runs the held-out samples from that stage only. When the rest is still not
        better than the plain solver, nothing is left.
        """
        held = [batch for batch in self.batches if batch.held_out]
        for k in reversed(range(len(self.stages))):
            if not any(self.lambdas[k]):
                continue
            kept, self.lambdas[k] = self.lambdas[k], [0.0] * self.width
            states = [state.copy() for state in checkpoints[k]]
            trial = self._errors(self._finish(states, k), held)[1]
            if trial < after[1]:
                after = after[0], trial
                self.zeroed.add(k)
            else:
                self.lambdas[k] = kept
        if after[1] < before[1]:
            finals = self._run(self.stages, self.batches, lambda k, *_: self.lambdas[k])
            return self._errors(finals)
        self.zeroed.update(k for k, row in enumerate(self.lambdas) if any(row))
        self.lambdas = [[0.0] * self.width for _ in self.stages]
        return before

    def _finish(self, states: list[State], k: int) -> list[State]:
        """Run held-out states on, from after stage k's model call to the end."""
        for state in states:
            state.x = update(state, self.stages[k], self.lambdas[k])
        choose: Any = lambda i, *_: self.lambdas[i]  # noqa: E731
        loop = integrate(
            self.model,
            states,
            self.stages,
            choose,
            parametrization=self.parametrization,
            first=k + 1,
        )
        for _ in loop:
            pass
        return states

    def _run(
        self, stages: Sequence[Stage], batches: Sequence[Batch], choose: Any = no_lambdas
    ) -> list[State]:
        states = [batch.state.copy() for batch in batches]
        for _ in integrate(
            self.model, states, stages, choose, parametrization=self.parametrization
        ):
            pass
        return states

    def _errors(
        self, finals: Sequence[State], batches: Sequence[Batch] | None = None
    ) -> tuple[float, float]:
        """RMS distance of final states to the last goal: (fit samples, held-out samples)."""
        squares: dict[bool, list[float]] = {False: [], True: []}
        for state, batch in zip(finals, batches or self.batches, strict=True):
            distance = flat(state.x - batch.final).square().mean(1)
            squares[batch.held_out] += distance.tolist()
        means = [math.fsum(v) / len(v) if v else 0.0 for v in (squares[False], squares[True])]
        if not all(map(math.isfinite, means)):
            raise CalibrationError(
                "The final states are not finite; check the model's precision (an fp16 overflow?)."
            )
        return math.sqrt(means[0]), math.sqrt(means[1])


def listed(state: State, goals: Sequence[Tensor], held_out: bool) -> Batch:
    """A micro-batch whose goals are given stage by stage."""
    own = [goal.to(state.x) for goal in goals]
    return Batch(state, lambda k, stage: own[k], own[-1], held_out)


def split(samples: int, held_out: int, batch_size: int) -> list[slice]:
    """Micro-batches; none mixes fit and held-out samples, which come last."""
    parts = []
    for low, high in ((0, samples - held_out), (samples - held_out, samples)):
        parts += [slice(i, min(i + batch_size, high)) for i in range(low, high, batch_size)]
    return parts


def _rows(value: Any, part: slice, samples: int) -> Any:
    """A sample's share of an extra argument: rows of a tensor with one row per sample."""
    if isinstance(value, Tensor) and value.ndim and len(value) == samples:
        return value[part]
    return value


def _check(
    x: Tensor, stages: Sequence[Stage], targets: Tensor | None, holdout: float, batch_size: int
) -> None:
    if not stages:
        raise CalibrationError("One sigma makes no step; give at least two.")
    if x.ndim < 2 or not len(x) or not x.is_floating_point():
        raise CalibrationError(f"x has shape {tuple(x.shape)}; give noise of shape (B, ...).")
    if not 0 <= holdout < 1:
        raise CalibrationError(f"holdout is {holdout}; use a fraction from 0 to below 1.")
    if batch_size < 1:
        raise CalibrationError(f"batch_size is {batch_size}; use at least 1.")
    if targets is not None and targets.shape != (len(stages), *x.shape):
        raise CalibrationError(
            f"targets have shape {tuple(targets.shape)}, expected {(len(stages), *x.shape)}: one "
            "state per model evaluation and sample."
        )
