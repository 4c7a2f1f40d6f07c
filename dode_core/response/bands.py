"""Spatial frequency bands of a latent: an orthonormal DCT over its last axes, in radial bands.

How a denoiser answers to a disturbance depends on its spatial frequency, so every inner product is
kept band by band. Latents of any rank: the last two axes where there are two of at least
``LEAST`` elements beside the channels, the last one where there is one, otherwise one band.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

MOST_BANDS = 8
LEAST = 4  # elements along an axis that is transformed


@dataclass
class Bands:
    """The bands of latents of ``shape`` (channels first, no batch)."""

    shape: tuple[int, ...]
    axes: int = field(init=False)  # how many of the last ones are transformed
    index: Tensor = field(init=False, repr=False)  # (elements of those axes,), the band of each
    count: int = field(init=False)

    def __post_init__(self) -> None:
        tail = self.shape[1:]
        two = len(tail) >= 2 and min(tail[-2:]) >= LEAST
        self.axes = 2 if two else 1 if tail and tail[-1] >= LEAST else 0
        radius = torch.zeros(1, dtype=torch.float64)
        if self.axes:
            parts = [torch.arange(n, dtype=torch.float64) for n in self.shape[-self.axes :]]
            grids = torch.meshgrid(*parts, indexing="ij")
            radius = torch.stack(list(grids)).square().sum(0).sqrt().flatten()
        top = max(float(radius.max()), 1.5) + 1e-6
        edges = torch.logspace(math.log10(1.5), math.log10(top), MOST_BANDS - 1).double()
        edges[-1] = top
        index = torch.bucketize(radius, torch.cat([torch.tensor([0.5]).double(), edges]))
        found, self.index = index.unique(return_inverse=True)
        self.count = len(found)

    def grams(self, vectors: Sequence[Tensor]) -> Tensor:
        """Inner products of one sample's vectors by band, (bands, n, n) float64.

        Every vector has the latent's shape. One channel (or frame) at a time, so that memory stays
        that of ``n`` images.
        """
        size = math.prod(self.shape[-self.axes :]) if self.axes else 1
        flat = [vector.reshape(-1, size) for vector in vectors]
        total = torch.zeros(self.count, len(vectors), len(vectors), dtype=torch.float64)
        step = max(1, (1 << 16) // size)
        for first in range(0, len(flat[0]), step):
            planes = torch.stack([f[first : first + step].double().cpu() for f in flat])
            waves = self.transform(planes)
            for b in range(self.count):
                part = waves[:, :, self.index == b].flatten(1)
                total[b] += part @ part.T
        return total

    def transform(self, planes: Tensor) -> Tensor:
        """(..., elements of the transformed axes) to its DCT-II, orthonormal, same shape."""
        if not self.axes:
            return planes
        shape = self.shape[-self.axes :]
        out = planes.reshape(*planes.shape[:-1], *shape)
        out = out @ dct_matrix(shape[-1]).T
        if self.axes == 2:
            out = dct_matrix(shape[0]) @ out
        return out.reshape(planes.shape)


def dct_matrix(n: int) -> Tensor:
    """The orthonormal DCT-II as a matrix, (n, n) float64."""
    k = torch.arange(n, dtype=torch.float64)
    matrix = torch.cos(math.pi / n * torch.outer(k, k + 0.5)) * math.sqrt(2 / n)
    matrix[0] /= math.sqrt(2)
    return matrix
