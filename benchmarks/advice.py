"""Does a profile know which of the host's samplers is best? What it expects against real runs.

Every deterministic sampler of ComfyUI's KSampler on its schedules. All run on 8 samples, those that
ended nearest and the three that the profile expects most of on more.
Resumable: results in benchmarks/results/advice.json.

    python dev.py bench advice
    python dev.py bench advice --problems "EDM, cfg 3" --counts 8
    python dev.py bench advice --report
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from dode_core.report import text_table

from .common import RESULTS, add_result, load_results
from .few_step import Bench
from .foretold import Sampler, advise
from .peers import HOST_SCHEDULERS, NAMES, NEWER_SCHEDULERS
from .problems import PROBLEMS
from .profile_jobs import made
from .references import reference

PATH = RESULTS / "advice.json"
RUN = ("EDM, cfg 1", "EDM, cfg 3", "EDM, cfg 7", "flow, cfg 1", "flow, cfg 3")
COUNTS = (5, 8, 12)
SAMPLERS = (*NAMES, "uni_pc", "uni_pc_bh2")  # of which none adds noise
SCHEDULES = (*HOST_SCHEDULERS, *NEWER_SCHEDULERS[:2])  # of ComfyUI's own KSampler
FEW, STAY = 8, 6  # samples of the first round, and how many stay by each measure
MEASURES = ("rms", "median", "typical")
TOP = 3


def compared(name: str, count: int, noises: int) -> dict[str, Any]:
    """What the profile expects of every pair, what the best really do, and the bar."""
    problem = PROBLEMS[name]
    profile, known = made(name, "quick")[0], reference(problem, noises)
    bench = Bench(problem, noises, known.final)
    bench.x = known.noise

    def grids(who: str, steps: int) -> Mapping[str, Tensor]:
        found = {each: bench.host.grid(each, steps, who) for each in SCHEDULES}
        return {each: sigmas for each, sigmas in found.items() if sigmas is not None}

    def plain(sampler: Any) -> Sampler:
        return lambda model, x, sigmas: sampler(model, x, sigmas, {})

    samplers = {who: plain(bench.peers[who]) for who in SAMPLERS if who in bench.peers}
    found = {(a.sampler, a.schedule): a.expected for a in advise(profile, samplers, grids, count)}

    def errors(pair: tuple[str, str], samples: int) -> dict[str, float]:
        who, schedule = pair
        steps = bench.host.steps_for(bench.peers[who], count, who) or count
        sigmas = bench.host.grid(schedule, steps, who)
        assert sigmas is not None
        off = bench.peer(who, sigmas, 0, samples) - known.final[:samples]
        each = off.double().square().flatten(1).mean(1).sqrt()
        values = each.square().mean().sqrt(), each.median(), each.log().mean().exp()
        return dict(zip(MEASURES, map(float, values), strict=True))

    first = {pair: errors(pair, FEW) for pair in found}
    top = list(found)[:TOP]
    stay = {p for m in MEASURES for p in sorted(first, key=lambda p: first[p][m])[:STAY]}
    real = {pair: errors(pair, noises) for pair in stay.union(top)}
    best = {m: min(real, key=lambda p: real[p][m]) for m in MEASURES}
    logs = torch.tensor([[math.log(v), math.log(first[p]["typical"])] for p, v in found.items()])
    return {
        "pairs": len(found),
        "noises": noises,
        "top": [[*pair, found[pair], real[pair]] for pair in top],
        "best": {m: [*best[m], found[best[m]], real[best[m]]] for m in MEASURES},
        "ratio": {m: min(real[p][m] for p in top) / real[best[m]][m] for m in MEASURES},
        "correlation": float(torch.corrcoef(logs.T)[0, 1]),
    }


def report() -> None:
    """Print, per run, how near the best of the three comes to the best of all."""
    rows = []
    for key, job in load_results(PATH).items():
        ratios = " / ".join(f"{job['ratio'][m]:.2f}" for m in MEASURES)
        top = "; ".join(f"{who}, {schedule}" for who, schedule, *_ in job["top"])
        who, schedule, *_ = job["best"]["typical"]
        row = [key.replace("/", ", "), str(job["pairs"]), ratios, f"{job['correlation']:.2f}"]
        rows.append([*row, top, f"{who}, {schedule}"])
    head = ["run", "pairs", "best of three to best: " + " / ".join(MEASURES), "correlation"]
    print(text_table([*head, "expected best three", "best"], rows))


def main(arguments: Sequence[str] = ()) -> None:
    parser = argparse.ArgumentParser(prog="advice")
    parser.add_argument("--problems", nargs="+", choices=PROBLEMS, default=list(RUN))
    parser.add_argument("--counts", nargs="+", type=int, default=list(COUNTS))
    parser.add_argument("--noises", type=int, default=64)
    parser.add_argument("--report", action="store_true", help="run nothing")
    args = parser.parse_args(arguments)
    for name in [] if args.report else args.problems:
        for count in args.counts:
            if (key := f"{name}/{count}") not in load_results(PATH):
                add_result(PATH, key, compared(name, count, args.noises))
    report()


if __name__ == "__main__":
    import sys

    main(sys.argv[1:])
