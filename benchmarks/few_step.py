"""Error against model evaluations: ours against every built-in sampler on its best grid.

Resumable: every finished job is in benchmarks/results/few_step.json and is not run again.

    python dev.py bench few_step            # what fits in about an hour on two cores
    python dev.py bench few_step --full     # every model, cfg and evaluation count
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

import dode_core as dode
from dode_core.demo.features import features, frechet_distance
from dode_core.demo.model import CLASSES, IMAGE_SHAPE, EmojiDenoiser, load_demo
from dode_core.report import plot_errors, save_figure, text_table
from dode_core.schedules import karras, uniform

from .common import RESULTS, machine
from .peers import Host

LOW, HIGH = 0.002, 80.0
BATCH = 32
CALIBRATION, SEED = 16, 1
REFERENCE_STEPS = 64  # of Heun
OURS: Mapping[str, dict[str, Any]] = {
    "plain": {},
    "paper's D-": {"columns": 1},
    "two columns + gain": {"columns": 2, "gain": True},
    "two columns + gain + sigmas": {"columns": 2, "gain": True, "learn_sigmas": True},
}


@dataclass(frozen=True)
class Problem:
    """A model at a guidance scale, and how it is started."""

    name: str
    weights: str
    cfg: float

    @property
    def parametrization(self) -> str:
        return "flow" if "flow" in self.weights else "ve"

    @property
    def high(self) -> float:
        return 1.0 if self.parametrization == "flow" else HIGH

    def grid(self, steps: int) -> Tensor:
        """The grid that our tables are distilled for."""
        if self.parametrization == "flow":
            return uniform(steps, LOW, 1.0)
        return karras(steps, LOW, HIGH)

    def noise(self, count: int, seed: int) -> tuple[Tensor, Tensor]:
        generator = torch.Generator().manual_seed(seed)
        x = torch.randn(count, *IMAGE_SHAPE, generator=generator) * self.high
        return x, torch.arange(count) % len(CLASSES)


PROBLEMS = (
    Problem("EDM, cfg 1", "emoji_edm", 1.0),
    Problem("EDM, cfg 3", "emoji_edm", 3.0),
    Problem("EDM, cfg 7", "emoji_edm", 7.0),
    Problem("flow, cfg 1", "emoji_flow", 1.0),
    Problem("flow, cfg 3", "emoji_flow", 3.0),
)
NFE, FULL_NFE = (5, 6, 8), (4, 5, 6, 7, 8, 10, 12, 15, 20)


class Bench:
    """One problem's samples, reference and scores."""

    def __init__(self, problem: Problem, screened: int, held_out: int) -> None:
        self.problem, self.screened = problem, screened
        self.model: EmojiDenoiser = load_demo(problem.weights)
        self.x, self.labels = problem.noise(held_out, 999)
        fine = karras(REFERENCE_STEPS, LOW, HIGH)
        if problem.parametrization == "flow":
            fine = uniform(REFERENCE_STEPS, LOW, 1.0) ** 1.5
        self.reference = self.ours(fine, len(self.x), solver="heun")
        self.target = features(self.reference)
        self.host = Host(problem.parametrization, LOW, HIGH)
        self.peers = self.host.samplers()

    def _parts(self, count: int) -> Iterator[tuple[Tensor, dict[str, Any]]]:
        for i in range(0, count, BATCH):
            part = slice(i, min(i + BATCH, count))
            yield self.x[part], {"labels": self.labels[part], "cfg": self.problem.cfg}

    def ours(self, sigmas: Tensor, count: int, **how: Any) -> Tensor:
        return torch.cat(
            [
                dode.sample(self.model, x, sigmas, a, disable=True, **how)
                for x, a in self._parts(count)
            ]
        )

    def peer(self, name: str, sigmas: Tensor, count: int) -> Tensor:
        scale = float(sigmas[0]) / self.problem.high
        run = self.peers[name]
        return torch.cat([run(self.model, x * scale, sigmas, a) for x, a in self._parts(count)])

    def score(self, samples: Tensor) -> dict[str, float]:
        """RMS, median of per-sample RMS, Frechet distance, all to the converged samples."""
        squares = (samples - self.reference[: len(samples)]).double().square().flatten(1).mean(1)
        found = {"rms": float(squares.mean().sqrt()), "median": float(squares.sqrt().median())}
        generator = torch.Generator().manual_seed(0)
        draws = torch.randint(len(squares), (200, len(squares)), generator=generator)
        spread = squares[draws].mean(1).sqrt().quantile(torch.tensor([0.025, 0.975]).double())
        found |= {"rms_low": float(spread[0]), "rms_high": float(spread[1])}
        if len(samples) == len(self.reference):
            found["frechet"] = frechet_distance(features(samples), self.target)
        return found

    def best_peers(self, nfe: int, keep: int = 4) -> Iterator[tuple[str, dict[str, Any]]]:
        """All peers on all grids on a few samples, then the best few on all samples."""
        tried = []
        for name, run in self.peers.items():
            steps = self.host.steps_for(run, nfe, name)
            for grid in self.host.grids() if steps else []:
                sigmas = self.host.grid(grid, steps or 1, name)
                if sigmas is None:
                    continue
                found = self.score(self.peer(name, sigmas, self.screened))
                tried.append((found, name, grid, sigmas))
        chosen = {}
        for key in ("rms", "median"):
            for _, name, grid, sigmas in sorted(tried, key=lambda t: t[0][key])[:keep]:
                chosen[f"{name}, {grid}"] = name, sigmas
        for label, (name, sigmas) in chosen.items():
            yield label, self.score(self.peer(name, sigmas, len(self.x)))

    def own(self, kind: str, nfe: int) -> dict[str, Any]:
        sigmas = self.problem.grid(nfe)
        if kind == "plain":
            return self.score(self.ours(sigmas, len(self.x), solver="ddim"))
        noise, labels = self.problem.noise(CALIBRATION, SEED)
        args = {"labels": labels, "cfg": self.problem.cfg}
        table = dode.distill(
            self.model, noise, sigmas, "ddim", extra_args=args, batch_size=16, **OURS[kind]
        )
        found: dict[str, Any] = self.score(self.ours(table.sigmas, len(self.x), table=table))
        errors = table.errors
        return found | {
            "evaluations": table.evaluations,
            "fit": errors.distilled_fit if errors else None,
            "sigmas": table.sigmas.tolist(),
        }


