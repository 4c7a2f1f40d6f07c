"""Distilling tables: one solver on one grid, or many from one teacher.

    lambda_k = argmin || target_{k+1} - x_plain - sum_i lambda_i q_i ||^2,  q_i = sum_j c_ij m_j

for one column <q, target - x_plain> / <q, q> (arXiv 2309.16421, equation 9), summed over all
elements of all samples in float64. Only inner products are needed, so micro-batches are streamed
and their states parked on the CPU. Some samples are held out: they decide whether a stage's lambda
is kept, and what the table may claim.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from .errors import CalibrationError
from .fit import distributed
from .fit.dropping import dropping_samples
from .fit.guarded import Progress
from .fit.teacher import Teacher
from .fit.trajectory import DENSE_STEPS
from .learn.learn import DEFAULT_BUDGET, MANY_BUDGET, SCOUTS
from .learn.starts import Start, resampled
from .session import Session
from .solve.integrate import Denoiser
from .solve.noise import check_sigmas, same_sigmas
from .tables.table import LambdaTable


@torch.no_grad()
@dropping_samples
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
    starts: Sequence[Tensor | Sequence[float]] = (),
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
    most ``budget`` model evaluations per sample; the first and last sigma stay (a run still starts
    from the first, but where the model first looks may lie lower), and the given grid is kept when
    held-out samples do not prefer the learned one. ``starts`` are more grids of as
    many steps to start from (the host's other schedules, published ones); they are tried beside
    our own and kept only if they measure better.

    ``progress(done, total, denoised)`` is called after every model call with the calls made, the
    most there will be, and the newest prediction; its method ``begin(phase)``, if any, is
    told in words what the next calls are for. Raising from it stops the calibration, and
    raising :class:`Enough` while sigmas are learned ends it with the best table so far.
    Raises :class:`SigmasError`, :class:`DodeError` (unknown solver) and :class:`CalibrationError`.
    Source: Kim, Tang, Yu, CVPR 2024, arXiv 2309.16421, section 4.
    """
    grid = check_sigmas(sigmas)
    batch_size = min(batch_size, SCOUTS) if learn_sigmas else batch_size * distributed.size()
    session = Session(model, x, grid, extra_args, holdout, progress, parametrization, batch_size)
    stages = session.stages(grid, solver, columns, gain)
    teacher = teacher or Teacher()
    if learn_sigmas:
        _check_descending(grid)
        if targets is not None:
            raise CalibrationError("learn_sigmas needs its own teacher; drop targets.")
        session.check_budget(len(stages), budget - DENSE_STEPS)
        session.model.total = session.most_calls(budget)
        own = [Start(_start(start, grid)) for start in starts]
        table = session.learned(grid, solver, columns, gain, budget, own)
    else:
        fine = 0 if targets is not None else len(teacher.stages(grid, session.parametrization))
        session.model.total = session.calls(fine) + session.student_calls(len(stages))
        batches = session.aligned(grid, stages, teacher, targets)
        table = session.fixed(grid, solver, columns, gain, batches, _teacher_name(teacher, targets))
    session.model.finish()
    return table


@torch.no_grad()
@dropping_samples
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
    budget: float | None = None,
) -> list[LambdaTable]:
    """Tables for every grid, solver and (columns, gain) setting from one dense teacher.

    ``grids`` all start and end at the same sigmas; otherwise the arguments are those of
    :func:`distill`. One teacher trajectory of ``DENSE_STEPS`` evaluations serves all of them.
    ``LambdaTable.evaluations`` counts each table's own share, the teacher with the first.
    With ``learn_sigmas`` all tables together cost at most ``budget`` evaluations per sample, shared
    by their numbers of steps (default: 300 a table, 1,500 in all), and a table that is made starts
    from those before it as well.
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
    batch_size = min(batch_size, SCOUTS) if learn_sigmas else batch_size * distributed.size()
    finest = min(checked, key=lambda grid: min(s for s in grid if s))
    session = Session(model, x, finest, extra_args, holdout, progress, parametrization, batch_size)
    jobs = [
        (grid, solver, *setting) for grid in checked for solver in solvers for setting in settings
    ]
    counts = [len(session.stages(*job)) for job in jobs]
    if learn_sigmas:
        budgets = _shares(counts, budget)
        for n, share in zip(counts, budgets, strict=True):
            session.check_budget(n, share)
        most = session.most_calls(sum(budgets))
    else:
        budgets = [0.0] * len(counts)
        most = sum(session.student_calls(n) for n in counts)
    session.model.total = session.calls(DENSE_STEPS) + most
    found: list[LambdaTable] = []
    for (grid, solver, columns, gain), share in zip(jobs, budgets, strict=True):
        batches = session.dense()
        if learn_sigmas:
            spent = DENSE_STEPS if not found else 0
            starts = [start for table in found if (start := _resampled(table, len(grid) - 1))]
            table = session.learned(grid, solver, columns, gain, share + spent, starts[-1:])
        else:
            table = session.fixed(grid, solver, columns, gain, batches, session.dense_name)
        found.append(table)
    session.model.finish()
    return found


def _resampled(table: LambdaTable, steps: int) -> Start | None:
    """A learned table's nodes at another number of steps."""
    kind = table.parametrization
    grid = resampled(table.sigmas.tolist(), steps, kind) if table.learned_sigmas else None
    if grid is None:
        return None
    if table.look_ahead is None:
        return Start(tuple(grid))
    return Start.looking(grid, kind, table.look_ahead.sigma)


def _shares(counts: Sequence[int], budget: float | None) -> list[float]:
    """What each table may cost, by its number of stages, the shared teacher taken off."""
    if budget is None:
        budget = min(MANY_BUDGET, DEFAULT_BUDGET * len(counts))
    return [(budget - DENSE_STEPS) * n / sum(counts) for n in counts]


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


def _teacher_name(teacher: Teacher, targets: Tensor | None) -> str:
    return "targets" if targets is not None else f"{teacher.solver} x{teacher.substeps}"


def _check_descending(grid: Sequence[float]) -> None:
    if any(a <= b for a, b in zip(grid, grid[1:], strict=False)):
        raise CalibrationError(
            "A dense teacher needs a descending grid; distil this one with distill and without "
            "learn_sigmas."
        )


def _start(start: Tensor | Sequence[float], grid: Sequence[float]) -> tuple[float, ...]:
    """A grid to start from, with the ends of the grid that is distilled."""
    found = check_sigmas(start)
    if len(found) != len(grid):
        raise CalibrationError(
            f"A start has {len(found) - 1} steps, but the table is to have {len(grid) - 1}; give "
            "grids of as many steps."
        )
    inner = [*found[1:-1]]
    _check_descending([grid[0], *inner, grid[-1]])
    return (grid[0], *inner, grid[-1])
