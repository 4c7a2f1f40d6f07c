"""Features of a small emoji classifier, and the Frechet distance between two sets of images.

    python -m dode_core.demo.features --data emoji32.npz --minutes 6

The distance is what FID is for photographs (Heusel et al. 2017, arXiv 1706.08500), with a 64-d
feature net of our own in place of Inception. It is nearly blind to fine noise: use it beside the
error to a converged solution, not instead.
"""

from __future__ import annotations

import argparse
import functools
import json
import math
import time
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dode_core.demo.model import CLASSES, IMAGE_SHAPE

WEIGHTS = Path(__file__).parent / "features.safetensors"
WIDTH = 64  # features an image
STAGES = ((24, 1), (48, 2), (48, 1), (96, 2), (96, 1), (128, 2), (128, 1))  # (channels, stride)
BATCH = 64
LEARNING_RATE = 2e-3
MIN_DRAWINGS = 6  # of one emoji, for it to be a target of its own in training
NOISE = 0.35  # at most, on training images: samples are never as clean as drawings


class FeatureError(ValueError):
    """Images or features that the distance cannot be taken of."""


class FeatureNet(nn.Module):
    """Seven 3x3 convolutions, ``forward(images) -> (B, 64) features``.

    images: (B, 3, 32, 32) in [-1, 1]. The class head reads the same features.
    """

    def __init__(self) -> None:
        super().__init__()
        layers, c = [], IMAGE_SHAPE[0]
        for channels, stride in STAGES:
            conv = nn.Conv2d(c, channels, 3, stride, 1)
            layers.append(nn.Sequential(conv, nn.GroupNorm(8, channels), nn.SiLU()))
            c = channels
        self.blocks = nn.Sequential(*layers)
        self.out = nn.Linear(4 * c, WIDTH)
        self.head = nn.Linear(WIDTH, len(CLASSES))

    def forward(self, images: Tensor) -> Tensor:
        return self.out(F.adaptive_avg_pool2d(self.blocks(images), 2).flatten(1))

    def classify(self, images: Tensor) -> Tensor:
        """(B, 9) logits, in the order of ``CLASSES``."""
        return self.head(F.silu(self(images)))


def load_features(path: str | Path = WEIGHTS) -> FeatureNet:
    """Read a network written by :func:`save_features` (fp16 on disk, float32 in memory)."""
    from safetensors.torch import load_file

    network = FeatureNet()
    network.load_state_dict({key: value.float() for key, value in load_file(path).items()})
    return network.eval().requires_grad_(False)


def save_features(network: FeatureNet, path: str | Path, **metadata: str) -> None:
    """Write the weights in fp16, atomically."""
    from safetensors.torch import save_file

    state = {key: value.half().contiguous() for key, value in network.state_dict().items()}
    temporary = Path(path).with_suffix(".tmp")
    save_file(state, temporary, metadata={"classes": json.dumps(CLASSES), **metadata})
    temporary.replace(path)


@functools.cache
def shipped_network() -> FeatureNet:
    """The shipped weights, read once."""
    return load_features()


def as_images(images: Tensor | np.ndarray) -> Tensor:
    """(N, 3, 32, 32) float32 in [-1, 1], from either form that :func:`features` takes."""
    images = torch.as_tensor(images)
    if images.dtype == torch.uint8 and images.shape[1:] == (*IMAGE_SHAPE[1:], IMAGE_SHAPE[0]):
        return images.permute(0, 3, 1, 2).float() / 127.5 - 1
    if images.is_floating_point() and images.shape[1:] == IMAGE_SHAPE:
        return images.float().clamp(-1, 1)
    raise FeatureError(
        f"images are {images.dtype} {tuple(images.shape)}: pass float (N, 3, 32, 32) in [-1, 1] "
        "or uint8 (N, 32, 32, 3)"
    )


