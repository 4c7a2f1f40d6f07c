"""The parts of ``bench gpu``: what is run, and the figures that come of it."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any

import torch
from torch import Tensor

import dode_core as dode
from dode_core.fit import distributed
from dode_core.solve.schedules import karras

from .common import ROOT, comfy_sampling
from .gpu_network import SIGMA_MAX, SIGMA_MIN, Counted, Denoiser, in_turn, once, one_rank
from .overhead import random_table

LEAST_SAMPLES = 8  # that a profile is made of
CUDA_TESTS = ("tests/test_no_overhead.py", "-k", "the_gpu_is_not_waited_for or no_value_is_read")
Found = dict[str, Any]


@dataclass(frozen=True)
class Size:
    """How much is run: steps of a run, rounds of a timing, samples and evaluations of each."""

    steps: int
    rounds: int
    batch: int
    samples: int
    budget: int
    compiler: str


# On a CPU the script is tried, and what a C++ compiler makes of a network is no figure here.
SIZES = {"cuda": Size(8, 5, 2, 16, 64, "inductor"), "cpu": Size(3, 1, 8, 8, 56, "eager")}


@dataclass
class Bench:
    """Where it runs, the network, and when to stop (of time.monotonic())."""

    device: str
    ends: float

    @property
    def size(self) -> Size:
        return SIZES[self.device]

    @cached_property
    def model(self) -> Denoiser:
        return Denoiser(self.device, small=self.device == "cpu")

    @cached_property
    def sigmas(self) -> Tensor:
        return karras(self.size.steps, SIGMA_MIN, SIGMA_MAX).float()

    @cached_property
    def evaluation(self) -> float:
        """Seconds of one evaluation of one sample, in batches as they are run."""
        x = self.model.noise(self.size.batch)
        sigma = torch.ones(len(x), device=x.device)
        found = in_turn(self.device, {"one": lambda: self.model(x, sigma)}, self.size.rounds)
        return found["one"]["seconds"] / len(x)

    def samplers(self, model: Callable[..., Tensor]) -> dict[str, Callable[[], Any]]:
        """The network's evaluations alone, ours, and ComfyUI's where it is at hand."""
        x = self.model.noise(self.size.batch)
        ones = torch.ones(len(x), device=x.device)
        runs: dict[str, Callable[[], Any]] = {
            "network alone": lambda: [model(x, ones) for _ in range(self.size.steps)]
        }
        for solver in ("ipndm", "ddim"):
            table = random_table(solver, self.sigmas)
            runs[f"D-{solver}"] = partial(
                dode.sample, model, x, self.sigmas, disable=True, table=table
            )
        if peer := self.peer:
            sigmas = self.sigmas.to(x.device)
            runs["ComfyUI ipndm"] = lambda: peer(model, x, sigmas, disable=True)
        return runs

    @cached_property
    def peer(self) -> Callable[..., Tensor] | None:
        """ComfyUI's ipndm; None, said, without ComfyUI or what it needs."""
        try:
            return comfy_sampling().sample_ipndm
        except Exception as error:  # whatever its modules raise when they are imported
            print(f"ComfyUI's ipndm is left out, ComfyUI is not at hand: {error}")
            return None


def tests(bench: Bench) -> Found:
    """The tests that need a CUDA device; on the CPU those on the meta device."""
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", *CUDA_TESTS]
    ran = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)
    said = [line for line in ran.stdout.splitlines() if " passed" in line]
    if ran.returncode or not said or (bench.device == "cuda" and "skipped" in said[-1]):
        raise RuntimeError(f"not all tests ran:\n{ran.stdout[-3000:]}{ran.stderr[-1000:]}")
    return {"said": said[-1]}


def synchronisations(bench: Bench) -> Found:
    """0, or this raises: with CUDA's own check, or where tensors have no values to wait for."""
    table = random_table("ipndm", bench.sigmas)
    model = bench.model if bench.device == "cuda" else Denoiser("meta", small=True)
    x = model.noise(bench.size.batch)
    for denoiser in (lambda x, sigma, **rest: x * 0.5, model):
        run = partial(dode.sample, denoiser, x, bench.sigmas, disable=True, table=table)
        if bench.device == "cuda":
            run()
            torch.cuda.set_sync_debug_mode("error")
        try:
            run()
        finally:
            if bench.device == "cuda":
                torch.cuda.set_sync_debug_mode("default")
    return {"synchronisations": 0, "checked on": x.device.type}


