"""Our own loader of the third-party MNIST flow transformer; see its README."""

from __future__ import annotations

import math
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

FOLDER = Path(__file__).parent / "third_party" / "flow_vit_mnist_cfg"
IMAGE_SHAPE, CLASSES, NO_CLASS = (1, 28, 28), 10, 10


class FlowTransformer(nn.Module):
    """``forward(x, t, labels) -> x0``: x (B, 1, 28, 28), t = 1 - sigma (B,), labels (B,)."""

    def __init__(self, width: int = 64, layers: int = 4, hidden: int = 256, patch: int = 7) -> None:
        super().__init__()
        self.patch_embed = nn.Conv2d(1, width, patch, patch)
        self.pos_embed = nn.Parameter(torch.zeros(1, (28 // patch) ** 2, width))

        def layer() -> nn.Module:
            return nn.TransformerEncoderLayer(width, 4, hidden, batch_first=True, activation="gelu")

        self.transformer = nn.Sequential(*[layer() for _ in range(layers)])
        self.unpatch = nn.ConvTranspose2d(width, 1, patch, patch)
        self.y_encoder = nn.Embedding(NO_CLASS + 1, 2 * width)

    def forward(self, x: Tensor, t: Tensor, labels: Tensor) -> Tensor:
        grid = self.patch_embed(x)
        b, d, h, w = grid.shape
        angle = t.reshape(-1, 1) * torch.exp(torch.arange(d) * -(math.log(1e4) / (d - 1)))
        time = torch.cat([angle.sin(), angle.cos()], -1).view(b, 2, d)
        image = grid.flatten(2).transpose(1, 2) + self.pos_embed
        tokens = torch.cat([image, time, self.y_encoder(labels).view(b, 2, d)], 1)
        return self.unpatch(self.transformer(tokens)[:, :-4].transpose(1, 2).reshape(b, d, h, w))


class MnistTransformer:
    """``model(x, sigma, labels, cfg) -> denoised``, with classifier-free guidance."""

    parametrization = "flow"

    def __init__(self) -> None:
        weights = load_file(FOLDER / "weights.safetensors")
        hidden = weights["transformer.0.linear1.weight"].shape[0]
        self.net = FlowTransformer(hidden=hidden)
        self.net.load_state_dict(weights)
        self.net.eval()

    @torch.no_grad()
    def __call__(self, x: Tensor, sigma: Tensor, labels: Tensor, cfg: float = 1.0) -> Tensor:
        t = 1 - sigma.float()
        conditional = self.net(x, t, labels)
        if cfg == 1:
            return conditional
        without = self.net(x, t, torch.full_like(labels, NO_CLASS))
        return without + cfg * (conditional - without)
