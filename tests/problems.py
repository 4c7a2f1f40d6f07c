"""Denoisers in closed form, and the ODE solutions they have.

Data is a Gaussian or a mixture of Gaussians, x = alpha x0 + sigma eps with alpha = 1 (``ve``) or
1 - sigma (``flow``), so E[x0 | x] is exact and every test runs without a network.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

Denoiser = Callable[..., Tensor]


def randn(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    """Normal noise that depends on the seed alone."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def alpha(sigma: Any, parametrization: str) -> Any:
    return 1 - sigma if parametrization == "flow" else 1.0


@dataclass
class Mixture:
    """E[x0 | x] for a mixture of Gaussians N(mu_i, std^2), states of any rank.

        w = softmax_i((alpha x . mu_i - alpha^2 |mu_i|^2 / 2) / v),  v = sigma^2 + alpha^2 std^2
        denoised = (alpha std^2 x + sigma^2 sum_i w_i mu_i) / v

    means: (components, n), n the elements of one sample.
    """

    means: Tensor
    std: float
    parametrization: str = "ve"

    def __call__(self, x: Tensor, sigma: Tensor, **extra_args: Any) -> Tensor:
        assert sigma.shape == (len(x),)
        means, flat, s = self.means.to(x), x.reshape(len(x), -1), sigma[:, None]
        a = alpha(s, self.parametrization)
        variance = s**2 + a**2 * self.std**2
        logits = (a * flat @ means.T - a**2 * means.square().sum(1) / 2) / variance
        mean = logits.softmax(1) @ means
        return ((a * self.std**2 * flat + s**2 * mean) / variance).reshape(x.shape)

    def exact(self, x: Tensor, start: float, end: float) -> Tensor:
        """The ODE's solution at ``end`` for a single Gaussian: x - alpha mu scales with its std."""
        assert len(self.means) == 1
        mean = self.means.to(x).reshape(x.shape[1:])

        def scale(sigma: float) -> tuple[float, float]:
            a = alpha(sigma, self.parametrization)
            return a, math.hypot(a * self.std, sigma)

        (a_start, std_start), (a_end, std_end) = scale(start), scale(end)
        return a_end * mean + (x - a_start * mean) * (std_end / std_start)


def mixture(
    parametrization: str = "ve",
    shape: Sequence[int] = (2, 3, 3),
    *,
    components: int = 5,
    std: float = 0.3,
    seed: int = 0,
) -> Mixture:
    """A mixture with random means of about unit size."""
    return Mixture(randn(components, math.prod(shape), seed=seed + 1000), std, parametrization)


def gaussian(
    parametrization: str = "ve", shape: Sequence[int] = (2, 3, 3), std: float = 0.5
) -> Mixture:
    """One Gaussian: :meth:`Mixture.exact` is its ODE's solution."""
    return mixture(parametrization, shape, components=1, std=std)


def karras(
    steps: int, low: float = 0.03, high: float = 15.0, *, rho: float = 7.0, zero: bool = True
) -> Tensor:
    """``steps`` steps on the Karras grid from high to low; with ``zero`` the last one goes to 0."""
    ramp = torch.linspace(0, 1, steps + (not zero), dtype=torch.float64)
    sigmas = (high ** (1 / rho) + ramp * (low ** (1 / rho) - high ** (1 / rho))) ** rho
    return torch.cat([sigmas, sigmas.new_zeros(1)]) if zero else sigmas


def flow_grid(steps: int, high: float = 1.0, low: float = 0.0, *, shift: float = 3.0) -> Tensor:
    """The shifted grid of rectified flow models, equal steps before the shift."""
    high, low = (value / (shift - (shift - 1) * value) for value in (high, low))
    t = torch.linspace(high, low, steps + 1, dtype=torch.float64)
    return shift * t / (1 + (shift - 1) * t)


def grid_for(parametrization: str, steps: int, zero: bool = True) -> Tensor:
    """A usual grid of that parametrisation."""
    if parametrization == "flow":
        return flow_grid(steps, low=0.0 if zero else 0.05)
    return karras(steps, zero=zero)


