"""Our own loader of the third-party MNIST noise predictor; see its README."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import Tensor

FOLDER = Path(__file__).parent / "third_party" / "ddpm_cnn_mnist"
IMAGE_SHAPE = (1, 28, 28)
LOW, HIGH = 0.0149, 158.0  # of its schedule, in x0 + sigma eps
HIDDEN, TIME = 4, (0, 2, 4, 6)  # layers


class MnistDdpm:
    """``model(x, sigma) -> denoised``, x = x0 + sigma eps, (B, 1, 28, 28); one sigma a call."""

    parametrization = "ve"

    def __init__(self) -> None:
        self.weights = load_file(FOLDER / "weights.safetensors")
        kept = self.weights["alpha_t"].double()[1:]
        self.logs = (((1 - kept) / kept).sqrt().log()).numpy()  # log sigma of steps 1 to 1000

    @torch.no_grad()
    def __call__(self, x: Tensor, sigma: Tensor) -> Tensor:
        steps = np.arange(1, len(self.logs) + 1)
        t = float(np.interp(math.log(float(sigma[0])), self.logs, steps)) / len(steps)
        level = sigma.view(-1, 1, 1, 1)
        return x - level * self._noise(x / (1 + level**2).sqrt(), t)

    def _noise(self, x: Tensor, t: float) -> Tensor:
        w = self.weights
        angle = t * w["gt.frequencies"]
        time = torch.cat([angle.sin(), angle.cos() - 1])
        for i in TIME:
            time = F.linear(time, w[f"gt.time_embed.{i}.weight"], w[f"gt.time_embed.{i}.bias"])
            time = time if i == TIME[-1] else F.gelu(time)
        for i in range(HIDDEN):
            name = f"gt.blocks.{i}.net"
            x = F.conv2d(x, w[f"{name}.0.weight"], w[f"{name}.0.bias"], padding=3)
            x = F.gelu(F.layer_norm(x, x.shape[1:], w[f"{name}.1.weight"], w[f"{name}.1.bias"]))
            x = x + time[:, None, None] if i == 0 else x
        last = f"gt.blocks.{HIDDEN}"
        return F.conv2d(x, w[f"{last}.weight"], w[f"{last}.bias"], padding=1)
