"""Guidance only between two sigmas: half the price of every other evaluation, and another model.

At equal passes of the network: a guided evaluation takes two, one without guidance one. Resumable:
every finished job is in benchmarks/results/interval.json; converged samples are kept as the other
benchmarks' are (``benchmarks/references.py``).

    python dev.py bench interval                # everything, half an hour on two cores
    python dev.py bench interval --cfgs 3
    python dev.py bench interval --report       # only the table of what is there
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

import dode_core as dode
from dode_core.report import text_table

from . import profile_jobs as full
from .common import RESULTS, add_result, load_results
from .problems import LOW, Problem
from .references import CACHE, PART, SEED, reference

PATH = RESULTS / "interval.json"
# What Kynkaanniemi et al. 2024 (arXiv 2404.07724) give for SDXL, and nodes have as their defaults.
# The demo model has SDXL's kind of sigmas (x = x0 + sigma eps); its data has a deviation of 0.61.
GUIDED = (0.28, 5.42)
CFGS, PASSES, NOISES = (3.0, 7.0), (8, 12, 16, 20), 64
OURS, BORROWED, FULL = "D-ODE", "D-ODE, table of full guidance", "D-ODE, full guidance"
FLAT = 1.0  # the cfg that is no guidance


@dataclass(frozen=True)
class IntervalProblem(Problem):
    """The demo model with its guidance left out outside of GUIDED."""

    @cached_property
    def model(self) -> Any:
        return Interval(Problem(self.name, self.parametrization, self.cfg, self.weights).model)


class Interval:
    """``model(x, sigma, labels, cfg) -> denoised``; one sigma a call. Counts images and passes."""

    parametrization = "ve"

    def __init__(self, model: Any) -> None:
        self.model, self.passes = model, 0

    def __call__(self, x: Tensor, sigma: Tensor, labels: Tensor, cfg: float) -> Tensor:
        now = passes(float(sigma[0]))
        self.passes += now * len(x)
        return self.model(x, sigma, labels, cfg if now == 2 else FLAT)


def passes(sigma: float) -> int:
    """How often the network is run for an evaluation there."""
    return 2 if GUIDED[0] < sigma <= GUIDED[1] else 1


@cache
def at(cfg: float) -> IntervalProblem:
    return IntervalProblem(f"EDM interval, cfg {cfg:g}", "ve", cfg, "emoji_edm")


def converged(problem: IntervalProblem) -> tuple[Tensor, Tensor]:
    """(noise, converged samples) of NOISES; three pieces, so that no step goes over a jump."""
    x, args = problem.noise(256, SEED)
    found = []
    for first in range(0, NOISES, PART):
        low, high = GUIDED
        path = CACHE / f"EDM_interval{low:g}-{high:g}_cfg{problem.cfg:g}_{SEED}_{first}.safetensors"
        if not path.exists():
            rows = slice(first, first + PART)
            CACHE.mkdir(parents=True, exist_ok=True)
            final = _in_pieces(problem, x[rows], args["labels"][rows])
            save_file({"final": final.contiguous()}, path.with_suffix(".tmp"))
            path.with_suffix(".tmp").replace(path)
        found.append(load_file(path)["final"])
    return x[:NOISES], torch.cat(found)


def _in_pieces(problem: IntervalProblem, x: Tensor, labels: Tensor) -> Tensor:
    low, high = GUIDED
    nodes = sorted({*problem.fine_grid().tolist(), low, high}, reverse=True)
    cuts = [0, nodes.index(high), nodes.index(low), len(nodes) - 1]
    for begin, end, cfg in zip(cuts, cuts[1:], (FLAT, problem.cfg, FLAT), strict=False):
        args = {"labels": labels, "cfg": cfg}
        grid = nodes[begin : end + 1]
        x = dode.sample(problem.model.model, x, grid, args, solver="heun", disable=True)
    return x


@cache
def made(cfg: float) -> tuple[dode.Profile, float]:
    """The model's profile, and the passes that it took for each of its noises."""
    problem = at(cfg)
    x, args = problem.noise(full.SAMPLES, full.SEED)
    before, budget = problem.model.passes, full.BUDGETS["quick"]
    found = dode.calibrate(problem.model, x, problem.high, LOW, extra_args=args, budget=budget)
    return found, (problem.model.passes - before) / full.SAMPLES


def asked(table: dode.LambdaTable) -> list[float]:
    """The sigmas at which a run with this table asks the model."""
    return [s.look_ahead.sigma if s.look_ahead else s.sigma for s in table.stages]


