"""Many tables from one dense teacher: grids, solvers and settings, and the best of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from .errors import CalibrationError
from .fit import distributed
from .fit.batches import Samples
from .fit.dropping import dropping_samples
from .fit.guarded import Progress
from .fit.trajectory import DENSE_NAME, DENSE_STEPS, check_descending
from .learn.given import default_budget, start_of
from .learn.learn import MANY_BUDGET, SCOUTS
from .learn.starts import Start, resampled
from .session import Session
from .solve.integrate import Denoiser
from .solve.noise import check_sigmas, same_sigmas
from .solve.scheme import Scheme
from .tables.table import LambdaTable

ToMake = tuple[tuple[float, ...], Scheme]  # a table to make: its grid, and what runs on it


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
    peers: Sequence[str] = (),
    starts: Sequence[LambdaTable] = (),
) -> list[LambdaTable]:
    """Tables for every grid, solver and (columns, gain) setting from one dense teacher.

    ``grids`` all start and end at the same sigmas; otherwise the arguments are those of
    :func:`distill`. One teacher trajectory of ``DENSE_STEPS`` evaluations serves all of them.
    ``LambdaTable.evaluations`` counts each table's own share, the teacher with the first.
    With ``learn_sigmas`` all tables together cost at most ``budget`` evaluations per sample, shared
    by their numbers of steps (default: 300 a table, 150 of one that goes on from ``starts``, 1,500
    in all). A table that is made starts from those before it as well; where one of ``starts`` is
    of the same run, learning goes on from that.
    :func:`best_tables` picks the best for every number of evaluations. Raises as :func:`distill`.
    """
    checked = [check_sigmas(grid) for grid in grids]
    finest = _finest(checked)
    size = min(batch_size, SCOUTS) if learn_sigmas else batch_size * distributed.size()
    samples = Samples(x, extra_args, holdout, size)
    session = Session(model, samples, finest, parametrization, progress, peers)
    schemes = [
        Scheme.of(solver, session.parametrization, *setting)
        for solver in solvers
        for setting in settings
    ]
    jobs = [(grid, scheme) for grid in checked for scheme in schemes]
    if learn_sigmas:
        found = _all_learned(session, jobs, budget, starts)
    else:
        found = _all_fitted(session, jobs)
    session.model.finish()
    return found


def _finest(grids: Sequence[tuple[float, ...]]) -> tuple[float, ...]:
    """The grid that goes furthest down; all must start and end alike, and descend."""
    ends = [(grid[0], grid[-1]) for grid in grids]
    if not ends or not all(same_sigmas(pair, ends[0]) for pair in ends):
        raise CalibrationError(
            "The grids of one run must start and end at the same sigmas; distill the others apart."
        )
    for grid in grids:
        check_descending(grid)
    return min(grids, key=lambda grid: min(s for s in grid if s))


def _all_fitted(session: Session, jobs: Sequence[ToMake]) -> list[LambdaTable]:
    calls = sum(session.student_calls(len(scheme.stages(grid))) for grid, scheme in jobs)
    session.model.total = session.calls(DENSE_STEPS) + calls
    return [session.fixed(grid, scheme, session.dense(), DENSE_NAME) for grid, scheme in jobs]


def _all_learned(
    session: Session,
    jobs: Sequence[ToMake],
    budget: float | None,
    given: Sequence[LambdaTable] = (),
) -> list[LambdaTable]:
    counts = [len(scheme.stages(grid)) for grid, scheme in jobs]
    ready = [
        [start_of(each, grid, scheme) for each in given if _alike(each, grid)]
        for grid, scheme in jobs
    ]
    if budget is None:
        budget = min(MANY_BUDGET, sum(map(default_budget, ready)))
    budgets = [(budget - DENSE_STEPS) * n / sum(counts) for n in counts]
    for n, share in zip(counts, budgets, strict=True):
        session.check_budget(n, share)
    session.model.total = session.calls(DENSE_STEPS) + session.most_calls(sum(budgets))
    found: list[LambdaTable] = []
    for (grid, scheme), share, begun in zip(jobs, budgets, ready, strict=True):
        session.dense()  # the teacher, before anything that a table is charged for
        spent = DENSE_STEPS if not found else 0
        starts = [start for table in found if (start := _resampled(table, len(grid) - 1))]
        found.append(session.learned(grid, scheme, share + spent, [*starts[-1:], *begun]))
    return found


def _alike(table: LambdaTable, grid: Sequence[float]) -> bool:
    """Whether a table's run is from and to where a grid's is, in as many steps."""
    ends = float(table.sigmas[0]), float(table.sigmas[-1])
    return table.steps == len(grid) - 1 and same_sigmas(ends, (grid[0], grid[-1]))


def _resampled(table: LambdaTable, steps: int) -> Start | None:
    """A learned table's nodes at another number of steps."""
    kind = table.parametrization
    grid = resampled(table.sigmas.tolist(), steps, kind) if table.learned_sigmas else None
    if grid is None:
        return None
    if table.look_ahead is None:
        return Start(tuple(grid))
    return Start.looking(grid, kind, table.look_ahead.sigma)


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
