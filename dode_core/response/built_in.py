"""Built-in samplers as a profile sees them: what is expected of them, and never worse than them.

The rows of ``ddim``, ``ipndm``, ``deis`` and ``dpmpp_2m`` on the grids that people use, simulated.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from typing import TYPE_CHECKING

import torch

from ..errors import DodeError
from ..solve.scheme import Scheme
from ..tables.fields import OF_PROFILE, Errors
from ..tables.table import LambdaTable
from .measured import nearest
from .run_of_stages import expected_errors
from .simulate import Plan
from .usual import usual_grids

if TYPE_CHECKING:
    from .profile import Profile

SOLVERS = ("ddim", "ipndm", "deis", "dpmpp_2m")


def best_built_in(
    profile: Profile, plan: Plan, given: Sequence[float] | None = None
) -> LambdaTable | None:
    """The table, all zeros, of the built-in rows of least expected error for the same run."""
    first, kind = plan.sigmas[0], profile.parametrization
    grids = [given] if given is not None else [list(plan.sigmas)]
    if given is None and plan.stages > 1:
        grids += usual_grids(first, profile.sigma_min, plan.stages, kind)
    found: list[tuple[float, str, Sequence[float]]] = []
    for name in SOLVERS:
        runs, served = [], []
        for grid in grids:
            with suppress(DodeError):  # a solver that cannot run one grid may run the others
                runs.append(Scheme(name, kind).plain(grid))
                served.append(grid)
        errors = expected_errors(profile.response, runs).tolist() if runs else []
        found += [(error, name, grid) for error, grid in zip(errors, served, strict=True)]
    if not found:
        return None
    error, name, grid = min(found, key=lambda each: each[0])
    return _plain(profile, name, grid, error, given is None)


def is_nearer(profile: Profile, other: LambdaTable, table: LambdaTable) -> bool:
    """Whether ``other``, of built-in rows, should end nearer than the profile's ``table``.

    By what is expected of both. Where the nearest run that was measured beside built-in rows was
    left to those, by how far both ended above what was expected there as well; where ours ended
    nearer it says nothing: how far above grows with the steps, and took 4 to 7 steps from ours that
    would have ended 8 to 50 % nearer (docs/benchmarks.md).
    """
    if other.errors is None or table.errors is None:
        return False
    ours, theirs = table.errors.distilled_fit, other.errors.distilled_fit
    both = [each for each in profile.measured if each.built_in is not None]
    found = nearest(both, table.steps, profile.is_whole(table))
    left = None if found is None else profile.known(found.steps, found.start)
    if found is not None and left is not None and not left.lambdas.any():
        return theirs * found.built_in_optimism <= ours * found.optimism
    return theirs <= ours


def _plain(
    profile: Profile, solver: str, grid: Sequence[float], error: float, learned: bool
) -> LambdaTable:
    plain = Scheme(solver, profile.parametrization)
    return LambdaTable.of(
        plain,
        list(grid),
        torch.zeros(len(plain.stages(grid)), 1, dtype=torch.float64),
        errors=Errors(error, error),
        teacher=OF_PROFILE,
        samples_fit=profile.samples_fit,
        samples_holdout=profile.samples_holdout,
        evaluations=profile.evaluations,
        learned_sigmas=learned,
        program=profile.program,
    )
