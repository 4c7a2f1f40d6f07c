"""One calibration for every run: a profile's tables against every built-in sampler.

Resumable: every finished job is in benchmarks/results/profile.json and is not run again. Converged
samples are kept outside of the repository (``benchmarks/references.py``).

    python dev.py bench profile                           # everything
    python dev.py bench profile --problems "EDM, cfg 1" --noises 64
    python dev.py bench profile --settings usual          # DPM++ 2M, what most people run
    python dev.py bench profile --report                  # only the table of what is there
"""

from __future__ import annotations

import argparse
import math
import time
from collections.abc import Sequence
from functools import cache
from typing import Any

import torch
from torch import Tensor

import dode_core as dode
from dode_core.fit.peers import hosts_kind
from dode_core.report import text_table
from dode_core.solve.schedules import exponential, karras

from .common import RESULTS, add_result, load_results
from .few_step import ALL_PEERS, PEERS
from .few_step import load as few_step
from .problems import PROBLEMS, Problem
from .references import STARTS, reference

PATH = RESULTS / "profile.json"
SAMPLES, SEED = 16, 1
BUDGETS = {"quick": 64, "best": 300}
USUAL, USUAL_COUNTS = "usual", (4, 5, 6, 7, 8, 10, 12, 15, 20, 25, 30, 40)
COUNTS = (4, 5, 6, 7, 8, 10, 12, 15, 20, 30)
PART_COUNTS = (3, 4, 6, 8)
BUILT_IN = ("ddim", "ipndm", "deis", "dpmpp_2m")  # of partial runs; whole runs have the real peers
BATCH, FEW = 32, 64  # FEW: noises of most of the results


@cache
def made(name: str, setting: str) -> tuple[dode.Profile, float]:
    """The problem's profile, and the seconds that it took."""
    began = time.perf_counter()
    return calibrated(PROBLEMS[name], setting), time.perf_counter() - began


def calibrated(problem: Problem, setting: str = "quick") -> dode.Profile:
    x, args = problem.noise(SAMPLES, SEED)
    return dode.calibrate(
        problem.model,
        x,
        problem.high,
        problem.low,
        extra_args=args,
        parametrization=problem.parametrization,
        budget=BUDGETS[setting],
    )


def errors(problem: Problem, begin: Tensor, final: Tensor, sigmas: Any, **how: Any) -> list[float]:
    """[RMS, median of the samples' RMS] to the converged samples."""
    _, args = problem.noise(256, 999)
    out = []
    for i in range(0, len(begin), BATCH):
        part = slice(i, i + BATCH)
        own = {k: v[part] if isinstance(v, Tensor) else v for k, v in args.items()}
        how = {"disable": True, "parametrization": problem.parametrization} | how
        out.append(dode.sample(problem.model, begin[part], sigmas, own, **how))
    off = (torch.cat(out) - final).double().square().flatten(1).mean(1).sqrt()
    return [float(off.square().mean().sqrt()), float(off.median())]


def whole(name: str, setting: str, steps: int, noises: int) -> dict[str, Any]:
    """One run from pure noise."""
    profile, seconds = made(name, setting)
    problem, known = PROBLEMS[name], reference(PROBLEMS[name], noises)
    began = time.process_time()
    table = profile.table(steps)
    spent = time.process_time() - began
    found = errors(problem, known.noise, known.final, table.sigmas, table=table)
    return _job(profile, table, found, noises, seconds) | {"seconds of CPU": spent}


def usual(name: str, steps: int, noises: int) -> dict[str, Any]:
    """The hosts' DPM++ 2M on the model's usual schedule: Karras, or even steps for flow."""
    problem, known = PROBLEMS[name], reference(PROBLEMS[name], noises)
    grid = problem.grid(steps)
    kind = hosts_kind("dpmpp_2m", problem.parametrization)
    how = {"solver": "dpmpp_2m", "parametrization": kind}
    found = errors(problem, known.noise, known.final, grid, **how)
    return {"rms": found[0], "median": found[1], "noises": noises}