def main(arguments: Sequence[str] = ()) -> None:
    parser = argparse.ArgumentParser(prog="few_step")
    parser.add_argument("--full", action="store_true", help="every problem and evaluation count")
    parser.add_argument("--problems", default="EDM, cfg 1;EDM, cfg 3;flow, cfg 1")
    parser.add_argument("--screened", type=int, default=24, help="samples to choose peers on")
    parser.add_argument("--held-out", type=int, default=256)
    args = parser.parse_args(arguments)
    problems = [p for p in PROBLEMS if args.full or p.name in args.problems.split(";")]
    counts = FULL_NFE if args.full else NFE
    path = RESULTS / "few_step.json"
    RESULTS.mkdir(parents=True, exist_ok=True)
    done = json.loads(path.read_text())["result"] if path.exists() else {}
    jobs = [(p, nfe, who) for p in problems for nfe in counts for who in (*OURS, "peers")]
    bench = None
    for problem, nfe, who in tqdm(jobs):
        key = f"{problem.name}/{nfe}/{who}"
        if key in done:
            continue
        if bench is None or bench.problem != problem:
            bench = Bench(problem, args.screened, args.held_out)
        done[key] = dict(bench.best_peers(nfe)) if who == "peers" else bench.own(who, nfe)
        text = json.dumps(
            {"machine": machine(), "held_out": args.held_out, "result": done}, indent=1
        )
        temporary = path.with_suffix(".tmp")
        temporary.write_text(text + "\n", encoding="utf-8")
        temporary.replace(path)
    summarise(done)


def summarise(done: Mapping[str, Any]) -> None:
    """Ratios to the best peer, by either measure, and a plot per problem."""
    header = [
        "ours over best peer",
        "RMS",
        "median",
        "Frechet, ours / best peer",
        "best peer by RMS",
    ]
    rows = []
    names = list(dict.fromkeys(key.split("/")[0] for key in done))
    for name in names:
        curves: dict[str, dict[int, float]] = {}
        counts = sorted({int(key.split("/")[1]) for key in done if key.startswith(f"{name}/")})
        for nfe in counts:
            peers = done.get(f"{name}/{nfe}/peers", {})
            if not peers:
                continue
            best = {
                key: min(p[key] for p in peers.values()) for key in ("rms", "median", "frechet")
            }
            which = min(peers, key=lambda label: peers[label]["rms"])
            curves.setdefault("best built-in peer", {})[nfe] = best["rms"]
            for kind in OURS:
                found = done.get(f"{name}/{nfe}/{kind}")
                if found is None:
                    continue
                curves.setdefault(kind, {})[nfe] = found["rms"]
                if kind.endswith("sigmas"):
                    ratios = [f"{found[key] / best[key]:.2f}" for key in ("rms", "median")]
                    distance = f"{found['frechet']:.2f} / {best['frechet']:.2f}"
                    rows.append([f"{name}, {nfe} evaluations", *ratios, distance, which])
        figure = plot_errors(curves, f"Demo model, {name}", "RMS error to the converged samples")
        stem = name.replace(", ", "_").replace(" ", "")
        save_figure(figure, RESULTS / f"few_step_{stem}.png")
    print(text_table(header, rows))