def sampling(bench: Bench) -> Found:
    """A run of a few steps; milliseconds a step beside what the network takes."""
    found = in_turn(bench.device, bench.samplers(bench.model), bench.size.rounds)
    alone = found["network alone"]["seconds"]
    for one in found.values():
        one["ms_a_step_beside_the_network"] = 1e3 * (one["seconds"] - alone) / bench.size.steps
    return found


def compiled(bench: Bench) -> Found:
    """The same with a network that torch.compile made; a sampler must not make it do so again."""
    from torch._dynamo.utils import counters

    def graphs() -> int:
        return counters["stats"]["unique_graphs"]

    model, x = bench.model, bench.model.noise(bench.size.batch)
    eager = model.network
    model.network = torch.compile(eager, backend=bench.size.compiler)
    try:
        _, first = once(bench.device, lambda: model(x, torch.ones(len(x), device=x.device)))
        before = graphs()
        found = sampling(bench)
        return {
            "backend": bench.size.compiler,
            "seconds_to_compile": first["seconds"],
            "graphs": before,
            "graphs_made_by_sampling": graphs() - before,
            **found,
        }
    finally:
        model.network = eager


def table(bench: Bench) -> Found:
    """One table: D-DDIM, one lambda a step, no learned sigmas."""

    def distill(model: Callable[..., Tensor], x: Tensor) -> dode.LambdaTable:
        return dode.distill(model, x, bench.sigmas, batch_size=bench.size.batch)

    return _calibration(bench, bench.size.samples, distill)


def profile(bench: Bench) -> Found:
    """A profile of 64 evaluations a sample; of fewer samples where the time is short."""
    expected = bench.evaluation * bench.size.budget * bench.size.samples
    in_time = time.monotonic() + expected < bench.ends
    samples = bench.size.samples if in_time else LEAST_SAMPLES

    def calibrate(model: Callable[..., Tensor], x: Tensor) -> dode.Profile:
        size = bench.size
        return dode.calibrate(
            model, x, SIGMA_MAX, SIGMA_MIN, budget=size.budget, batch_size=size.batch
        )

    return _calibration(bench, samples, calibrate)


def _calibration(bench: Bench, samples: int, run: Callable[..., Any]) -> Found:
    """Seconds in all, those that evaluations take by themselves, and what is left.

    Where fewer samples were run than wanted, the minutes of those are computed, and it says so.
    """
    torch.manual_seed(1)
    counted, x = Counted(bench.model), bench.model.noise(samples)
    _, spent = once(bench.device, lambda: run(counted, x))
    inside = bench.evaluation * counted.samples
    found = {"samples": samples, "evaluations_a_sample": counted.samples / samples, **spent}
    found |= {"of_them_evaluations": inside, "left": spent["seconds"] - inside}
    if (wanted := bench.size.samples) > samples:
        more = (wanted - samples) / samples * inside
        found[f"minutes_of_{wanted}_samples_computed"] = (spent["seconds"] + more) / 60
    return found


def one_process(bench: Bench) -> Found:
    """A table in a group of one process: the exchanges run, and nothing else changes."""
    backend = "nccl" if bench.device == "cuda" else "gloo"
    torch.manual_seed(2)
    x = bench.model.noise(2 * bench.size.batch)

    def run() -> dode.LambdaTable:
        return dode.distill(bench.model, x, bench.sigmas, batch_size=bench.size.batch)

    without, alone = once(bench.device, run)
    with one_rank(), distributed.ranks(backend, even_alone=True):
        within, spent = once(bench.device, run)
    apart = float((without.lambdas - within.lambdas).abs().max())
    return {
        "backend": backend,
        "seconds_without": alone["seconds"],
        "seconds_within": spent["seconds"],
        "lambdas_apart_at_most": apart,
    }


PARTS: dict[str, Callable[[Bench], Found]] = {
    "tests": tests,
    "synchronisations": synchronisations,
    "sampling": sampling,
    "table": table,
    "profile": profile,
    "one process": one_process,
    "compiled": compiled,  # last: a compiler can take minutes
}
