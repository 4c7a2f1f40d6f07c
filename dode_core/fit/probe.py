"""Is it still the model that it was? One of its first evaluations, repeated at the end."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..errors import CalibrationError

PROBE_SIGMA = 0.6  # the call nearest to it is repeated at the end: detail is decided about there
PROBE_TOLERANCE = {torch.float64: 1e-3, torch.float32: 1e-2}  # of kernels and batch sizes
HALF_TOLERANCE = 5e-2


@dataclass(frozen=True)
class Evaluation:
    """What the model was given, and what it returned."""

    x: Tensor
    sigma: Tensor
    extra_args: Mapping[str, Any]
    denoised: Tensor


class Probe:
    """Keeps one sample of the first run's evaluation that is nearest to PROBE_SIGMA."""

    def __init__(self) -> None:
        self.kept: Evaluation | None = None
        self._last_sigma = math.inf

    def wants(self, sigma: float) -> bool:
        """Whether the evaluation at ``sigma``, the next of the run, is to be kept."""
        if sigma >= self._last_sigma:  # the first run is over
            self._last_sigma = -math.inf
            return False
        self._last_sigma = sigma
        if self.kept is None:
            return True
        known = float(self.kept.sigma[0])
        return abs(math.log(sigma / PROBE_SIGMA)) < abs(math.log(known / PROBE_SIGMA))

    def check(self, after: Tensor) -> None:
        """Compare the kept evaluation with what the model returns now.

        Raises :class:`CalibrationError` when it is no longer the same.
        """
        assert self.kept is not None
        before, sigma = self.kept.denoised, float(self.kept.sigma[0])
        tolerance = PROBE_TOLERANCE.get(before.dtype, HALF_TOLERANCE)
        size = float(before.double().square().mean().sqrt())
        change = math.inf
        if before.shape == after.shape:
            change = float((after.double() - before.double()).square().mean().sqrt())
        if change <= tolerance * size:  # false for NaN as well
            return
        raise CalibrationError(
            f"The model changed while it was distilled: at sigma {sigma:g} the same "
            f"input gives an output that is {change / max(size, 1e-300):.0%} off; no table was "
            "made. Keep it loaded and unchanged, and distill again."
        )
