"""Is what a profile expects right? Every observed run, foretold by the others of its calibration.

A run that is left out is told from the rest: how far off, beside the variance that was believed of
it. And what the stored results of ``bench profile`` say: what was expected beside what came out.

    python dev.py bench belief
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from dode_core import Profile
from dode_core.calibration import OBSERVED
from dode_core.report import text_table
from dode_core.response.belief import EXPECTED, HOPED, Belief
from dode_core.response.optimise import Moves

from .common import write_result
from .problems import PROBLEMS
from .profile_jobs import calibrated, load

BELIEFS = {"expected": EXPECTED, "hoped": HOPED}
# Beside them: another reach, a smoother kernel, and a narrower Gaussian.
OTHERS = {
    "expected, reach 0.7": replace(EXPECTED, reach=0.7),
    "expected, reach 3": replace(EXPECTED, reach=3.0),
    "expected, power 1.5": replace(EXPECTED, power=1.5),
    "hoped, reach 1": replace(HOPED, reach=1.0),
}
SETTING = "quick"


def left_out(profile: Profile, belief: Belief) -> tuple[float, float]:
    """Of every observed run, told by the others: the mean of squared error over variance, and the
    share of what J alone misses that is explained.
    """
    points = profile.response.points
    first = 0 if profile.looks else 1  # a first evaluation that does not look ahead says nothing
    sizes = [steps - first for steps in OBSERVED]
    if points is None or len(points.logs) != sum(sizes):
        raise ValueError(f"The profile has not seen the runs of {OBSERVED} steps.")
    run_of = np.repeat(np.arange(len(sizes)), sizes)
    squares, variances, missed = [], [], []
    for i in range(len(sizes)):
        kept = np.flatnonzero(run_of != i)
        told = np.flatnonzero(run_of == i)[1 - first :]  # all runs share where they look ahead
        some = replace(
            points, logs=points.logs[kept], dx=points.dx[:, kept], answer=points.answer[:, kept]
        )
        response = replace(profile.response, points=some, belief=belief)
        logs, dx, answer = points.logs[told], points.dx[:, told], points.answer[:, told]
        around = response.at(Moves(profile.parametrization, profile.sigma_min).sigma(logs))
        nothing = np.zeros((*dx.shape[:2], 1))
        out, _, variance = around.denoised(
            np.arange(len(told)), around.state + dx, nothing, nothing
        )
        squares.append(((out - around.output - answer) ** 2).sum(2))
        missed.append(((around.j[:, :, None] * dx - answer) ** 2).sum(2))
        variances.append(variance)
    square, variance = np.concatenate(squares, 1), np.concatenate(variances, 1)
    explained = 1 - square.sum() / np.concatenate(missed, 1).sum()
    return float((square / variance).mean()), float(explained)


def main(arguments: Sequence[str] = ()) -> None:
    found: dict[str, dict[str, tuple[float, float]]] = {}
    for name, problem in PROBLEMS.items():
        profile = calibrated(problem, SETTING)
        found[name] = {k: left_out(profile, b) for k, b in (BELIEFS | OTHERS).items()}
        print(name, {k: f"{a:.2f}, {b:.2f}" for k, (a, b) in found[name].items()}, flush=True)
    names = list(BELIEFS | OTHERS)
    rows = [[p, *(f"{f[n][0]:.1f}, {f[n][1]:.2f}" for n in names)] for p, f in found.items()]
    print(text_table(["squared error over variance, explained", *names], rows))
    came = {key: job for key, job in load().items() if key.split("/")[1].startswith(SETTING)}
    told: dict[str, tuple[float, float]] = {}
    for measure in ("rms", "median"):
        logs = np.log([job["expected"] / job[measure] for job in came.values()])
        told[measure] = float(np.exp(logs.mean())), float(np.exp(logs.std()))
        mean, spread = told[measure]
        print(f"expected over {measure}: geometric mean {mean:.2f}, spread a factor {spread:.2f}")
    write_result("belief", {"left out": found, "expected over": told, "runs": len(came)})


if __name__ == "__main__":
    import sys

    main(sys.argv[1:])
