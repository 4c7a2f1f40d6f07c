"""Our entries of the comparison: solver, columns, gain, learned sigmas."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Any

import dode_core as dode
from dode_core.solve.solvers import SOLVERS

from .problems import Problem

CALIBRATION, SEED = 16, 1


@dataclass(frozen=True)
class Entry:
    """One way to make a table; ``how`` are :func:`dode_core.distill`'s arguments, None is plain."""

    solver: str
    how: dict[str, Any] | None
    together: bool = False  # with all step counts of TOGETHER, from one teacher

    def steps(self, nfe: int) -> int:
        return SOLVERS[self.solver].steps_for(nfe)

    def serves(self, nfe: int) -> bool:
        if self.together and nfe not in TOGETHER:
            return False
        return SOLVERS[self.solver].evaluations(self.steps(nfe)) == nfe


WAYS: dict[str, dict[str, Any] | None] = {
    "plain": None,
    "paper's D-": {},
    "columns": {"columns": 2, "gain": True},
    "columns, sigmas": {"columns": 2, "gain": True, "learn_sigmas": True},
}
TOGETHER = tuple(range(4, 11))  # step counts of one run of distill_many
DEFAULT = "ddim: columns, sigmas"  # what the nodes do for a user who chooses nothing
OURS = {f"{solver}: {way}": Entry(solver, how) for way, how in WAYS.items() for solver in SOLVERS}
OURS |= {
    f"ddim: {way}, 4 to 10 together": Entry("ddim", WAYS[way], together=True)
    for way in ("columns", "columns, sigmas")
}


def distill(problem: Problem, nfe: int, entry: Entry) -> dode.LambdaTable | None:
    """The entry's table; None for a plain solver."""
    if entry.how is None:
        return None
    if entry.together:
        return together(problem, entry.solver, **entry.how)[nfe]
    noise, args = problem.noise(CALIBRATION, SEED)
    return dode.distill(
        problem.model,
        noise,
        problem.grid(entry.steps(nfe)),
        entry.solver,
        extra_args=args,
        batch_size=16,
        parametrization=problem.parametrization,
        **entry.how,
    )


@cache
def together(problem: Problem, solver: str, **how: Any) -> dict[int, dode.LambdaTable]:
    """Tables for all of TOGETHER from one teacher; each says what it cost itself."""
    noise, args = problem.noise(CALIBRATION, SEED)
    tables = dode.distill_many(
        problem.model,
        noise,
        [problem.grid(nfe) for nfe in TOGETHER],
        [solver],
        extra_args=args,
        batch_size=16,
        parametrization=problem.parametrization,
        settings=[(how["columns"], how["gain"])],
        learn_sigmas=how.get("learn_sigmas", False),
    )
    return dict(zip(TOGETHER, tables, strict=True))