def part(name: str, setting: str, start: float, steps: int, noises: int) -> dict[str, Any]:
    """One run from ``start``, and the built-in rows on usual grids from there."""
    profile, seconds = made(name, setting)
    problem, known = PROBLEMS[name], reference(PROBLEMS[name], noises)
    begin, table = known.at[start], profile.table(steps, start)
    found = errors(problem, begin, known.final, table.sigmas, table=table)
    others = {
        f"{solver}, {label}": errors(problem, begin, known.final, grid, solver=solver)
        for label, grid in part_grids(problem, start, steps).items()
        for solver in BUILT_IN
    }
    best = [min(others.values(), key=lambda e: e[i])[i] for i in (0, 1)]
    return _job(profile, table, found, noises, seconds) | {"built-in": best}


def part_grids(problem: Problem, start: float, steps: int) -> dict[str, Tensor]:
    if problem.parametrization == "flow":
        even = torch.linspace(start, 0, steps + 1, dtype=torch.float64)
        grids = {f"shift {s}": s * even / (1 + (s - 1) * even) for s in (1.0, 1.5, 3.0)}
        grids = {k: torch.cat([even[:1], g[1:] * start / float(g[0])]) for k, g in grids.items()}
        # A half cosine is what ComfyUI's beta schedule looks like; cut, as its denoise does it.
        angle = torch.linspace(math.acos(2 * start - 1), math.pi, steps + 1, dtype=torch.float64)
        cosine = (1 + angle.cos()) / 2
        cosine[0], cosine[-1] = start, 0.0
        return (
            grids
            | {"cosine": cosine}
            | {f"exponential {low}": exponential(steps, low, start) for low in (0.03, 0.1)}
        )
    lows = (0.002, 0.03, 0.1)
    grids = {f"karras {low}": karras(steps, low, start) for low in lows}
    return grids | {f"exponential {low}": exponential(steps, low, start) for low in lows}


def _job(
    profile: dode.Profile, table: dode.LambdaTable, found: list[float], noises: int, seconds: float
) -> dict[str, Any]:
    return {
        "rms": found[0],
        "median": found[1],
        "expected": profile.expected(table),
        "evaluations": profile.evaluations,
        "noises": noises,
        "solver": table.solver if not table.gain else "profile",
        "sigmas": table.sigmas.tolist(),
        "lambdas": table.lambdas.tolist(),
        "calibration seconds": seconds,
    }


def load() -> dict[str, Any]:
    return load_results(PATH)


def save(key: str, found: Any) -> None:
    add_result(PATH, key, found)


def kept_as(name: str, setting: str, run: object, noises: int) -> str:
    """The key of a job; results of 64 noises stand beside those of more."""
    more = "" if noises == FEW else f", {noises} noises"
    return f"{name}/{setting}{more}/{run}"


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
            ratios.setdefault((name, setting, kind), []).extend(two)
            ratio = f"{two[0]:.2f} / {two[1]:.2f}"
        rows.append([f"{name}, {run}", setting, *cells, ratio, str(job["noises"])])
    print(text_table(["run", "setting", "RMS / median", "expected", "to built-in", "noises"], rows))
    for key, values in ratios.items():
        mean = math.exp(sum(map(math.log, values)) / len(values))
        print(f"{', '.join(key)}: geometric mean {mean:.2f}, worst {max(values):.2f}")


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
    parser.add_argument("--counts", nargs="+", type=int, default=list(COUNTS))
    parser.add_argument("--parts", nargs="*", type=int, default=list(PART_COUNTS))
    parser.add_argument("--noises", type=int, default=256)
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
            if (key := kept_as(name, setting, steps, args.noises)) not in load():
                save(key, whole(name, setting, steps, args.noises))
        for start in STARTS[PROBLEMS[name].parametrization]:
            for steps in args.parts:
                run = f"{steps} from {start:g}"
                if (key := kept_as(name, setting, run, args.noises)) not in load():
                    save(key, part(name, setting, start, steps, args.noises))
    report()
    instead()


if __name__ == "__main__":
    import sys

    main(sys.argv[1:])
