"""The demo network: a small class-conditional UNet for 32x32 emoji.

Two trained weights ship with it, one per parametrisation:

* ``emoji_edm``: variance exploding, x = x0 + sigma * eps, EDM preconditioning
  (Karras et al. 2022, arXiv 2206.00364, table 1);
* ``emoji_flow``: rectified flow, x = (1 - sigma) * x0 + sigma * eps, velocity prediction.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .layers import Attention, Level, ResBlock

CLASSES = (
    "smileys",
    "people",
    "animals",
    "food",
    "travel",
    "activities",
    "objects",
    "symbols",
    "flags",
)
NO_CLASS = len(CLASSES)  # the unconditional label, for guidance
IMAGE_SHAPE = (3, 32, 32)


@dataclass(frozen=True)
class Architecture:
    """Sizes of the network: levels, channels, where attention is; they are in the weights file."""

    channels: int = 48
    multipliers: tuple[int, ...] = (1, 2, 2)
    blocks: int = 1
    attention: tuple[int, ...] = (1,)
    patch: int = 2
    emb: int = 128
    full: int = 12


class EmojiUNet(nn.Module):
    """``forward(x, sigma, labels) -> denoised``.

    x: (B, 3, 32, 32) noised image, x0 in [-1, 1]; sigma: (B,) noise level;
    labels: (B,) class index, ``NO_CLASS`` for none.
    """

    def __init__(
        self, parametrization: str = "ve", sigma_data: float = 0.6094, **architecture: Any
    ) -> None:
        """``architecture`` are fields of :class:`Architecture`."""
        super().__init__()
        a = Architecture(**architecture)
        sizes = {k: list(v) if isinstance(v, tuple) else v for k, v in vars(a).items()}
        facts = {"parametrization": parametrization, "sigma_data": sigma_data}
        self.config: dict[str, Any] = {**facts, **sizes}
        self.parametrization, self.sigma_data, self.patch = parametrization, sigma_data, a.patch
        freqs = torch.exp(torch.linspace(math.log(0.25), math.log(16.0), a.emb // 4))
        self.register_buffer("freqs", freqs, persistent=False)
        self.noise_emb = nn.Sequential(
            nn.Linear(2 * (a.emb // 4), a.emb), nn.SiLU(), nn.Linear(a.emb, a.emb)
        )
        self.class_emb = nn.Embedding(len(CLASSES) + 1, a.emb)
        self.stem = nn.Conv2d(3 * a.patch * a.patch, a.channels, 3, padding=1)
        c = self._add_levels(a)
        self.norm_out = nn.GroupNorm(8, c)
        # A light tail at full resolution: pixel shuffle, mix with the input, two convolutions.
        self.out = nn.Conv2d(c, a.full * a.patch * a.patch, 3, padding=1)
        self.tail1 = nn.Conv2d(a.full + 3, a.full, 3, padding=1)
        self.tail2 = nn.Conv2d(a.full, 3, 3, padding=1)
        nn.init.zeros_(self.tail2.weight)
        nn.init.zeros_(self.tail2.bias)

    def _add_levels(self, a: Architecture) -> int:
        """Down, across and up again; the channels that come out."""
        self.down, self.up = nn.ModuleList(), nn.ModuleList()
        skips, c = [a.channels], a.channels
        for i, mult in enumerate(a.multipliers):
            if i:
                self.down.append(nn.Conv2d(c, c, 3, 2, 1))
                skips.append(c)
            for _ in range(a.blocks):
                self.down.append(Level(c, a.channels * mult, a.emb, i in a.attention))
                c = a.channels * mult
                skips.append(c)
        self.mid1, self.mid_attn = ResBlock(c, c, a.emb), Attention(c)
        self.mid2 = ResBlock(c, c, a.emb)
        for i, mult in reversed(list(enumerate(a.multipliers))):
            for _ in range(a.blocks + 1):
                self.up.append(Level(c + skips.pop(), a.channels * mult, a.emb, i in a.attention))
                c = a.channels * mult
            if i:
                self.up.append(nn.Conv2d(c, c, 3, padding=1))
        return c

    def network(self, x: Tensor, noise: Tensor, labels: Tensor) -> Tensor:
        """The bare network F(c_in x, c_noise, labels), all at unit scale."""
        angle = noise[:, None] * self.freqs[None] * 2
        emb = self.noise_emb(torch.cat([angle.cos(), angle.sin()], 1)) + self.class_emb(labels)
        emb = F.silu(emb)
        image = x
        x = F.pixel_unshuffle(x, self.patch)
        x = self.stem(x.contiguous(memory_format=torch.channels_last))
        skips = [x]
        for layer in self.down:
            x = layer(x, emb) if isinstance(layer, Level) else layer(x)
            skips.append(x)
        x = self.mid2(self.mid_attn(self.mid1(x, emb)), emb)
        for layer in self.up:
            if isinstance(layer, Level):
                x = layer(torch.cat([x, skips.pop()], 1), emb)
            else:
                x = layer(F.interpolate(x, scale_factor=2, mode="nearest"))
        x = F.pixel_shuffle(self.out(F.silu(self.norm_out(x))), self.patch)
        x = torch.cat([F.silu(x), image.to(x.dtype)], 1)
        return self.tail2(F.silu(self.tail1(x)))

    def precondition(self, sigma: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """(c_in, c_noise, skip, scale): the target is skip * x + scale * F(c_in * x, c_noise).

        The target is the denoised image for ``ve`` and the velocity eps - x0 for ``flow``;
        skip * x is its best linear guess for data of standard deviation sigma_data, and scale
        the standard deviation of what is left.
        """
        sd = self.sigma_data
        if self.parametrization == "ve":
            total = (sigma**2 + sd**2).sqrt()
            return 1 / total, sigma.log() / 4, (sd / total) ** 2, sigma * sd / total
        alpha = 1 - sigma
        total = (sigma**2 + (alpha * sd) ** 2).sqrt()
        # Beyond log-ratio 4 (sigma 0.982) training saw too little for the embedding to mean much.
        noise = (sigma / alpha.clamp(min=1e-4)).log().clamp(max=4.0) / 4
        return 1 / total, noise, (sigma - alpha * sd**2) / total**2, sd / total

    def target(self, x: Tensor, sigma: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """(prediction of the training target, its scale); see :meth:`precondition`."""
        c_in, noise, skip, scale = self.precondition(sigma)
        c_in, skip, scale = (c.view(-1, 1, 1, 1) for c in (c_in, skip, scale))
        return skip * x + scale * self.network(c_in * x, noise, labels).float(), scale

    def forward(self, x: Tensor, sigma: Tensor, labels: Tensor) -> Tensor:
        out, _ = self.target(x, sigma, labels)
        return out if self.parametrization == "ve" else x - sigma.view(-1, 1, 1, 1) * out


def weights_path(name: str = "emoji_edm") -> Path:
    """The weights file that ships with the package: ``emoji_edm`` or ``emoji_flow``."""
    return Path(__file__).parent / f"{name}.safetensors"


def load_network(path: str | Path, device: str | torch.device = "cpu") -> EmojiUNet:
    """Read a network written by :func:`save_network` (fp16 on disk, float32 in memory)."""
    from safetensors import safe_open

    with safe_open(str(path), "pt") as file:
        config = json.loads(file.metadata()["config"])
        state = {key: file.get_tensor(key).float() for key in file.keys()}  # noqa: SIM118
    network = EmojiUNet(**config)
    network.load_state_dict(state)
    network.eval().requires_grad_(False)
    return network.to(device=device, memory_format=torch.channels_last)


def save_network(network: EmojiUNet, path: str | Path, **metadata: str) -> None:
    """Write the weights in fp16 with the configuration in the header, atomically."""
    from safetensors.torch import save_file

    state = {key: value.half().contiguous() for key, value in network.state_dict().items()}
    temporary = Path(path).with_suffix(".tmp")
    save_file(state, temporary, metadata={"config": json.dumps(network.config), **metadata})
    temporary.replace(path)


class EmojiDenoiser:
    """The demo model as a k-diffusion denoiser with classifier-free guidance.

    ``model(x, sigma, labels=..., cfg=1.0) -> denoised``; guidance is
    uncond + cfg * (cond - uncond), in one call of twice the batch.
    """

    def __init__(self, network: EmojiUNet) -> None:
        self.network = network
        self.parametrization = network.parametrization
        self.calls = 0  # model evaluations, a guided one counted once

    @torch.no_grad()
    def __call__(self, x: Tensor, sigma: Tensor, labels: Tensor, cfg: float = 1.0) -> Tensor:
        self.calls += 1
        if cfg == 1:
            return self.network(x, sigma, labels)
        none = torch.full_like(labels, NO_CLASS)
        both = self.network(torch.cat([x, x]), torch.cat([sigma, sigma]), torch.cat([labels, none]))
        cond, uncond = both.chunk(2)
        return uncond + cfg * (cond - uncond)


def load_demo(name: str = "emoji_edm", device: str | torch.device = "cpu") -> EmojiDenoiser:
    """The shipped demo model, ready to sample: ``emoji_edm`` (VE) or ``emoji_flow`` (flow)."""
    return EmojiDenoiser(load_network(weights_path(name), device))