def fitting(profile: dode.Profile, most: int) -> dode.LambdaTable:
    """The longest run of a profile that takes at most so many passes."""
    tables = (profile.table(steps) for steps in range(most, 0, -1))
    return next(table for table in tables if sum(map(passes, asked(table))) <= most)


def runs(cfg: float, most: int) -> Iterator[tuple[str, list[float], dict[str, Any]]]:
    """(name, sigmas, how to sample) of everything that is run on the interval model."""
    known = f"EDM, cfg {cfg:g}"
    for name, profile in ((OURS, made(cfg)[0]), (BORROWED, full.made(known, "quick")[0])):
        table = fitting(profile, most)
        yield name, table.sigmas.tolist(), {"table": table}
    for label in full.part_grids(at(cfg), at(cfg).high, 4):
        for steps in range(most, 1, -1):
            grid = full.part_grids(at(cfg), at(cfg).high, steps)[label].tolist()
            if sum(map(passes, grid[:-1])) <= most:
                break
        for solver in full.BUILT_IN:
            yield f"{solver}, {label}", grid, {"solver": solver}


def run(cfg: float, most: int) -> None:
    """Everything at so many passes that is not in the results yet."""
    noise, final = converged(at(cfg))
    for name, sigmas, how in runs(cfg, most):
        if (key := f"cfg {cfg:g}/{most}/{name}") in load():
            continue
        where = asked(how["table"]) if "table" in how else sigmas[:-1]
        rms, median = full.errors(at(cfg), noise, final, sigmas, **how)
        job = {"rms": rms, "median": median, "noises": NOISES, "evaluations": len(where)}
        job |= {"passes": sum(map(passes, where)), "sigmas": sigmas}
        if name == OURS:
            job |= {"calibration passes": made(cfg)[1]}
        save(key, job)
    key, before = f"cfg {cfg:g}/{most}/{FULL}", full.load()
    if key not in load():
        name = f"EDM, cfg {cfg:g}"
        known = before.get(f"{name}/quick/{most // 2}")
        if known is None or known["noises"] != NOISES:
            known = full.whole(name, "quick", most // 2, NOISES)
        kept = {k: known[k] for k in ("rms", "median", "noises", "sigmas")}
        save(key, kept | {"evaluations": most // 2, "passes": most // 2 * 2})


def apart(cfg: float) -> None:
    """How far the two models' converged samples are from each other."""
    if (key := f"cfg {cfg:g}/apart") not in load():
        off = converged(at(cfg))[1] - reference(full.PROBLEMS[f"EDM, cfg {cfg:g}"], NOISES).final
        each = off.double().square().flatten(1).mean(1).sqrt()
        save(key, {"rms": float(each.square().mean().sqrt()), "median": float(each.median())})


def load() -> dict[str, Any]:
    return load_results(PATH)


def save(key: str, found: Any) -> None:
    add_result(PATH, key, found)


def report() -> None:
    """Print every row, the best built-in one in hindsight by each measure."""
    known, rows = load(), []
    for cfg, most in [(c, m) for c in CFGS for m in PASSES]:
        jobs = {
            key.split("/")[2]: job
            for key, job in known.items()
            if key.startswith(f"cfg {cfg:g}/{most}/")
        }
        ours = {name: jobs.pop(name) for name in (OURS, BORROWED, FULL) if name in jobs}
        for name, job in ours.items():
            figures = f"{job['rms']:.4f} / {job['median']:.4f}"
            rows.append([f"cfg {cfg:g}, {most}", name, figures, _count(job)])
        for measure in ("rms", "median") if jobs else ():
            best = min(jobs, key=lambda name: jobs[name][measure])
            name, figure = f"best {measure}: {best}", f"{jobs[best][measure]:.4f}"
            rows.append([f"cfg {cfg:g}, {most}", name, figure, _count(jobs[best])])
    print(text_table(["passes", "", "RMS / median", "evaluations (passes)"], rows))
    for cfg in CFGS:
        print(f"cfg {cfg:g}: converged samples apart", known.get(f"cfg {cfg:g}/apart"))


def _count(job: dict[str, Any]) -> str:
    return f"{job['evaluations']} ({job['passes']})"


def main(arguments: Sequence[str] = ()) -> None:
    parser = argparse.ArgumentParser(prog="interval")
    parser.add_argument("--cfgs", nargs="+", type=float, choices=CFGS, default=CFGS)
    parser.add_argument("--passes", nargs="+", type=int, default=PASSES)
    parser.add_argument("--report", action="store_true", help="run nothing")
    options = parser.parse_args(arguments)
    for cfg in () if options.report else options.cfgs:
        apart(cfg)
        for most in options.passes:
            run(cfg, most)
    report()


if __name__ == "__main__":
    import sys

    main(sys.argv[1:])
