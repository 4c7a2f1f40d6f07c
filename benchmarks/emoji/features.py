"""Features of a small emoji classifier, and the Frechet distance between two sets of images.

The distance is what FID is for photographs (Heusel et al. 2017, arXiv 1706.08500), with a 64-d
feature net of our own in place of Inception. It is nearly blind to fine noise: use it beside the
error to a converged solution, not instead.
"""

from __future__ import annotations

import functools
import json
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
