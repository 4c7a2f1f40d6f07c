"""Profiles of one prompt and of many, each on its own prompts and on the others'.

The demo's prompts are its classes. Resumable: results in benchmarks/results/prompts.json.

    python dev.py bench prompts
    python dev.py bench prompts --report
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from functools import cache
from typing import Any

import dode_core as dode
from dode_core.report import text_table

from .common import RESULTS, add_result, load_results
from .profile_jobs import calibrated, errors
from .references import reference
from .refine import of_prompt

PATH = RESULTS / "prompts.json"
NAMES = ("EDM, cfg 3", "EDM, cfg 7")
PROMPTS = (None, 3, 7)  # None: all of them in turn
COUNTS = (6, 8)


@cache
def profile(name: str, prompt: int | None) -> dode.Profile:
    return calibrated(of_prompt(name, prompt))


def measured(name: str, made: int | None, run: int | None, steps: int, noises: int) -> list[float]:
    """RMS and median of the profile of ``made`` on the prompts of ``run``."""
    problem = of_prompt(name, run)
    known, table = reference(problem, noises), profile(name, made).table(steps)
    return errors(problem, known.noise, known.final, table.sigmas, table=table)


def called(prompt: int | None) -> str:
    return "many prompts" if prompt is None else f"prompt {prompt}"


def report() -> None:
    found: dict[str, dict[str, Any]] = {}
    for key, values in load_results(PATH).items():
        name, steps, made, run = key.split("/")
        found.setdefault(f"{name}, {steps}: made of {made}", {})[run] = values
    head = ["RMS / median on", *map(called, PROMPTS)]
    rows = [
        [what, *(f"{v[0]:.4f} / {v[1]:.4f}" if (v := on.get(called(p))) else "" for p in PROMPTS)]
        for what, on in found.items()
    ]
    print(text_table(head, rows))


def main(arguments: Sequence[str] = ()) -> None:
    parser = argparse.ArgumentParser(prog="prompts")
    parser.add_argument("--noises", type=int, default=64)
    parser.add_argument("--report", action="store_true", help="run nothing")
    args = parser.parse_args(arguments)
    runs = [
        (name, steps, made, run)
        for name in NAMES
        for steps in COUNTS
        for made in PROMPTS
        for run in PROMPTS
    ]
    for name, steps, made, run in [] if args.report else runs:
        key = f"{name}/{steps}/{called(made)}/{called(run)}"
        if key not in load_results(PATH):
            add_result(PATH, key, measured(name, made, run, steps, args.noises))
    report()


if __name__ == "__main__":
    import sys

    main(sys.argv[1:])
