"""The demo network: a small class-conditional UNet for 32x32 emoji.

Two trained weights ship with it, one per parametrisation:

* ``emoji_edm``: variance exploding, x = x0 + sigma * eps, EDM preconditioning
  (Karras et al. 2022, arXiv 2206.00364, table 1);
* ``emoji_flow``: rectified flow, x = (1 - sigma) * x0 + sigma * eps, velocity prediction.
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

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


class ResBlock(nn.Module):
    """Two 3x3 convolutions; the embedding scales and shifts the second normalisation."""

    def __init__(self, c_in: int, c_out: int, emb: int, groups: int = 8) -> None:
        super().__init__()
        self.norm1 = nn.GroupNorm(groups, c_in)
        self.conv1 = nn.Conv2d(c_in, c_out, 3, padding=1)
        self.emb = nn.Linear(emb, 2 * c_out)
        self.norm2 = nn.GroupNorm(groups, c_out)
        self.conv2 = nn.Conv2d(c_out, c_out, 3, padding=1)
        self.skip = nn.Conv2d(c_in, c_out, 1) if c_in != c_out else nn.Identity()
        nn.init.zeros_(self.conv2.weight)
        nn.init.zeros_(self.conv2.bias)

    def forward(self, x: Tensor, emb: Tensor) -> Tensor:
        h = self.conv1(F.silu(self.norm1(x)))
        scale, shift = self.emb(emb)[:, :, None, None].chunk(2, 1)
        return self.skip(x) + self.conv2(F.silu(self.norm2(h) * (1 + scale) + shift))


class Attention(nn.Module):
    """Self-attention over all pixels of one level."""

    def __init__(self, channels: int, heads: int = 2, groups: int = 8) -> None:
        super().__init__()
        self.heads = heads
        self.norm = nn.GroupNorm(groups, channels)
        self.qkv = nn.Conv2d(channels, 3 * channels, 1)
        self.out = nn.Conv2d(channels, channels, 1)
        nn.init.zeros_(self.out.weight)
        nn.init.zeros_(self.out.bias)

    def forward(self, x: Tensor) -> Tensor:
        b, c, h, w = x.shape
        qkv = self.qkv(self.norm(x)).permute(0, 2, 3, 1)
        q, k, v = qkv.reshape(b, h * w, 3, self.heads, c // self.heads).permute(2, 0, 3, 1, 4)
        y = F.scaled_dot_product_attention(q, k, v)
        return x + self.out(y.permute(0, 2, 1, 3).reshape(b, h, w, c).permute(0, 3, 1, 2))


class Level(nn.Module):
    """A residual block, and self-attention where the level has it."""

    def __init__(self, c_in: int, c_out: int, emb: int, attention: bool) -> None:
        super().__init__()
        self.res = ResBlock(c_in, c_out, emb)
        self.attn = Attention(c_out) if attention else nn.Identity()

    def forward(self, x: Tensor, emb: Tensor) -> Tensor:
        return self.attn(self.res(x, emb))


class EmojiUNet(nn.Module):
    """``forward(x, sigma, labels) -> denoised``.

    x: (B, 3, 32, 32) noised image, x0 in [-1, 1]; sigma: (B,) noise level;
    labels: (B,) class index, ``NO_CLASS`` for none.
    """

    def __init__(
        self,
        parametrization: str = "ve",
        sigma_data: float = 0.6094,
        channels: int = 48,
        multipliers: tuple[int, ...] = (1, 2, 2),
        blocks: int = 1,
        attention: tuple[int, ...] = (1,),
        patch: int = 2,
        emb: int = 128,
        full: int = 12,
    ) -> None:
        super().__init__()
        self.config: dict[str, Any] = {
            "parametrization": parametrization,
            "sigma_data": sigma_data,
            "channels": channels,
            "multipliers": list(multipliers),
            "blocks": blocks,
            "attention": list(attention),
            "patch": patch,
            "emb": emb,
            "full": full,
        }
        self.parametrization, self.sigma_data, self.patch = parametrization, sigma_data, patch
        freqs = torch.exp(torch.linspace(math.log(0.25), math.log(16.0), emb // 4))
        self.register_buffer("freqs", freqs, persistent=False)
        self.noise_emb = nn.Sequential(
            nn.Linear(2 * (emb // 4), emb), nn.SiLU(), nn.Linear(emb, emb)
        )
        self.class_emb = nn.Embedding(len(CLASSES) + 1, emb)
        self.stem = nn.Conv2d(3 * patch * patch, channels, 3, padding=1)
        self.down, self.up = nn.ModuleList(), nn.ModuleList()
        skips, c = [channels], channels
        for i, mult in enumerate(multipliers):
            if i:
                self.down.append(nn.Conv2d(c, c, 3, 2, 1))
                skips.append(c)
            for _ in range(blocks):
                self.down.append(Level(c, channels * mult, emb, i in attention))
                c = channels * mult
                skips.append(c)
        self.mid1, self.mid_attn, self.mid2 = ResBlock(c, c, emb), Attention(c), ResBlock(c, c, emb)
        for i, mult in reversed(list(enumerate(multipliers))):
            for _ in range(blocks + 1):
                self.up.append(Level(c + skips.pop(), channels * mult, emb, i in attention))
                c = channels * mult
            if i:
                self.up.append(nn.Conv2d(c, c, 3, padding=1))
        self.norm_out = nn.GroupNorm(8, c)
        # A light tail at full resolution: pixel shuffle, mix with the input, two convolutions.
        self.out = nn.Conv2d(c, full * patch * patch, 3, padding=1)
        self.tail1 = nn.Conv2d(full + 3, full, 3, padding=1)
        self.tail2 = nn.Conv2d(full, 3, 3, padding=1)
        nn.init.zeros_(self.tail2.weight)
        nn.init.zeros_(self.tail2.bias)

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