@torch.no_grad()
def features(
    images: Tensor | np.ndarray, network: FeatureNet | None = None, batch: int = 256
) -> Tensor:
    """(N, 64) float64 features on the CPU, by the shipped network unless another is given.

    images: float (N, 3, 32, 32) in [-1, 1], clamped to it, or uint8 (N, 32, 32, 3).
    Raises :class:`FeatureError` for any other shape or dtype.
    """
    network = shipped_network() if network is None else network
    device = next(network.parameters()).device
    parts = as_images(images).split(batch)
    return torch.cat([network(part.to(device)).cpu() for part in parts]).double()


def root_trace(a: Tensor, b: Tensor) -> Tensor:
    """Tr (a b)^(1/2) for symmetric positive semidefinite float64 a, b of any rank.

    a b has the eigenvalues of the symmetric a^(1/2) b a^(1/2), so eigh serves for both roots;
    what rounding makes of a zero eigenvalue is cut at zero.
    """
    values, vectors = torch.linalg.eigh(a)
    root = (vectors * values.clamp(min=0).sqrt()) @ vectors.T
    return torch.linalg.eigvalsh(root @ b @ root).clamp(min=0).sqrt().sum()


def frechet_distance(fa: Tensor, fb: Tensor) -> float:
    """The squared Frechet distance of two Gaussians fitted to features (N, D) and (M, D).

        |mean_a - mean_b|^2 + Tr(cov_a + cov_b - 2 (cov_a cov_b)^(1/2))

    Zero for equal sets, symmetric, in squared units of the features. Any N, M >= 2 is defined,
    also with covariances of rank below D, but the value falls with the number of images: compare
    only sets of equal size, of 500 images or more a side. Accurate to about 1e-7 of the
    covariances' traces. Raises :class:`FeatureError` for fewer than two rows, for unequal D and
    for NaN or infinity.

    Source: Dowson and Landau 1982; for images Heusel et al. 2017 (arXiv 1706.08500), eq. 6.
    """
    if fa.ndim != 2 or fb.ndim != 2 or fa.shape[1] != fb.shape[1] or min(len(fa), len(fb)) < 2:
        raise FeatureError(
            f"features are {tuple(fa.shape)} and {tuple(fb.shape)}: pass (N, D) and (M, D) with "
            "N and M at least 2"
        )
    if not (fa.isfinite().all() and fb.isfinite().all()):
        raise FeatureError("features hold NaN or infinity: a sampler has diverged")
    return frechet_gaussians(Gaussian.fit(fa), Gaussian.fit(fb))


class Gaussian(NamedTuple):
    """Mean (D,) and covariance (D, D) of features, float64."""

    mean: Tensor
    covariance: Tensor

    @classmethod
    def fit(cls, rows: Tensor) -> Gaussian:
        """Of features (N, D)."""
        rows = rows.double()
        return cls(rows.mean(0), torch.cov(rows.T))


def frechet_gaussians(a: Gaussian, b: Gaussian) -> float:
    """The squared Frechet distance of two Gaussians; see :func:`frechet_distance`."""
    mean = (a.mean - b.mean).square().sum()
    traces = a.covariance.trace() + b.covariance.trace()
    distance = mean + traces - 2 * root_trace(a.covariance, b.covariance)
    return max(0.0, float(distance))  # rounding alone can make it negative


class Examples(NamedTuple):
    """Emoji for training the classifier."""

    images: Tensor  # (N, 3, 32, 32) float in [-1, 1]
    labels: Tensor  # (N,) class
    emoji: Tensor  # (N,) which emoji, -1 for those with fewer than MIN_DRAWINGS drawings
    weights: Tensor  # (N,) of sampling
    held_out: Tensor  # (N,) bool: for measuring the accuracy, whole emoji


