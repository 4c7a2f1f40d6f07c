"""Profiles at a cfg that nobody calibrated: the nearest, two mixed, or one made for it.

Resumable: results in benchmarks/results/between.json. Quick profiles, as ``profile`` makes them.

    python dev.py bench between
    python dev.py bench between --report
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from typing import Any

import dode_core as dode
from dode_core.match.between_cfgs import mixed
from dode_core.report import text_table

from .common import RESULTS, add_result, load_results
from .problems import PROBLEMS, Problem
from .profile_jobs import calibrated, errors
from .references import reference

PATH = RESULTS / "between.json"
RUNS = (("EDM", 1.0, 2.0, 3.0), ("EDM", 3.0, 5.0, 7.0), ("flow", 2.0, 3.0, 4.5))
COUNTS = (5, 6, 8, 12)


def at(kind: str, cfg: float) -> Problem:
    name = f"{kind}, cfg {cfg:g}"
    parametrization, weights = {"EDM": ("ve", "emoji_edm"), "flow": ("flow", "emoji_flow")}[kind]
    return PROBLEMS.get(name) or Problem(name, parametrization, cfg, weights)


@cache
def profile(kind: str, cfg: float) -> dode.Profile:
    return calibrated(at(kind, cfg))


def compared(
    kind: str, low: float, asked: float, high: float, steps: int, noises: int
) -> dict[str, Any]:
    """RMS and median of every way to a run at ``asked``, on noise that no calibration saw."""
    problem, known = at(kind, asked), reference(at(kind, asked), noises)
    ends = [replace(profile(kind, cfg).table(steps), cfg=cfg) for cfg in (low, high)]
    tables = {
        "below": ends[0],
        "above": ends[1],
        "mixed": mixed(ends[0], ends[1], asked),
        "own": profile(kind, asked).table(steps),
    }
    return {
        name: None
        if table is None
        else errors(problem, known.noise, known.final, table.sigmas, table=table)
        for name, table in tables.items()
    }


def report() -> None:
    rows = [
        [key, *(f"{v[0]:.4f} / {v[1]:.4f}" if v else "not alike" for v in job.values())]
        for key, job in load_results(PATH).items()
    ]
    head = ["RMS / median", "the one below", "the one above", "mixed", "one made for it"]
    print(text_table(head, rows))


def main(arguments: Sequence[str] = ()) -> None:
    parser = argparse.ArgumentParser(prog="between")
    parser.add_argument("--noises", type=int, default=64)
    parser.add_argument("--report", action="store_true", help="run nothing")
    args = parser.parse_args(arguments)
    for kind, low, asked, high in () if args.report else RUNS:
        for steps in COUNTS:
            key = f"{kind}, cfg {asked:g} from {low:g} and {high:g}, {steps}"
            if key not in load_results(PATH):
                add_result(PATH, key, compared(kind, low, asked, high, steps, args.noises))
    report()


if __name__ == "__main__":
    import sys

    main(sys.argv[1:])
