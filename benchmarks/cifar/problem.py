"""CIFAR-10 as a problem beside the others: the network, its noises, its converged samples."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

import dode_core as dode
from benchmarks.problems import Problem

from .data import CLASSES
from .network import IMAGE_SHAPE, CifarDenoiser, load_network

PART = 16  # noises that are drawn at a time, so that fewer are the beginning of more


@dataclass(frozen=True)
class CifarProblem(Problem):
    """Class-conditional, no guidance; ``path`` is the network's weights."""

    path: Path = Path()

    @cached_property
    def model(self) -> Any:
        return CifarDenoiser(load_network(self.path))

    @cached_property
    def digest(self) -> str:
        """Which weights: the beginning of their SHA-256."""
        return hashlib.sha256(self.path.read_bytes()).hexdigest()[:12]

    def noise(self, count: int, seed: int) -> tuple[Tensor, dict[str, Any]]:
        """The first ``count`` noises of a seed, whatever the count; labels cycle."""
        generator = torch.Generator().manual_seed(seed)
        parts = range(0, count, PART)
        x = torch.cat([torch.randn(PART, *IMAGE_SHAPE, generator=generator) for _ in parts])
        return x[:count] * self.high, {"labels": torch.arange(count) % len(CLASSES)}


def problem(path: Path) -> CifarProblem:
    return CifarProblem("CIFAR-10", "ve", 1.0, "cifar", path)


def converged(given: CifarProblem, count: int, seed: int, folder: Path) -> Tensor:
    """EDM's Heun with 127 evaluations on the first noises, kept in ``folder``."""
    path = folder / f"converged_{given.digest}_{seed}_{count}.safetensors"
    if not path.exists():
        x, args = given.noise(count, seed)
        how: dict[str, Any] = {"solver": "heun", "disable": True, "parametrization": "ve"}
        found = dode.sample(given.model, x, given.fine_grid(), args, **how)
        save_file({"samples": found.contiguous()}, path.with_suffix(".tmp"))
        path.with_suffix(".tmp").replace(path)
    return load_file(path)["samples"]
