"""The response model: a teacher's trajectory, and the denoised output beside it.

Where a state is off the teacher's x(sigma) by dx, the denoised output is off by

    dD_b = J_b(sigma) dx_b + e_b,    <e_b(sigma, dx), e_b(sigma', dx')> =
                                     sqrt(nu_b(sigma) nu_b(sigma')) k(sigma, sigma') <dx_b, dx'_b>

in every spatial frequency band b: a linear operator that is J_b on average and of which nothing is
known but its size nu_b and that it changes slowly with sigma. Runs that were observed say more:
given their dx_i and dD_i, e is the conditional mean of that Gaussian process (kriging), linear in
dx, with the conditional variance as noise. An observed run is reproduced exactly, and the further a
run is from all that was seen the less it is trusted. How slowly, and how far, is a :class:`Belief`:
runs are designed with one that hopes, and what is expected of them is said with one that is right.

Arrays are (bands, candidates, rank): coordinates of :mod:`.frame`, many runs at once.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace

import numpy as np

from ..solve.noise import FLOW_SIGMA_LIMIT
from .belief import EXPECTED, HOPED, Array, Belief, Points

FINE = 96  # points of the curves that J and nu are read from


@dataclass
class Response:
    """What is known of a checkpoint: see this module. ``knots`` are the teacher's sigmas, falling.

    states, slopes: (bands, knots, rank) of the teacher, slope = x - denoised = dx / d log sigma;
    final, mean: (bands, rank); ``curve`` = places on the line, J and nu where nothing was observed;
    ``belief``: see :mod:`.belief`.
    """

    knots: Array
    states: Array
    slopes: Array
    final: Array
    mean: Array
    curve: tuple[Array, Array, Array]
    parametrization: str
    points: Points | None = None
    belief: Belief = EXPECTED
    logs: Array = field(init=False)

    def __post_init__(self) -> None:
        self.logs = np.log(self.knots)
        if self.points is not None:
            ends = line(self.knots[[0, -1]], self.parametrization)
            fine = np.linspace(ends[0], ends[1], FINE)
            self.curve = (fine, *self.points.curves(fine, self.belief.trust))
            self._condition(self.points)

    def _condition(self, points: Points) -> None:
        j, nu = self._curves(points.logs)
        self._scale = np.sqrt(nu)  # (bands, m)
        near = self.belief.near(points.logs, points.logs)
        inner = points.dx @ points.dx.transpose(0, 2, 1)
        gram = inner * near * self._scale[:, :, None] * self._scale[:, None, :]
        size = np.sqrt(np.maximum(np.diagonal(gram, axis1=1, axis2=2), 1e-300))
        unit = gram / size[:, :, None] / size[:, None, :]
        unit += self.belief.nugget * np.eye(len(points.logs))
        inverse = np.linalg.inv(unit) / size[:, :, None] / size[:, None, :]
        missing = points.answer - j[:, :, None] * points.dx
        self._inverse, self._weights = inverse, inverse @ missing
        self._transposed = np.ascontiguousarray(points.dx.transpose(0, 2, 1))

    def hoped(self) -> Response:
        """What runs are designed with."""
        return replace(self, belief=HOPED)

    def is_finite(self) -> bool:
        """Whether what was derived from the numbers is finite as well."""
        if self.points is None:
            return True
        return bool(np.isfinite(self._inverse).all() and np.isfinite(self._weights).all())

    def _curves(self, logs: Array) -> tuple[Array, Array]:
        fine, *curves = self.curve
        falling = fine[0] > fine[-1]
        at, cells = (-logs, -fine) if falling else (logs, fine)
        i = np.minimum(np.maximum(np.searchsorted(cells, at) - 1, 0), len(fine) - 2)
        t = np.minimum(np.maximum((at - cells[i]) / (cells[i + 1] - cells[i]), 0), 1)
        j, nu = (curve[:, i] * (1 - t) + curve[:, i + 1] * t for curve in curves)
        return j, nu

    def state(self, sigma: Array) -> Array:
        """The teacher's states at sigmas (f,): cubic Hermite in log sigma; (bands, f, rank)."""
        inside = np.maximum(sigma, self.knots[-1])
        logs = np.log(inside)
        i = np.clip(np.searchsorted(-self.logs, -logs), 1, len(self.knots) - 1)
        h = self.logs[i] - self.logs[i - 1]
        t = (logs - self.logs[i - 1]) / h
        weights = (
            (1 + 2 * t) * (1 - t) ** 2,
            t * (1 - t) ** 2 * h,
            t * t * (3 - 2 * t),
            t * t * (t - 1) * h,
        )
        terms = (self.states[:, i - 1], self.slopes[:, i - 1], self.states[:, i], self.slopes[:, i])
        out = sum(w[:, None] * term for w, term in zip(weights, terms, strict=True))
        rest = np.where(sigma < self.knots[-1], sigma / self.knots[-1], 1.0)[:, None]
        return out * rest + (1 - rest) * self.final[:, None]

    def slope(self, sigma: Array) -> Array:
        """The teacher's x - denoised at sigmas (f,), four-point Lagrange in log sigma."""
        logs = np.log(sigma)
        low = np.searchsorted(-self.logs, -logs) - 2
        places = np.minimum(np.maximum(low, 0), len(self.knots) - 4)[:, None] + np.arange(4)
        nodes = self.logs[places]
        off = (logs[:, None] - nodes)[:, None, :]
        apart = nodes[:, :, None] - nodes[:, None, :]
        own = np.eye(4, dtype=bool)
        weights = np.where(own, 1.0, off / np.where(own, 1.0, apart)).prod(2)
        return np.einsum("ca,bcar->bcr", weights, self.slopes[:, places])

    def at(self, sigma: Array) -> Around:
        """What there is at sigmas (f,); runs may end at 0, where no output is asked for."""
        above = np.where(sigma > 0, sigma, self.knots[-1])
        logs = line(above, self.parametrization)
        j, nu = self._curves(logs)
        state, scale = self.state(sigma), None
        if self.points is not None:
            near = self.belief.near(logs, self.points.logs)
            scale = near * np.sqrt(nu)[:, :, None] * self._scale[:, None, :]
        return Around(self, state, state - self.slope(above), j, nu, scale)