def load_data(path: str | Path) -> Examples:
    """Read emoji32.npz; one emoji in ten is held out."""
    with np.load(path, allow_pickle=False) as data:
        images, labels, base = data["images"], data["labels"].astype(np.int64), data["base"]
    unique, index, counts = np.unique(base, return_inverse=True, return_counts=True)
    # An emoji drawn once would only be learnt by heart: its target is -1, none.
    frequent = counts >= MIN_DRAWINGS
    target = np.where(frequent, np.cumsum(frequent) - 1, -1)[index]
    # Neither skin tones (within a class) nor people (among the classes) drown the rest.
    weights = counts[index].astype(float) ** -0.5
    weights /= np.bincount(labels, weights)[labels] ** 0.5
    chosen = np.random.default_rng(5).choice(len(unique), len(unique) // 10, replace=False)
    return Examples(
        as_images(images),
        torch.from_numpy(labels),
        torch.from_numpy(target),
        torch.from_numpy(weights),
        torch.from_numpy(np.isin(index, chosen)),
    )


def augment(images: Tensor) -> Tensor:
    """Shift the batch by up to three pixels on white, and add noise of a random level."""
    dy, dx = torch.randint(0, 7, (2,)).tolist()
    shifted = F.pad(images, (3, 3, 3, 3), value=1.0)[:, :, dy : dy + 32, dx : dx + 32]
    return shifted + torch.randn_like(shifted) * torch.rand(len(images), 1, 1, 1) * NOISE


def loss_fn(network: FeatureNet, emoji_head: nn.Linear, data: Examples, index: Tensor) -> Tensor:
    """Cross-entropy of the class, plus half that of which emoji it is, where that is asked."""
    hidden = F.silu(network(augment(data.images[index])))
    loss = F.cross_entropy(network.head(hidden), data.labels[index], label_smoothing=0.05)
    emoji = data.emoji[index]
    known = emoji >= 0
    if known.any():
        loss = loss + 0.5 * F.cross_entropy(emoji_head(hidden[known]), emoji[known])
    return loss


@torch.no_grad()
def accuracy(network: FeatureNet, data: Examples) -> float:
    """The fraction of held-out images whose class is right."""
    logits = network.classify(data.images[data.held_out])
    return float((logits.argmax(1) == data.labels[data.held_out]).float().mean())


def train(data: str | Path, out: str | Path, minutes: float, seed: int) -> None:
    """Train for a time on the CPU, with a cosine schedule; the held-out emoji stay out."""
    torch.manual_seed(seed)
    examples = load_data(data)
    weights = examples.weights * ~examples.held_out
    network = FeatureNet()
    emoji_head = nn.Linear(WIDTH, int(examples.emoji.max()) + 1)  # needed for training alone
    parameters = [*network.parameters(), *emoji_head.parameters()]
    optimizer = torch.optim.AdamW(parameters, lr=LEARNING_RATE, weight_decay=0.05)
    start, step = time.monotonic(), 0
    while (progress := (time.monotonic() - start) / (60 * minutes)) < 1:
        rate = LEARNING_RATE * min(1.0, (step + 1) / 100)
        for group in optimizer.param_groups:
            group["lr"] = rate * 0.5 * (1 + math.cos(math.pi * progress))
        index = torch.multinomial(weights, BATCH, replacement=True)
        loss = loss_fn(network, emoji_head, examples, index)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        step += 1
        if step % 200 == 0:
            seconds, right = 60 * minutes * progress, accuracy(network, examples)
            print(f"step {step}  {seconds:.0f} s  loss {loss.item():.3f}  accuracy {right:.3f}")
    save_features(network, out, step=str(step), minutes=str(minutes))
    print(f"wrote {out} after {step} steps, accuracy {accuracy(network, examples):.3f}")


def main() -> None:
    parser = argparse.ArgumentParser(description="Train the feature net of the Frechet distance.")
    parser.add_argument("--data", required=True, help="emoji32.npz from build_data")
    parser.add_argument("--minutes", type=float, default=6)
    parser.add_argument("--out", default=WEIGHTS, help="default: the file that ships")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    train(args.data, args.out, args.minutes, args.seed)


if __name__ == "__main__":
    main()
