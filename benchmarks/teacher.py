"""How far the dense teacher is from the converged samples, at every guidance scale.

    python dev.py bench teacher     # a few minutes

The candidates are solvers and numbers of evaluations on the teacher's own grid; the reference is
EDM's Heun with 96 steps, 191 evaluations. What learning aims at is only as good as this.
"""

from __future__ import annotations

from collections.abc import Sequence

from tqdm import tqdm

import dode_core as dode
from dode_core.fit.trajectory import DENSE_SOLVER, DENSE_STEPS, dense_grid, dense_teacher
from dode_core.report import text_table
from dode_core.solve.integrate import State

from .common import write_result
from .problems import PROBLEMS, Problem
from .scores import Scores

SAMPLES, SEED, REFERENCE_STEPS = 48, 77, 96
SOLVERS = ("ipndm", "deis", "dpmpp_2m")
STEPS = (30, DENSE_STEPS, 48)


def measure(problem: Problem) -> dict[str, dict[str, float]]:
    """RMS and median error of every candidate, by its name."""
    x, args = problem.noise(SAMPLES, SEED)
    kind = problem.parametrization
    reference = dode.sample(
        problem.model,
        x,
        problem.fine_grid(REFERENCE_STEPS),
        args,
        disable=True,
        solver="heun",
        parametrization=kind,
    )
    scores = Scores(reference, images=False)
    found = {}
    for solver in SOLVERS:
        for steps in STEPS:
            grid = dense_grid(problem.high, problem.low, kind, steps)
            run = dense_teacher(problem.model, State.begin(x, args), grid, kind, solver)
            found[f"{solver} {steps}"] = scores.quick(run.final)
    return found


def main(arguments: Sequence[str] = ()) -> None:
    problems = [problem for problem in PROBLEMS.values() if problem.weights]
    result = {problem.name: measure(problem) for problem in tqdm(problems)}
    names = [f"{solver} {steps}" for solver in SOLVERS for steps in STEPS]
    rows = [
        [name, *(f"{r[name]['rms']:.4f} / {r[name]['median']:.4f}" for r in result.values())]
        for name in names
    ]
    print(text_table(["RMS / median", *result], rows))
    print(f"taken: {DENSE_SOLVER} {DENSE_STEPS}")
    write_result("teacher", result)


if __name__ == "__main__":
    main()
