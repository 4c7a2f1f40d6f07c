"""Error against model evaluations: ours against every built-in sampler on its best grid.

Resumable: every finished job is in benchmarks/results/few_step.json and is not run again.

    python dev.py bench few_step                      # everything: a night on two cores
    python dev.py bench few_step --problems "EDM, cfg 1" --nfe 5 6 8
    python dev.py bench few_step --who peers          # the peers alone, or one of ours by name
    python dev.py bench few_step --who "all peers, 64 noises"    # see ALL_PEERS
    python dev.py bench few_step --report             # only the tables and plots of what is there
"""

from __future__ import annotations

import argparse
import contextlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

import dode_core as dode

from . import few_step_report
from .common import RESULTS, add_result, load_results
from .ours import OURS, distill
from .peers import NEWER_SAMPLERS, Host
from .problems import PROBLEMS, Problem
from .references import reference
from .scores import Scores

BATCH = 32
HELD_OUT, HELD_OUT_SEED = 256, 999
NFE = (5, 6, 8, 4, 7, 10, 12, 15, 20, 3, 30)  # the most asked for first
# Peers are tried on a few samples, the best by either measure on more, the rest of them on all.
ROUNDS = ((8, 10), (24, 3))  # (samples, how many stay by each measure)
PATH = RESULTS / "few_step.json"
PEERS = ("peers", "newer peers")
# Those that were added later beside the best of before, on fewer noises: the ones of bench profile.
ALL_PEERS, FEWER = "all peers, 64 noises", 64


class Bench:
    """One problem's samples, reference and scores."""

    def __init__(
        self,
        problem: Problem,
        held_out: int,
        reference: Tensor,
        batch: int = BATCH,
    ) -> None:
        """``reference``: converged samples of the first noises."""
        self.problem, self.model, self.batch = problem, problem.model, batch
        self.x, self.args = problem.noise(held_out, HELD_OUT_SEED)
        self.scores = Scores(reference, images=problem.weights.startswith("emoji"))

    @cached_property
    def host(self) -> Host:
        return Host(self.problem.parametrization, self.problem.low, self.problem.high)

    @cached_property
    def peers(self) -> dict[str, Any]:
        return self.host.samplers()

    def _parts(self, first: int, last: int) -> Iterator[tuple[Tensor, dict[str, Any]]]:
        for i in range(first, last, self.batch):
            part = slice(i, min(i + self.batch, last))
            args = {k: v[part] if isinstance(v, Tensor) else v for k, v in self.args.items()}
            yield self.x[part], args

    def ours(self, sigmas: Tensor, **how: Any) -> Tensor:
        parts = self._parts(0, len(self.x))
        how = {"disable": True, "parametrization": self.problem.parametrization} | how
        return torch.cat([dode.sample(self.model, x, sigmas, a, **how) for x, a in parts])

    def peer(self, name: str, sigmas: Tensor, first: int, last: int) -> Tensor:
        scale = float(sigmas[0]) / self.problem.high
        run, parts = self.peers[name], self._parts(first, last)
        return torch.cat([run(self.model, x * scale, sigmas, a) for x, a in parts])

    def best_peers(self, nfe: int, newer: bool = False) -> dict[str, dict[str, Any]]:
        """All peers on all grids on a few samples, then fewer and fewer on more samples.

        ``newer``: those samplers and grids, alone, that were added to the list later.
        """
        running: dict[str, tuple[str, Tensor, Tensor]] = {}
        for name, run in self.peers.items():
            steps = self.host.steps_for(run, nfe, name)
            for grid in self.host.grids() if steps else []:
                added = name in NEWER_SAMPLERS or grid in self.host.newer_grids()
                if added != newer:
                    continue
                sigmas = self.host.grid(grid, steps or 1, name)
                if sigmas is not None:
                    running[f"{name}, {grid}"] = name, sigmas, self.x[:0]
        for count, keep in ROUNDS:
            running = self._extended(running, count)
            quick = {label: self.scores.quick(run[2]) for label, run in running.items()}
            best = {
                label
                for key in ("rms", "median")
                for label in sorted(quick, key=lambda label: quick[label][key])[:keep]
            }
            running = {label: run for label, run in running.items() if label in best}
        running = self._extended(running, len(self.x))
        return {label: self.scores.full(run[2]) for label, run in running.items()}

    def all_peers(self, nfe: int, before: Iterable[str]) -> dict[str, dict[str, Any]]:
        """RMS and median of the best of those added later, and of the labels of ``before``."""
        found = self.best_peers(nfe, newer=True)
        for label in before:
            name, grid = label.split(", ")
            steps = self.host.steps_for(self.peers[name], nfe, name)
            sigmas = self.host.grid(grid, steps or 1, name)
            assert sigmas is not None, f"{label} was run with {nfe} evaluations before"
            found[label] = self.scores.quick(self.peer(name, sigmas, 0, len(self.x)))
        return {label: {m: one[m] for m in ("rms", "median")} for label, one in found.items()}

    def _extended(
        self, running: Mapping[str, tuple[str, Tensor, Tensor]], count: int
    ) -> dict[str, tuple[str, Tensor, Tensor]]:
        """The runs with as many samples as asked for."""
        return {
            label: (name, sigmas, torch.cat([had, self.peer(name, sigmas, len(had), count)]))
            for label, (name, sigmas, had) in running.items()
        }

    def own(self, kind: str, nfe: int) -> dict[str, Any]:
        """Scores of one of ours; what calibration cost, and what it found."""
        how = OURS[kind]
        found = distill(self.problem, nfe, how)
        if found is None:
            sigmas = self.problem.grid(how.steps(nfe))
            return self.scores.full(self.ours(sigmas, solver=how.solver))
        samples = self.ours(found.sigmas, table=found, parametrization=found.parametrization)
        errors = found.errors
        assert errors is not None
        return self.scores.full(samples) | {
            "evaluations": found.evaluations,
            "fit": errors.distilled_fit,
            "holdout": errors.distilled_holdout,
            "sigmas": found.sigmas.tolist(),
            "lambdas": found.lambdas.tolist(),
        }


