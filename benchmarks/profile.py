"""One calibration for every run: a profile's tables against every built-in sampler.

Resumable: every finished job is in benchmarks/results/profile.json and is not run again. Converged
samples are kept outside of the repository (``benchmarks/references.py``).

    python dev.py bench profile                           # everything
    python dev.py bench profile --problems "EDM, cfg 1" --noises 64
    python dev.py bench profile --settings usual          # DPM++ 2M, what most people run
    python dev.py bench profile --again                   # also what other code made
    python dev.py bench profile --report                  # only the table of what is there

Where a table is the one of a stored job, its errors are that job's.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Sequence

from dode_core.report import text_table

from .few_step import ALL_PEERS, PEERS
from .few_step import load as few_step
from .problems import PROBLEMS
from .profile_jobs import BUDGETS, FEW, code, kept_as, load, part, save, usual, whole
from .references import STARTS

USUAL, USUAL_COUNTS = "usual", (4, 5, 6, 7, 8, 10, 12, 15, 20, 25, 30, 40)
COUNTS = (3, 4, 5, 6, 7, 8, 10, 12, 15, 20, 30)
PART_COUNTS = (3, 4, 6, 8)
SHORT = {"whole": (4, 12), "part": (3, 12)}  # evaluations of the runs that have a mean of their own


def is_missing(key: str, again: bool) -> bool:
    """Whether a job has to be run; with ``again`` also where other code ran it."""
    job = load().get(key)
    return job is None or (again and job.get("code") != code())


def peers(name: str, steps: int, noises: int = FEW) -> list[float] | None:
    """The best built-in sampler's RMS and median, each in hindsight.

    On the same noises as ours: 256, or the first 64 where all of them were run on those. Where they
    were not, on 256, which a few samples that go elsewhere make another RMS.
    """
    known = few_step()
    found = known.get(f"{name}/{steps}/{ALL_PEERS}", {}) if noises == FEW else {}
    for who in () if found else PEERS:
        found = found | known.get(f"{name}/{steps}/{who}", {})
    if not found:
        return None
    return [min(f[m] for f in found.values() if m in f) for m in ("rms", "median")]


def report() -> None:
    """Print every run against the best built-in sampler, and the geometric means."""
    rows, ratios = [], {}
    for key, job in load().items():
        name, setting, run = key.split("/")
        if setting.startswith(USUAL):
            continue
        kind = "part" if " from " in run else "whole"
        other = job.get("built-in") or peers(name, int(run), job["noises"])
        cells = [f"{job['rms']:.4f} / {job['median']:.4f}", f"{job['expected']:.4f}"]
        ratio = ""  # of a count that no built-in sampler was run at
        if other is not None:
            two = [job[m] / o for m, o in zip(("rms", "median"), other, strict=True)]
            ratios.setdefault((name, setting, kind), []).append((int(run.split()[0]), *two))
            ratio = f"{two[0]:.2f} / {two[1]:.2f}"
        rows.append([f"{name}, {run}", setting, *cells, ratio, str(job["noises"])])
    print(text_table(["run", "setting", "RMS / median", "expected", "to built-in", "noises"], rows))
    rows = [[", ".join(key), *summary(runs, *SHORT[key[-1]])] for key, runs in ratios.items()]
    measures = ["least", "most", "mean", "4 (part: 3) to 12", "beyond", "RMS", "median"]
    print(text_table(["to built-in, geometric means", *measures], rows))


def summary(runs: Sequence[tuple[int, float, float]], first: int, last: int) -> list[str]:
    """Of (evaluations, RMS, median) to the best built-in sampler: the least, the most, and the
    geometric means of all, of runs from ``first`` to ``last``, beyond, of the RMS and of the
    median alone.
    """
    rms, median = ([run[i] for run in runs] for i in (1, 2))
    short = [x for run in runs if first <= run[0] <= last for x in run[1:]]
    long = [x for run in runs if run[0] > last for x in run[1:]]
    means = [_mean(values) for values in ([*rms, *median], short, long, rms, median)]
    return [f"{min(*rms, *median):.2f}", f"{max(*rms, *median):.2f}", *means]


def _mean(values: Sequence[float]) -> str:
    return f"{math.exp(sum(map(math.log, values)) / len(values)):.2f}" if values else ""


def instead() -> None:
    """Print how many steps of DPM++ 2M come as near, by the median and by the RMS."""
    found, rows = load(), []
    for key, job in found.items():
        name, setting, run = key.split("/")
        plain = {n: found.get(kept_as(name, USUAL, n, job["noises"])) for n in USUAL_COUNTS}
        if setting.startswith(USUAL) or not run.isdigit() or not any(plain.values()):
            continue
        cells = []
        for measure in ("rms", "median"):
            near = [n for n, each in plain.items() if each and each[measure] <= job[measure]]
            cells.append(str(near[0]) if near else f"more than {USUAL_COUNTS[-1]}")
        rows.append([name, setting, run, *cells])
    if rows:
        print(text_table(["", "setting", "D-ODE", "DPM++ 2M: RMS", "median"], rows))


def main(arguments: Sequence[str] = ()) -> None:
    parser = argparse.ArgumentParser(prog="profile")
    parser.add_argument("--problems", nargs="+", choices=PROBLEMS, default=list(PROBLEMS))
    settings = [*BUDGETS, USUAL]
    parser.add_argument("--settings", nargs="+", choices=settings, default=settings)
    parser.add_argument("--counts", nargs="*", type=int, default=list(COUNTS))
    parser.add_argument("--parts", nargs="*", type=int, default=list(PART_COUNTS))
    parser.add_argument("--noises", type=int, default=256)
    parser.add_argument("--again", action="store_true", help="also what other code made")
    parser.add_argument("--report", action="store_true", help="run nothing")
    args = parser.parse_args(arguments)
    jobs = [] if args.report else [(p, s) for s in args.settings for p in args.problems]
    for name, setting in jobs:
        if setting == USUAL:
            for steps in USUAL_COUNTS:
                if (key := kept_as(name, USUAL, steps, args.noises)) not in load():
                    save(key, usual(name, steps, args.noises))
            continue
        for steps in args.counts:
            key = kept_as(name, setting, steps, args.noises)
            if is_missing(key, args.again):
                save(key, whole(name, setting, steps, args.noises))
        for start in STARTS[PROBLEMS[name].parametrization]:
            for steps in args.parts:
                run = f"{steps} from {start:g}"
                key = kept_as(name, setting, run, args.noises)
                if is_missing(key, args.again):
                    save(key, part(name, setting, start, steps, args.noises))
    report()
    instead()


if __name__ == "__main__":
    import sys

    main(sys.argv[1:])
