"""What ``bench gpu`` runs: a network of SDXL's shape with random weights, and how it is timed."""

from __future__ import annotations

import contextlib
import os
import socket
import statistics
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from .cost import sdxl

SIGMA_MIN, SIGMA_MAX = 0.029, 14.6
PASSES = 2  # of the network for an evaluation, as under classifier-free guidance
CFG = 5.0
SIDE, WIDTH, POOLED = 128, 2048, 1280  # of SDXL: its latent, its text, its pooled text
SMALL_SIDE, SMALL_WIDTH, SMALL_POOLED = 8, 32, 32
SMALL = {  # the same kind of network, for a CPU
    "sample_size": SMALL_SIDE,
    "block_out_channels": (8, 16, 16),
    "layers_per_block": 1,
    "norm_num_groups": 4,
    "transformer_layers_per_block": 1,
    "attention_head_dim": (2, 4, 4),
    "cross_attention_dim": SMALL_WIDTH,
    "addition_time_embed_dim": 8,
    "projection_class_embeddings_input_dim": 6 * 8 + SMALL_POOLED,
}


class Denoiser:
    """``model(x, sigma) -> denoised`` with guidance; x (B, 4, side, side) in float32."""

    def __init__(self, device: str, small: bool) -> None:
        self.side = SMALL_SIDE if small else SIDE
        width, pooled = (SMALL_WIDTH, SMALL_POOLED) if small else (WIDTH, POOLED)
        self.dtype = torch.float32 if small else torch.float16
        torch.manual_seed(0)
        with torch.device(device):
            network = sdxl(**SMALL) if small else sdxl()
            self.network = network.to(self.dtype).eval().requires_grad_(False)
            self.cond = torch.randn(PASSES, 77, width, dtype=self.dtype)
            size = 8 * self.side
            sizes = torch.tensor([size, size, 0, 0, size, size], dtype=self.dtype)
            self.added = {
                "text_embeds": torch.randn(PASSES, pooled, dtype=self.dtype),
                "time_ids": sizes.expand(PASSES, -1),
            }

    def noise(self, samples: int) -> Tensor:
        shape = (samples, 4, self.side, self.side)
        return torch.randn(shape, device=self.cond.device) * SIGMA_MAX

    @torch.no_grad()
    def __call__(self, x: Tensor, sigma: Tensor, **rest: Any) -> Tensor:
        n, s = len(x), sigma.view(-1, 1, 1, 1)
        inside = (x / (1 + s * s).sqrt()).to(self.dtype)
        out = self.network(
            torch.cat([inside, inside]),
            250 * sigma.clamp(max=4).to(self.dtype).repeat(PASSES),
            encoder_hidden_states=self.cond.repeat_interleave(n, 0),
            added_cond_kwargs={k: v.repeat_interleave(n, 0) for k, v in self.added.items()},
            return_dict=False,
        )[0].float()
        without, conditional = out.chunk(PASSES)
        guided = without + CFG * (conditional - without)
        return x / (1 + s * s) - s * 0.1 * guided


class Counted:
    """A denoiser that counts how many samples it was asked for."""

    def __init__(self, model: Callable[..., Tensor]) -> None:
        self.model, self.samples = model, 0

    def __call__(self, x: Tensor, sigma: Tensor, **rest: Any) -> Tensor:
        self.samples += len(x)
        return self.model(x, sigma, **rest)


def wait(device: str) -> None:
    """Until all that was asked of the device is done."""
    if device == "cuda":
        torch.cuda.synchronize()


def once(device: str, run: Callable[[], Any]) -> tuple[Any, dict[str, Any]]:
    """(what a run returns, its seconds and its peak MiB above what was there; none on the CPU)."""
    wait(device)
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated() if device == "cuda" else 0
    began = time.perf_counter()
    found = run()
    wait(device)
    spent = {"seconds": time.perf_counter() - began}
    if device == "cuda":
        spent["peak_mib"] = (torch.cuda.max_memory_allocated() - before) / 2**20
    return found, spent


def in_turn(
    device: str, runs: Mapping[str, Callable[[], Any]], rounds: int
) -> dict[str, dict[str, Any]]:
    """Median seconds and peak memory of each, one round of all after the other; one unmeasured."""
    found: dict[str, list[dict[str, Any]]] = {name: [] for name in runs}
    for number in range(rounds + 1):
        for name, run in runs.items():
            spent = once(device, run)[1]
            if number:
                found[name].append(spent)
    return {
        name: {key: statistics.median(one[key] for one in spent) for key in spent[0]}
        for name, spent in found.items()
    }


@contextlib.contextmanager
def one_rank() -> Iterator[None]:
    """The environment that torchrun would give to one process alone."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    wanted = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "RANK": "0", "WORLD_SIZE": "1"}
    before = {key: os.environ.get(key) for key in wanted}
    os.environ.update(wanted)
    try:
        yield
    finally:
        for key, value in before.items():
            os.environ.pop(key) if value is None else os.environ.update({key: value})
