"""What runs that were observed say of a response, and how far that is to be believed."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

Array = np.ndarray
WIDTH = 0.4  # of the smoothing of J and nu, on the line: see :func:`.model.line`
LEAST_NU = 1e-6


@dataclass(frozen=True)
class Belief:
    """What is believed of the unknown operator e of :mod:`.model`.

    k = exp(-(d / ``reach``)^``power``) of places d apart on the line; ``trust``: nu, of what single
    points miss; ``nugget``: relative, that outputs were seen once, and rounding.
    """

    power: float
    reach: float
    trust: float
    nugget: float

    def near(self, logs: Array, others: Array) -> Array:
        """k, (f, m)."""
        return np.exp(-((np.abs(logs[:, None] - others) / self.reach) ** self.power))


# Runs foretold from the others that were observed: the mean of squared error over variance was 0.6
# to 2.0 with this on eight of nine models, 20 to 294 with the other (docs/benchmarks.md).
EXPECTED = Belief(1.0, 1.5, 1.0, 1e-3)
# A smoother operator that is better known than it is. Rows made with it end nearer on two of three
# guided models, further off on the third; why was not found.
HOPED = Belief(2.0, 1.5 * math.sqrt(2), 0.3, 1e-4)


@dataclass
class Points:
    """Observed answers: places on the line (m,), dx and dD (bands, m, rank)."""

    logs: Array
    dx: Array
    answer: Array

    def curves(self, logs: Array, trust: float) -> tuple[Array, Array]:
        """J and nu at ``logs`` (n,), each (bands, n): regressions, smoothed.

        Below all that was observed they go to 1 and 0 with sigma^2, as any denoiser's do: taken for
        constant, a last evaluation at a tiny sigma would seem to mend a state, and runs end in one.
        """
        size = (self.dx**2).sum(2) + 1e-300
        slopes = (self.dx * self.answer).sum(2) / size
        rest = ((self.answer - slopes[:, :, None] * self.dx) ** 2).sum(2) / size
        weights = np.exp(-0.5 * ((logs[:, None] - self.logs) / WIDTH) ** 2) + 1e-12
        weights /= weights.sum(1, keepdims=True)
        mean = slopes @ weights.T
        spread = (slopes**2) @ weights.T - mean**2  # J itself moves from point to point
        found = rest @ weights.T + np.maximum(spread, 0)
        below = np.exp(2 * np.minimum(logs - self.logs.min(), 0))
        inside = np.clip(mean, 0, 1)  # where a Gaussian's J is: P / (P + sigma^2)
        mean = np.where(below < 1, inside / (inside + (1 - inside) * below + 1e-12), mean)
        return mean, np.maximum(trust * found * below, LEAST_NU)
