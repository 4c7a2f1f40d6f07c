"""The demo's kind of network for CIFAR-10, and the denoiser that the samplers call."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from dode_core.demo.model import EmojiUNet

from .data import CLASSES, SIDE

NO_CLASS = len(CLASSES)  # the unconditional label
IMAGE_SHAPE = (3, SIDE, SIDE)
SIGMA_DATA = 0.5  # of CIFAR-10 in [-1, 1], measured by benchmarks.cifar.data
# Sized for one core: 163 MFLOP an image, about half of the demo network.
SIZES: dict[str, Any] = {"channels": 32, "multipliers": (1, 2, 3)}


class CifarUNet(EmojiUNet):
    """``forward(x, sigma, labels) -> denoised`` as the demo network, with CIFAR-10's classes."""

    def __init__(self, **config: Any) -> None:
        """``config`` as :class:`EmojiUNet`'s; SIZES where it is empty."""
        super().__init__(**(config or {"sigma_data": SIGMA_DATA, **SIZES}))
        self.class_emb = nn.Embedding(NO_CLASS + 1, self.config["emb"])


def load_network(path: str | Path) -> CifarUNet:
    """Read a network written by ``dode_core.demo.model.save_network``."""
    from safetensors import safe_open

    with safe_open(str(path), "pt") as file:
        config = json.loads(file.metadata()["config"])
        state = {key: file.get_tensor(key).float() for key in file.keys()}  # noqa: SIM118
    network = CifarUNet(**config)
    network.load_state_dict(state)
    network.eval().requires_grad_(False)
    return network.to(memory_format=torch.channels_last)


class CifarDenoiser:
    """``model(x, sigma, labels=...) -> denoised``: conditional on the class, without guidance."""

    parametrization = "ve"

    def __init__(self, network: CifarUNet) -> None:
        self.network = network

    @torch.no_grad()
    def __call__(self, x: Tensor, sigma: Tensor, labels: Tensor) -> Tensor:
        return self.network(x, sigma, labels)