def load(path: Path = PATH) -> dict[str, Any]:
    return load_results(path)


@contextlib.contextmanager
def locked(path: Path) -> Iterator[None]:
    """Several runs may share the work: one writes at a time."""
    import fcntl

    with path.with_suffix(".lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def save(key: str, found: Any, path: Path = PATH) -> None:
    """Add one job's result to the file, atomically."""
    with locked(path):
        add_result(path, key, found, held_out=HELD_OUT)


def main(arguments: Sequence[str] = ()) -> None:
    parser = argparse.ArgumentParser(prog="few_step")
    parser.add_argument("--problems", nargs="+", choices=PROBLEMS, default=list(PROBLEMS))
    parser.add_argument("--nfe", nargs="+", type=int, default=list(NFE))
    parser.add_argument(
        "--who", nargs="+", choices=(*PEERS, ALL_PEERS, *OURS), default=[*PEERS, *OURS]
    )
    parser.add_argument("--report", action="store_true", help="run nothing")
    args = parser.parse_args(arguments)
    RESULTS.mkdir(parents=True, exist_ok=True)
    jobs = [(p, nfe, who) for p in args.problems for nfe in args.nfe for who in args.who]
    bench = None
    for name, nfe, who in tqdm([] if args.report else jobs):
        key = f"{name}/{nfe}/{who}"
        if key in load() or (who in OURS and not OURS[who].serves(nfe)):
            continue
        noises = FEWER if who == ALL_PEERS else HELD_OUT
        if bench is None or bench.problem.name != name or len(bench.x) != noises:
            bench = Bench(PROBLEMS[name], noises, reference(PROBLEMS[name], noises).final)
        if who == ALL_PEERS:
            found = bench.all_peers(nfe, load().get(f"{name}/{nfe}/{PEERS[0]}", ()))
        else:
            found = bench.own(who, nfe) if who in OURS else bench.best_peers(nfe, who != PEERS[0])
        save(key, found)
    few_step_report.write(load())


if __name__ == "__main__":
    import sys

    main(sys.argv[1:])
