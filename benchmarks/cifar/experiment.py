"""The paper's experiment: five solvers with and without lambda, on CIFAR-10.

Resumable: every finished job is in benchmarks/results/cifar.json and is not run again. The
images, the network and the classifier are made beforehand (minutes to hours):

    python -m benchmarks.cifar.features FOLDER
    nice -n 19 python -m benchmarks.cifar.train FOLDER
    python dev.py bench cifar --folder=FOLDER --images=2000
    python dev.py bench cifar --report                # only the tables of what is there

The Frechet distance is of a small classifier's features, between ``--images`` samples (labels
cycle, the same noises for all) and the 10,000 test images. RMS and median are distances to the
converged samples of the first 64 noises.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

import dode_core as dode
from benchmarks.common import RESULTS, add_result, load_results
from benchmarks.emoji.features import Gaussian, features, frechet_gaussians
from benchmarks.few_step import HELD_OUT_SEED, Bench, locked
from benchmarks.ours import CALIBRATION, DEFAULT, OURS, SEED, distill
from benchmarks.scores import resample
from dode_core.solve.solvers import SOLVERS

from . import data, report
from .features import WEIGHTS as FEATURES
from .features import gaussian, load
from .problem import converged, problem
from .train import SNAPSHOT, WEIGHTS

PATH = RESULTS / "cifar.json"
CLOSE = 64  # noises of which the converged samples are known
PAPER = ("ddim", "ipndm", "dpm_solver_2", "deis", "heun")
COUNTS, LONG = (5, 8, 10), (25, 50)  # of the paper; the long ones for DDIM
OUR_COUNTS = (5, 6, 8, 10)
PROFILE, BUILT_IN, CONVERGED, DATA = "profile quick", "best built-in", "nearly converged", "data"
DENSE = 40  # evaluations of iPNDM that stand for the converged samples of all noises
BUDGET, DRAWS, BATCH = 64, 40, 64


class ExperimentError(ValueError):
    """Results and weights that do not belong together."""


def jobs() -> list[str]:
    """``evaluations/who``, the paper's first."""
    own = [
        (n, f"{solver}: {way}")
        for n in COUNTS
        for solver in PAPER
        for way in ("plain", "paper's D-")
    ]
    own += [(n, PROFILE) for n in OUR_COUNTS]
    own += [(n, BUILT_IN) for n in OUR_COUNTS]
    own += [(n, DEFAULT) for n in OUR_COUNTS]
    own += [(n, f"ddim: {way}") for n in LONG for way in ("plain", "paper's D-")]
    return [f"0/{DATA}", f"{DENSE}/{CONVERGED}", *(f"{n}/{who}" for n, who in own)]


def steps_of(solver: str, nfe: int) -> int:
    """Steps of at most ``nfe`` evaluations: Heun's cost an odd number."""
    steps = SOLVERS[solver].steps_for(nfe)
    return steps if SOLVERS[solver].evaluations(steps) <= nfe else steps - 1


