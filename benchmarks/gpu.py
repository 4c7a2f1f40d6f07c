"""On a CUDA device: no synchronisation, time per step and memory with an SDXL-shaped network.

Random weights, so no picture comes of it; shapes, types and costs are SDXL's at 1024x1024 in fp16.
Without a CUDA device nothing is measured and no result is written.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

import dode_core as dode
from dode_core.report import text_table
from dode_core.solve.schedules import karras

from .common import comfy_sampling, write_result
from .cost import sdxl
from .overhead import random_table

STEPS, ROUNDS, BATCH, SAMPLES = 8, 5, 2, 4


def main(arguments: Sequence[str] = ()) -> None:
    if not torch.cuda.is_available():
        print("no CUDA device here: not run, nothing is written")
        return
    model = denoiser()
    x = torch.randn(BATCH, 4, 128, 128, device="cuda") * 14.6
    sigmas = karras(STEPS, 0.029, 14.6).float()
    peer = comfy_sampling().sample_ipndm
    table = random_table("ipndm", sigmas)
    runs = {
        "ComfyUI ipndm": lambda: peer(model, x, sigmas.cuda(), disable=True),
        "D-ipndm": lambda: dode.sample(model, x, sigmas, disable=True, table=table),
    }
    result: dict[str, Any] = {
        "device": torch.cuda.get_device_name(),
        "torch_cuda": torch.version.cuda,
        "synchronisations": synchronisations(runs["D-ipndm"]),
        "samplers": [measure(name, run) for name, run in runs.items()],
        "calibration": calibration(model),
    }
    cells = [
        [row["what"], f"{1e3 * row['seconds']:.1f}", f"{row['peak_mib']:.0f}"]
        for row in [*result["samplers"], result["calibration"]]
    ]
    print(text_table([result["device"], "ms", "peak MiB above the weights"], cells))
    write_result("gpu", result)


def denoiser() -> Callable[..., Tensor]:
    """SDXL's UNet with random weights as a k-diffusion denoiser."""
    torch.manual_seed(0)
    with torch.device("cuda"):
        network = sdxl().half().eval().requires_grad_(False)
        cond = torch.randn(1, 77, 2048, dtype=torch.float16)
        added = {
            "text_embeds": torch.randn(1, 1280, dtype=torch.float16),
            "time_ids": torch.tensor([[1024, 1024, 0, 0, 1024, 1024]], dtype=torch.float16),
        }

    @torch.no_grad()
    def model(x: Tensor, sigma: Tensor, **rest: Any) -> Tensor:
        n, s = len(x), sigma.view(-1, 1, 1, 1)
        more = {key: value.expand(n, -1) for key, value in added.items()}
        out = network(
            (x / (1 + s * s).sqrt()).half(),
            250 * sigma.clamp(max=4).half(),
            encoder_hidden_states=cond.expand(n, -1, -1),
            added_cond_kwargs=more,
            return_dict=False,
        )[0]
        return x / (1 + s * s) - s * 0.1 * out.float()

    return model


def synchronisations(run: Callable[[], Tensor]) -> int:
    """0, or this raises: CUDA's own check is set to raise on any."""
    run()
    torch.cuda.set_sync_debug_mode("error")
    try:
        run()
    finally:
        torch.cuda.set_sync_debug_mode("default")
    return 0


def measure(what: str, run: Callable[[], Any], rounds: int = ROUNDS) -> dict[str, Any]:
    """Median-like seconds of a run and its peak memory above what was there before."""
    run()
    torch.cuda.synchronize()
    base = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    times = []
    for _ in range(rounds):
        began = time.perf_counter()
        run()
        torch.cuda.synchronize()
        times.append(time.perf_counter() - began)
    peak = (torch.cuda.max_memory_allocated() - base) / 2**20
    return {"what": what, "seconds": sorted(times)[len(times) // 2], "peak_mib": peak}


def calibration(model: Callable[..., Tensor]) -> dict[str, Any]:
    """A whole calibration at the same batch."""
    x = torch.randn(SAMPLES, 4, 128, 128, device="cuda") * 14.6
    grid = karras(STEPS, 0.029, 14.6)
    return measure(
        f"calibration, {SAMPLES} samples",
        lambda: dode.distill(model, x, grid, "ipndm", batch_size=BATCH),
        rounds=1,
    )
