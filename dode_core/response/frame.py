"""Coordinates instead of samples: vectors by their inner products alone.

Every state of every affine run is a combination of the teacher's states and slopes and of outputs
that were observed, and every error is a quadratic form in their Gram matrix. A frame holds, band by
band, coordinates with exactly these inner products: small, and no image can be made of them.
"""

from __future__ import annotations

import numpy as np

Array = np.ndarray
NEGLIGIBLE = 1e-13  # eigenvalues of the unit Gram matrix that are dropped, relative


def coordinates(grams: Array) -> Array:
    """(bands, n, n) Gram matrices to (bands, n, r) coordinates, r the largest band's rank."""
    found = []
    for gram in grams:
        size = np.sqrt(np.maximum(np.diagonal(gram), 1e-300))
        values, vectors = np.linalg.eigh(gram / size[:, None] / size)
        keep = values > NEGLIGIBLE * max(float(values[-1]), 1e-300)
        found.append(size[:, None] * vectors[:, keep] * np.sqrt(values[keep]))
    rank = max(part.shape[1] for part in found)
    return np.stack([np.pad(part, ((0, 0), (0, rank - part.shape[1]))) for part in found])