class Experiment:
    """One network's samples against the test images and against its converged samples."""

    def __init__(self, folder: Path, weights: Path, images: int) -> None:
        self.problem, self.folder, self.images = problem(weights), folder, images
        reference = converged(self.problem, CLOSE, HELD_OUT_SEED, folder)
        self.bench = Bench(self.problem, images, reference, BATCH)
        self.few = Bench(self.problem, CLOSE, reference)
        self.network = load(folder / FEATURES)

    @cached_property
    def test(self) -> Gaussian:
        return gaussian(self.network, data.read(self.folder, "test").images)

    @cached_property
    def profile(self) -> dode.Profile:
        x, args = self.problem.noise(CALIBRATION, SEED)
        low, high = self.problem.low, self.problem.high
        how: dict[str, Any] = {"parametrization": "ve", "budget": BUDGET}
        return dode.calibrate(self.problem.model, x, high, low, extra_args=args, **how)

    def frechet(self, samples: Tensor) -> dict[str, Any]:
        """To the test images, and what another draw of as many noises would move it by."""
        found = features(samples, self.network)
        draws = [found[row] for row in resample(len(found), DRAWS)]
        spread = [frechet_gaussians(Gaussian.fit(each), self.test) for each in draws]
        return {
            "frechet": frechet_gaussians(Gaussian.fit(found), self.test),
            "frechet_spread": float(torch.tensor(spread).std()),
            "images": len(found),
        }

    def run(self, job: str) -> dict[str, Any]:
        """A job's scores."""
        count, who = job.split("/", 1)
        if who == DATA:
            real = data.read(self.folder, "train").images
            every = len(real) // self.images  # they lie class by class
            return self.frechet(data.scaled(real[::every][: self.images]))
        samples, about = self.samples(int(count), who)
        scores = self.bench.scores.full(samples[:CLOSE])
        return scores | self.frechet(samples) | about

    def samples(self, nfe: int, who: str) -> tuple[Tensor, dict[str, Any]]:
        """Samples of all noises, and how they were made."""
        if who == BUILT_IN:
            return self.built_in(nfe)
        if who == CONVERGED:
            grid = self.problem.grid(nfe)
            return self.bench.ours(grid, solver="ipndm"), {"evaluations": nfe}
        if who == PROFILE:
            table = self.profile.table(nfe)
            about = {"expected": self.profile.expected(table), "evaluations": nfe}
            spent = {"calibration": self.profile.evaluations}
            return self.bench.ours(table.sigmas, table=table), about | spent
        entry = OURS[who]
        steps = steps_of(entry.solver, nfe)
        made = SOLVERS[entry.solver].evaluations(steps)
        table = distill(self.problem, made, entry)
        if table is None:
            grid = self.problem.grid(steps)
            return self.bench.ours(grid, solver=entry.solver), {"evaluations": made}
        about = {"evaluations": made, "calibration": table.evaluations}
        lambdas = {"lambdas": table.lambdas.tolist(), "sigmas": table.sigmas.tolist()}
        return self.bench.ours(table.sigmas, table=table), about | lambdas

    def built_in(self, nfe: int) -> tuple[Tensor, dict[str, Any]]:
        """The built-in sampler and grid of the least RMS on the few noises, in hindsight."""
        tried = self.few.best_peers(nfe) | self.few.best_peers(nfe, newer=True)
        label = min(tried, key=lambda each: tried[each]["rms"])
        name, grid = label.split(", ", 1)
        host = self.bench.host
        steps = host.steps_for(self.bench.peers[name], nfe, name)
        sigmas = host.grid(grid, steps or 1, name)
        assert sigmas is not None, label
        median = min(tried, key=lambda each: tried[each]["median"])
        about = {"sampler": label, "by median": median, "evaluations": nfe}
        least = {"least median": tried[median]["median"]}
        return self.bench.peer(name, sigmas, 0, self.images), about | least


def check(path: Path, digest: str) -> None:
    """Results of one network are not mixed with another's."""
    if not path.exists():
        return
    had = json.loads(path.read_text(encoding="utf-8"))["weights"]["digest"]
    if had != digest:
        raise ExperimentError(
            f"{path} holds results of the weights {had}, these are {digest}: move the file "
            "away, or pass --out"
        )


def facts(weights: Path, digest: str) -> dict[str, str]:
    """What a reader must know of the network: which, and how long it was trained."""
    from safetensors import safe_open

    with safe_open(str(weights), "pt") as file:
        known = file.metadata()
    return {"digest": digest} | {key: known[key] for key in ("images", "validation_loss")}


def main(arguments: Sequence[str] = ()) -> None:
    parser = argparse.ArgumentParser(prog="cifar")
    parser.add_argument("--folder", type=Path, help="holds train/CLASS and test/CLASS")
    parser.add_argument("--weights", type=Path, help="default: the last of training, in the folder")
    parser.add_argument("--images", type=int, default=2000, help="of the Frechet distance")
    parser.add_argument("--only", default="", help="jobs that contain this text")
    parser.add_argument("--out", type=Path, default=PATH, help="where results go")
    parser.add_argument("--report", action="store_true", help="run nothing")
    args = parser.parse_args(arguments)
    if args.folder and not args.report:
        last = args.folder / WEIGHTS
        weights = args.weights or (last if last.exists() else args.folder / SNAPSHOT)
        experiment = Experiment(args.folder, weights, args.images)
        check(args.out, experiment.problem.digest)
        args.out.parent.mkdir(parents=True, exist_ok=True)
        about = facts(weights, experiment.problem.digest)
        for job in tqdm([job for job in jobs() if args.only in job]):
            if job not in load_results(args.out):
                found = experiment.run(job)
                with locked(args.out):
                    add_result(args.out, job, found, weights=about)
    elif not args.report:
        print("CIFAR-10 is not part of the repository: pass --folder=FOLDER, see benchmarks/cifar.")
    if args.out.exists():
        report.write(load_results(args.out))