@dataclass
class Around:
    """What a response has at sigmas (f,), read once for many runs.

    state, output: (bands, f, rank) of the teacher; j, nu: (bands, f); ``scale`` (bands, f, m) of
    the covariance with what was observed, None where nothing was.
    """

    response: Response
    state: Array
    output: Array
    j: Array
    nu: Array
    scale: Array | None

    def denoised(
        self, at: Array, x: Array, noise: Array, variance: Array
    ) -> tuple[Array, Array, Array]:
        """Denoised outputs of states at the sigmas of these places ``at`` (c,).

        x (bands, c, rank); ``noise`` (bands, c, n), the state's weights of earlier unpredicted
        parts, of ``variance`` (bands, c, n). Returns the outputs' coordinates, their weights of
        those parts, and the variance (bands, c) of what this evaluation adds.
        """
        dx = x - self.state[:, at]
        j, nu = self.j[:, at, None], self.nu[:, at]
        square = np.einsum("bcr,bcr->bc", dx, dx) + np.einsum("bcn,bcn->bc", noise**2, variance)
        added, out = nu * square, self.output[:, at]
        response = self.response
        if self.scale is not None:
            known = dx @ response._transposed
            known *= self.scale[:, at]
            added -= np.einsum("bcm,bcm->bc", known @ response._inverse, known)
            out += known @ response._weights
        dx *= j
        out += dx
        least = response.belief.nugget * nu * square
        return out, j * noise, np.maximum(added, least) + 1e-16


def default_curve(
    knots: Array, variances: Array, parametrization: str
) -> tuple[Array, Array, Array]:
    """J and nu before anything was observed: Gaussian data with these variances by band.

    J = a P / (a^2 P + sigma^2), a = 1 or, for flow models, 1 - sigma.
    """
    sigma = knots[None, :]
    a = (
        1 - np.minimum(sigma, FLOW_SIGMA_LIMIT)
        if parametrization == "flow"
        else np.ones_like(sigma)
    )
    p = np.maximum(variances, 1e-12)[:, None]
    j = a * p / (a * a * p + sigma * sigma)
    return line(knots, parametrization), j, np.full_like(j, 0.05)


def line(sigma: Array, parametrization: str) -> Array:
    """Where sigmas lie: minus log-SNR, see :func:`dode_core.solve.noise.minus_log_snr`.

    A flow model's sigmas near 1 are close together and far apart in what the model sees.
    """
    if parametrization == "flow":
        sigma = np.minimum(sigma, FLOW_SIGMA_LIMIT)
        return np.log(sigma / (1 - sigma))
    return np.log(sigma)


def unit(sigma: float, parametrization: str) -> float:
    """The size of a state of pure noise and data of unit size: hypot(alpha, sigma)."""
    return math.hypot(1 - sigma if parametrization == "flow" else 1.0, sigma)
