"""Sampler time per step and memory: ours against ComfyUI's ipndm, interleaved in one run.

Time: with a model that costs nothing, so that what is left is the sampler, and with a small
convolutional network, eager and under torch.compile. Memory: latents alive at most, counted.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

import dode_core as dode
from dode_core.report import text_table
from dode_core.solve.schedules import karras

from .common import comfy_sampling, write_result

SHAPES = ((1, 4, 128, 128), (1, 16, 128, 128))
STEPS, ROUNDS = 50, 60
NETWORK_SHAPE, NETWORK_STEPS, NETWORK_ROUNDS = (1, 4, 64, 64), 10, 12
Sample = Callable[..., Tensor]


class Network(nn.Module):
    """A small denoiser of convolutions, which torch.compile can compile."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        widths = (4, 32, 32, 32, 4)
        pairs = zip(widths, widths[1:], strict=False)
        layers = [nn.Conv2d(a, b, 3, padding=1) for a, b in pairs]
        self.body = nn.Sequential(*(part for layer in layers for part in (layer, nn.SiLU())))

    def forward(self, x: Tensor, sigma: Tensor) -> Tensor:
        s = sigma.view(-1, 1, 1, 1)
        return x / (1 + s * s) + self.body(x / (1 + s * s).sqrt()) * s / (1 + s)


def main(arguments: Sequence[str] = ()) -> None:
    torch.set_num_threads(1)
    peer = comfy_sampling().sample_ipndm
    result = {"sampler_alone": alone(peer), "with_a_network": network(peer), "memory": memory(peer)}
    write_result("overhead", result)


def alone(peer: Sample) -> list[dict[str, Any]]:
    """Microseconds per step with a model that costs nothing."""
    results = []
    for shape in SHAPES:
        generator = torch.Generator().manual_seed(0)
        x = torch.randn(shape, generator=generator) * 14.6
        denoised = torch.randn(shape, generator=generator)
        sigmas = karras(STEPS, 0.029, 14.6).float()

        def model(x: Tensor, sigma: Tensor, denoised: Tensor = denoised) -> Tensor:
            return denoised

        medians = interleaved(samplers(peer, model, x, sigmas), ROUNDS)
        results += rows(medians, STEPS, {"shape": shape})
    show(results, "shape")
    return results


def network(peer: Sample) -> list[dict[str, Any]]:
    """Microseconds per step with a network, eager and compiled."""
    x = torch.randn(NETWORK_SHAPE, generator=torch.Generator().manual_seed(0)) * 14.6
    sigmas = karras(NETWORK_STEPS, 0.029, 14.6).float()
    model = Network().eval()
    results = []
    with torch.no_grad():
        for kind, network in (("eager", model), ("compiled", torch.compile(model))):
            try:
                network(x, sigmas[:1])
            except Exception as error:  # no compiler on this machine
                print(f"torch.compile does not work here, not measured: {str(error)[:200]}")
                continue
            medians = interleaved(samplers(peer, network, x, sigmas), NETWORK_ROUNDS)
            results += rows(medians, NETWORK_STEPS, {"model": kind})
    show(results, "model")
    return results


def memory(peer: Sample) -> list[dict[str, Any]]:
    """Latents alive at most during sampling, the model's own left out by a model that has none."""
    from memory import peak  # tests/, on the path since comfy_sampling()

    x = torch.randn(1, 4, 32, 32) * 14.6
    sigmas = karras(20, 0.029, 14.6).float()

    def model(x: Tensor, sigma: Tensor) -> Tensor:
        return x / (1 + sigma.view(-1, 1, 1, 1) ** 2)

    results = [
        {"sampler": name, "latents": round(peak(lambda x, run=run: run(), x), 2)}
        for name, run in samplers(peer, model, x, sigmas, list(dode.SOLVERS)).items()
    ]
    cells = [[row["sampler"], f"{row['latents']:.1f}"] for row in results]
    print(text_table(["sampler", "latents alive at most"], cells))
    return results


def samplers(
    peer: Sample,
    model: Sample,
    x: Tensor,
    sigmas: Tensor,
    solvers: Sequence[str] = ("ipndm", "ddim", "dpmpp_2m"),
) -> dict[str, Callable[[], Tensor]]:
    """The peer and ours, ready to run."""
    runs: dict[str, Callable[[], Tensor]] = {
        "ComfyUI ipndm": lambda: peer(model, x, sigmas, disable=True)
    }
    for solver in solvers:
        table = random_table(solver, sigmas)
        runs[f"D-{solver}"] = lambda t=table: dode.sample(model, x, sigmas, disable=True, table=t)
    return runs


def rows(medians: dict[str, float], steps: int, facts: dict[str, Any]) -> list[dict[str, Any]]:
    base = medians["ComfyUI ipndm"]
    return [
        {"sampler": name, **facts, "us_per_step": 1e6 * s / steps, "ratio": s / base}
        for name, s in medians.items()
    ]


def show(results: Sequence[dict[str, Any]], key: str) -> None:
    cells = []
    for row in results:
        label = row[key] if isinstance(row[key], str) else "x".join(map(str, row[key]))
        cells.append([row["sampler"], label, f"{row['us_per_step']:.1f}", f"{row['ratio']:.2f}"])
    print(text_table(["sampler", key, "us per step", "ratio to ipndm"], cells))


def random_table(solver: str, sigmas: Tensor) -> dode.LambdaTable:
    """A table with every lambda in use."""
    count = len(dode.SOLVERS[solver].stages(sigmas.tolist()))
    lambdas = 0.1 + torch.rand(count, 1, generator=torch.Generator().manual_seed(1))
    return dode.LambdaTable(solver, sigmas, lambdas)


def interleaved(runs: dict[str, Callable[[], Tensor]], rounds: int) -> dict[str, float]:
    """Median processor seconds of each, taken in turn so that drift hits all alike.

    On one thread that is the time it takes; what other programs take from the machine is left out.
    """
    times: dict[str, list[float]] = {name: [] for name in runs}
    for round_number in range(rounds + 3):
        for name, run in runs.items():
            began = time.process_time()
            run()
            if round_number >= 3:
                times[name].append(time.process_time() - began)
    return {name: statistics.median(values) for name, values in times.items()}
