"""Sampler time per step, model excluded: ours against ComfyUI's ipndm, interleaved in one run."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

import dode_core as dode
from dode_core.report import text_table
from dode_core.schedules import karras

from .common import comfy_sampling, write_result

SHAPES = ((1, 4, 128, 128), (1, 16, 128, 128))
STEPS, ROUNDS = 50, 60


def main(arguments: Sequence[str] = ()) -> None:
    torch.set_num_threads(1)
    peer = comfy_sampling().sample_ipndm
    rows, results = [], []
    for shape in SHAPES:
        generator = torch.Generator().manual_seed(0)
        x = torch.randn(shape, generator=generator) * 14.6
        denoised = torch.randn(shape, generator=generator)
        sigmas = karras(STEPS, 0.029, 14.6).float()

        def model(x: Tensor, sigma: Tensor, denoised: Tensor = denoised) -> Tensor:
            return denoised  # costs nothing, so that what is left is the sampler

        runs: dict[str, Callable[[], Tensor]] = {
            "ComfyUI ipndm": lambda x=x, s=sigmas, m=model: peer(m, x, s, disable=True)
        }
        for solver in ("ipndm", "ddim", "dpmpp_2m"):
            table = random_table(solver, sigmas)
            runs[f"D-{solver}"] = lambda x=x, s=sigmas, m=model, t=table: dode.sample(
                m, x, s, disable=True, table=t
            )
        medians = interleaved(runs)
        base = medians["ComfyUI ipndm"]
        for name, seconds in medians.items():
            micros = 1e6 * seconds / STEPS
            label = "x".join(map(str, shape))
            rows.append([name, label, f"{micros:.1f}", f"{seconds / base:.2f}"])
            results.append(
                {"sampler": name, "shape": shape, "us_per_step": micros, "ratio": seconds / base}
            )
    print(text_table(["sampler", "latent", "us per step", "ratio to ipndm"], rows))
    write_result("overhead", results)


def random_table(solver: str, sigmas: Tensor) -> dode.LambdaTable:
    """A table with every lambda in use."""
    count = len(dode.SOLVERS[solver].stages(sigmas.tolist()))
    lambdas = 0.1 + torch.rand(count, 1, generator=torch.Generator().manual_seed(1))
    return dode.LambdaTable(solver, sigmas, lambdas)


def interleaved(runs: dict[str, Callable[[], Tensor]]) -> dict[str, float]:
    """Median seconds of each, taken in turn so that drift hits all alike."""
    times: dict[str, list[float]] = {name: [] for name in runs}
    for round_number in range(ROUNDS + 3):
        for name, run in runs.items():
            began = time.perf_counter()
            run()
            if round_number >= 3:
                times[name].append(time.perf_counter() - began)
    return {name: statistics.median(values) for name, values in times.items()}
