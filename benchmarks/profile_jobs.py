"""The runs of ``bench profile``: one job each, kept in benchmarks/results/profile.json."""

from __future__ import annotations

import ast
import hashlib
import math
import time
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import dode_core as dode
from dode_core.fit.peers import hosts_kind
from dode_core.solve.schedules import exponential, karras

from .common import RESULTS, add_result, load_results
from .problems import PROBLEMS, Problem
from .references import reference

PATH = RESULTS / "profile.json"
SAMPLES, SEED = 16, 1
BUDGETS = {"quick": 64, "best": 300}
BUILT_IN = ("ddim", "ipndm", "deis", "dpmpp_2m")  # of partial runs; whole runs have the real peers
BATCH, FEW = 32, 64  # FEW: noises of most of the results
# Of dode_core: what makes profiles and their tables.
CODE = ("calibration.py", "fit", "learn", "response", "solve")


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
    began = time.process_time()
    table = profile.table(steps)
    spent = time.process_time() - began
    found = of_table(name, table, str(steps), None, noises)
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
    run, begin, table = f"{steps} from {start:g}", known.at[start], profile.table(steps, start)
    found = of_table(name, table, run, start, noises)
    best = load().get(kept_as(name, setting, run, noises), {}).get("built-in")
    if best is None:
        others = {
            f"{solver}, {label}": errors(problem, begin, known.final, grid, solver=solver)
            for label, grid in part_grids(problem, start, steps).items()
            for solver in BUILT_IN
        }
        best = [min(others.values(), key=lambda e: e[i])[i] for i in (0, 1)]
    return _job(profile, table, found, noises, seconds) | {"built-in": best}


def of_table(
    name: str, table: dode.LambdaTable, run: str, start: float | None, noises: int
) -> list[float]:
    """[RMS, median] of a table's run, or what a stored job says that had the very same table."""
    for key, job in load().items():
        its, _, its_run = key.split("/")
        if (its, its_run, job["noises"]) == (name, run, noises) and _is(table, job):
            return [job["rms"], job["median"]]
    problem, known = PROBLEMS[name], reference(PROBLEMS[name], noises)
    begin = known.noise if start is None else known.at[start]
    return errors(problem, begin, known.final, table.sigmas, table=table)


def _is(table: dode.LambdaTable, job: dict[str, Any]) -> bool:
    """Whether a job ran this table; where its first evaluation looks follows from its steps."""
    if job.get("solver") != _solver(table) or len(job["sigmas"]) != len(table.sigmas):
        return False
    pairs = [(table.sigmas, job["sigmas"]), (table.lambdas, job["lambdas"])]
    kept = [(ours, ours.new_tensor(theirs)) for ours, theirs in pairs]
    return all(a.shape == b.shape and torch.allclose(a, b, rtol=1e-6) for a, b in kept)


def _solver(table: dode.LambdaTable) -> str:
    return table.solver if not table.gain else "profile"


@cache
def code() -> str:
    """A digest of what makes profiles and their tables, without its comments."""
    root = Path(dode.__file__).parent
    files = [
        f for name in CODE for f in ([root / name] if "." in name else (root / name).iterdir())
    ]
    texts = [f.read_text(encoding="utf-8") for f in sorted(files) if f.suffix == ".py"]
    trees = "".join(ast.dump(ast.parse(text)) for text in texts)
    return hashlib.sha256(trees.encode()).hexdigest()[:12]


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
        "solver": _solver(table),
        "sigmas": table.sigmas.tolist(),
        "lambdas": table.lambdas.tolist(),
        "calibration seconds": seconds,
        "code": code(),
    }


def load() -> dict[str, Any]:
    return load_results(PATH)


def save(key: str, found: Any) -> None:
    add_result(PATH, key, found)


def kept_as(name: str, setting: str, run: object, noises: int) -> str:
    """The key of a job; results of 64 noises stand beside those of more."""
    more = "" if noises == FEW else f", {noises} noises"
    return f"{name}/{setting}{more}/{run}"
