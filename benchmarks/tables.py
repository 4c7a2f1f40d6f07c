"""How long a profile's tables take to be made, beside one image of 20 steps; how large it is.

Tables are made on first use, without the model; the bar is 3 seconds on two cores. Those that the
calibration measured are there already and left out.

    python dev.py bench tables
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

import dode_core as dode
from dode_core.report import text_table
from dode_core.response.profile_file import dump_profile

from .common import write_result
from .problems import PROBLEMS
from .profile_jobs import calibrated
from .references import STARTS

PROBLEM, BAR = "EDM, cfg 7", 3.0
COUNTS = range(3, 31)
GRID = 8  # steps of a grid that is kept


def seconds(work: Callable[[], Any]) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def main(arguments: Sequence[str] = ()) -> None:
    problem = PROBLEMS[PROBLEM]
    profile = calibrated(problem)
    x, args = problem.noise(1, 0)
    image = seconds(lambda: dode.sample(problem.model, x, problem.grid(20), args, disable=True))
    runs: dict[str, Callable[[], Any]] = {
        f"{n} steps": lambda n=n: profile.table(n) for n in COUNTS if profile.known(n, None) is None
    }
    start = STARTS[problem.parametrization][0]
    runs |= {f"{n} steps from {start:g}": lambda n=n: profile.table(n, start) for n in (3, 6)}
    runs[f"{GRID} steps, kept schedule"] = lambda: profile.table(sigmas=problem.grid(GRID))
    took = {name: seconds(work) for name, work in runs.items()}
    rows = [[name, f"{s:.2f} s", f"{s / image:.1f}"] for name, s in took.items()]
    print(text_table(["table", "made in", "times a 20-step image"], rows))
    late = [name for name, s in took.items() if s > BAR]
    print(
        f"together {sum(took.values()):.0f} s, longest {max(took.values()):.2f} s; over {BAR:g} s:"
    )
    print(", ".join(late) or "none")
    size = len(dump_profile(profile)) / 1024
    print(f"the profile's file: {size:.0f} KiB")
    write_result("tables", {"20-step image": image, "tables": took, "file in KiB": size})


if __name__ == "__main__":
    import sys

    main(sys.argv[1:])