def start(parametrization: str, sigmas: Tensor, *shape: int, seed: int = 0) -> Tensor:
    """Starting states of pure noise at sigmas[0]."""
    return randn(*shape, seed=seed) * float(sigmas[0])


def noise_guess(x: Tensor, sigma: float, parametrization: str) -> Tensor:
    """x / sqrt(alpha^2 + sigma^2): eps of a state that is almost pure noise."""
    return x / math.hypot(alpha(sigma, parametrization), sigma)


def velocity(model: Denoiser, x: Tensor, sigma: float) -> Tensor:
    """dx / d sigma, in both parametrisations."""
    return (x - model(x, x.new_full((len(x),), sigma))) / sigma


def solve(model: Denoiser, x: Tensor, begin: float, end: float, steps: int = 400) -> Tensor:
    """The ODE's solution at ``end`` > 0 by classical Runge-Kutta 4 in log sigma."""
    h = (math.log(end) - math.log(begin)) / steps
    for i in range(steps):
        log = math.log(begin) + i * h

        def slope(x: Tensor, log: float) -> Tensor:
            return math.exp(log) * velocity(model, x, math.exp(log))

        k1 = slope(x, log)
        k2 = slope(x + h / 2 * k1, log + h / 2)
        k3 = slope(x + h / 2 * k2, log + h / 2)
        k4 = slope(x + h * k3, log + h)
        x = x + h / 6 * (k1 + 2 * k2 + 2 * k3 + k4)
    return x


class Recorded:
    """A denoiser that remembers its calls: (x, sigma, extra_args, denoised)."""

    def __init__(self, model: Denoiser) -> None:
        self.model = model
        self.calls: list[tuple[Tensor, float, dict[str, Any], Tensor]] = []

    def __call__(self, x: Tensor, sigma: Tensor, **extra_args: Any) -> Tensor:
        denoised = self.model(x, sigma, **extra_args)
        self.calls.append((x, float(sigma[0]), extra_args, denoised))
        return denoised


class LowPrecision:
    """A network that takes and returns one dtype only, as an fp16 or bf16 checkpoint does."""

    def __init__(self, model: Denoiser, dtype: torch.dtype) -> None:
        self.model, self.dtype = model, dtype

    def __call__(self, x: Tensor, sigma: Tensor, **extra_args: Any) -> Tensor:
        assert x.dtype == sigma.dtype == self.dtype
        return self.model(x.double(), sigma.double(), **extra_args).to(self.dtype)


class EpsWrapper:
    """k-diffusion's wrapper of a network that predicts eps from x / sqrt(1 + sigma^2)."""

    def __init__(self, model: Denoiser) -> None:
        self.model = model

    def network(self, x_in: Tensor, sigma: Tensor) -> Tensor:
        s = sigma.reshape(-1, *[1] * (x_in.ndim - 1))
        x = x_in * (1 + s**2).sqrt()
        return (x - self.model(x, sigma)) / s

    def __call__(self, x: Tensor, sigma: Tensor, **extra_args: Any) -> Tensor:
        s = sigma.reshape(-1, *[1] * (x.ndim - 1))
        return x - s * self.network(x / (1 + s**2).sqrt(), sigma)


class VWrapper(EpsWrapper):
    """The same for a network that predicts v = (eps - sigma x0) / sqrt(1 + sigma^2)."""

    def network(self, x_in: Tensor, sigma: Tensor) -> Tensor:
        s = sigma.reshape(-1, *[1] * (x_in.ndim - 1))
        x = x_in * (1 + s**2).sqrt()
        denoised = self.model(x, sigma)
        return ((x - denoised) / s - s * denoised) / (1 + s**2).sqrt()

    def __call__(self, x: Tensor, sigma: Tensor, **extra_args: Any) -> Tensor:
        s = sigma.reshape(-1, *[1] * (x.ndim - 1))
        x_in = x / (1 + s**2).sqrt()
        return x_in / (1 + s**2).sqrt() - s * self.network(x_in, sigma) / (1 + s**2).sqrt()


def rms(x: Tensor) -> float:
    return float(x.double().square().mean().sqrt())
