"""Distilling a table: one solver on one sigma grid.

    lambda_k = argmin || target_{k+1} - x_plain - sum_i lambda_i q_i ||^2,  q_i = sum_j c_ij m_j

for one column <q, target - x_plain> / <q, q> (arXiv 2309.16421, equation 9), summed over all
elements of all samples in float64. Only inner products are needed, so micro-batches are streamed
and their states parked on the CPU.

*Samples.* Tensors in ``extra_args`` whose first dimension is B belong to the samples and are split
with them. Some samples are held out, at least one when B > 1 and ``holdout`` > 0: a stage's lambda
that does not bring them nearer to their target is 0, and so is the whole table when their final
error is not below the plain solver's. With ``holdout=0`` nothing is held out or zeroed.

*Targets.* The ``teacher``'s states at the grid's own nodes, or ``targets``, (stages, B, ...).

*Directions.* ``columns`` 2 and 3 fit differences of older outputs as well, ``gain`` the newest
output itself; ``directions`` names any of :mod:`dode_core.solve.directions` instead of both. Each
needs some more samples (4 to 16 serve one column, from 8 for more): held-out samples choose how
many columns and how much regularisation a stage gets.

*Sigmas.* ``learn_sigmas`` moves the inner sigmas together with the lambdas to lower the final
error, with a dense teacher and at most ``budget`` model evaluations per sample (300, or 150 when it
goes on from a table: see ``starts``). The first and last sigma stay (a run still starts from the
first, but where the model first looks may lie lower), and the given grid is kept when held-out
samples do not prefer the learned one. ``starts`` are more grids of as many steps to start from (the
host's other schedules, published ones); they are tried beside our own and kept only if they measure
better. Tables among them (of a profile, or of a relative of this model) bring their lambdas as
well: learning goes on from there, tries nothing else, and the table itself is kept unless held-out
samples tell it from a nearer run.

*Peers.* ``peers`` names samplers ("dpmpp_2m", "euler") that are run on the held-out samples and the
given grid as well: ``LambdaTable.peer_errors`` says what a user would otherwise have had.

*Progress.* ``progress(done, total, denoised)`` is called after every model call with the calls
made, the most there will be, and the newest prediction; its method ``begin(phase)``, if any, is
told in words what the next calls are for. Raising from it stops the calibration, and raising
:class:`Enough` while sigmas are learned ends it with the best table so far.
"""

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
from .fit.teacher import Teacher
from .fit.trajectory import DENSE_STEPS, check_descending
from .learn.given import default_budget, start_of
from .learn.learn import SCOUTS
from .session import Session
from .solve.directions import direction_names
from .solve.integrate import Denoiser
from .solve.noise import check_sigmas
from .solve.scheme import Scheme
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
    directions: Sequence[str] | None = None,
    learn_sigmas: bool = False,
    budget: int | None = None,
    starts: Sequence[Tensor | Sequence[float] | LambdaTable] = (),
    peers: Sequence[str] = (),
) -> LambdaTable:
    """Fit a lambda table for one solver on one sigma grid; see the module for every argument.

    model: ``model(x, sigma, **extra_args) -> denoised``, sigma of shape (b,). x: the noise at
    sigmas[0], shape (B, ...). The last ``round(holdout * B)`` samples are held out.
    Raises :class:`SigmasError`, :class:`DodeError` (unknown solver) and :class:`CalibrationError`.
    Source: Kim, Tang, Yu, CVPR 2024, arXiv 2309.16421, section 4.
    """
    grid = check_sigmas(sigmas)
    size = min(batch_size, SCOUTS) if learn_sigmas else batch_size * distributed.size()
    samples = Samples(x, extra_args, holdout, size)
    session = Session(model, samples, grid, parametrization, progress, peers)
    names = tuple(directions) if directions else direction_names(columns, gain)
    scheme = Scheme(solver, session.parametrization, names)
    if learn_sigmas and targets is not None:
        raise CalibrationError("learn_sigmas needs its own teacher; drop targets.")
    if learn_sigmas:
        table = _learned(session, grid, scheme, budget, starts)
    else:
        table = _fitted(session, grid, scheme, teacher or Teacher(), targets)
    session.model.finish()
    return table


def _learned(
    session: Session,
    grid: Sequence[float],
    scheme: Scheme,
    budget: int | None,
    starts: Sequence[Tensor | Sequence[float] | LambdaTable],
) -> LambdaTable:
    """With learned sigmas, from a dense teacher."""
    check_descending(grid)
    begun = [start_of(each, grid, scheme) for each in starts]
    budget = default_budget(begun) if budget is None else budget
    session.check_budget(len(scheme.stages(grid)), budget - DENSE_STEPS)
    session.model.total = session.most_calls(budget)
    return session.learned(grid, scheme, budget, begun)


def _fitted(
    session: Session,
    grid: Sequence[float],
    scheme: Scheme,
    teacher: Teacher,
    targets: Tensor | None,
) -> LambdaTable:
    """On the given grid, from a teacher that passes its nodes, or from given targets."""
    stages = scheme.stages(grid)
    fine = 0 if targets is not None else len(teacher.stages(grid, scheme.parametrization))
    session.model.total = session.calls(fine) + session.student_calls(len(stages))
    batches = session.aligned(grid, stages, teacher, targets)
    return session.fixed(grid, scheme, batches, teacher.name if targets is None else "targets")
