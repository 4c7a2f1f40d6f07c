"""Best for some steps, from a profile that is there: what 150 evaluations more are worth.

Resumable, as ``profile``: results in benchmarks/results/refine.json. The profile is the quick one,
and learning goes on with other noises than its own, as in the hosts.

    python dev.py bench refine                             # everything
    python dev.py bench refine --problems "EDM, cfg 7" --counts 6 8
    python dev.py bench refine --prompt 3                  # for one prompt: a class of the demo
    python dev.py bench refine --report                    # only the table of what is there
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

import dode_core as dode
from dode_core.refining import seed_for
from dode_core.report import text_table

from .common import RESULTS, add_result, load_results
from .few_step import load as few_step
from .problems import PROBLEMS, Problem
from .profile import peers
from .profile_jobs import SAMPLES, SEED, errors, made
from .references import reference

PATH = RESULTS / "refine.json"
COUNTS = (5, 6, 8, 12)
GUIDED = ("EDM, cfg 3", "EDM, cfg 7", "flow, cfg 3", "MNIST transformer, cfg 3")
LEARNED = "ddim: columns, sigmas"  # 300 evaluations from nothing, of the benchmark few_step


@dataclass(frozen=True)
class OnePrompt(Problem):
    """A demo problem of which all samples have one label, the only kind of prompt that it has."""

    label: int = 0

    def noise(self, count: int, seed: int) -> tuple[Tensor, dict[str, Any]]:
        x, args = super().noise(count, seed)
        return x, args | {"labels": torch.full_like(args["labels"], self.label)}


def of_prompt(name: str, prompt: int | None) -> Problem:
    """The problem with one label, or with all."""
    known = PROBLEMS[name]
    if prompt is None:
        return known
    how = known.parametrization, known.cfg, known.weights, prompt
    return OnePrompt(f"{name}, prompt {prompt}", *how)


def refined(name: str, steps: int, noises: int, label: int | None = None) -> dict[str, Any]:
    """The profile's own run, and what learning makes of it; on noises that neither saw.

    With a ``label`` the profile is the general one, and learning and measuring have only that.
    """
    problem = of_prompt(name, label)
    known = reference(problem, noises)
    profile, _ = made(name, "quick")
    begun = profile.table_of(profile.plan(steps))
    x, args = problem.noise(SAMPLES, seed_for(SEED, [begun], [begun.scheme]))
    began = time.perf_counter()
    table = dode.distill(
        problem.model,
        x,
        problem.grid(steps),
        extra_args=args,
        parametrization=problem.parametrization,
        columns=2,
        gain=True,
        learn_sigmas=True,
        starts=[begun],
    )
    two = [errors(problem, known.noise, known.final, t.sigmas, table=t) for t in (begun, table)]
    return {
        "profile": two[0],
        "refined": two[1],
        "evaluations": table.evaluations,
        "kept": table.lambdas.shape == begun.lambdas.shape
        and torch.equal(table.lambdas, begun.lambdas),
        "noises": noises,
        "seconds": time.perf_counter() - began,
    }


def report() -> None:
    """Print every run beside the profile's own, a table learned from nothing and built-in rows."""
    rows = []
    for key, job in load_results(PATH).items():
        name, steps, *label = key.split("/")
        learned = few_step().get(f"{name}/{steps}/{LEARNED}", {})
        scratch = [None if label else learned.get(m) for m in ("rms", "median")]
        best, found = None if label else peers(name, int(steps)), job["refined"]
        ratio = [f"{a / b:.2f}" for a, b in zip(found, best or (), strict=best is not None)]
        rows.append(
            [
                ", ".join([name, steps, *label]),
                _pair(job["profile"]),
                _pair(found) + (" (kept)" if job["kept"] else ""),
                f"{job['evaluations']:.0f}",
                _pair(scratch) if all(scratch) else "",
                " / ".join(ratio),
            ]
        )
    head = ["run", "profile", "refined", "evaluations", "300 from nothing", "to built-in"]
    print(text_table(head, rows))


def _pair(values: Sequence[Any]) -> str:
    return " / ".join(f"{value:.4f}" for value in values)


def main(arguments: Sequence[str] = ()) -> None:
    parser = argparse.ArgumentParser(prog="refine")
    parser.add_argument("--problems", nargs="+", choices=PROBLEMS, default=list(GUIDED))
    parser.add_argument("--counts", nargs="+", type=int, default=list(COUNTS))
    parser.add_argument("--noises", type=int, default=64)
    parser.add_argument("--prompt", type=int, help="learn and measure on this class alone")
    parser.add_argument("--report", action="store_true", help="run nothing")
    args = parser.parse_args(arguments)
    own = "" if args.prompt is None else f"/prompt {args.prompt}"
    for name in [] if args.report else args.problems:
        for steps in args.counts:
            if (key := f"{name}/{steps}{own}") not in load_results(PATH):
                add_result(PATH, key, refined(name, steps, args.noises, args.prompt))
    report()


if __name__ == "__main__":
    import sys

    main(sys.argv[1:])
