"""Sigma grids for use outside a host; inside one, its own scheduler makes them."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from ..errors import SigmasError


def karras(steps: int, low: float, high: float, rho: float = 7.0) -> Tensor:
    """Equal steps in sigma^(1/rho), then 0; float64, shape (steps + 1,).

    Karras et al. 2022, arXiv 2206.00364, equation 5.
    """
    t = torch.linspace(0, 1, steps, dtype=torch.float64)
    sigmas = (high ** (1 / rho) + t * (low ** (1 / rho) - high ** (1 / rho))) ** rho
    return torch.cat([sigmas, sigmas.new_zeros(1)])


def exponential(steps: int, low: float, high: float) -> Tensor:
    """Equal steps in log sigma, then 0; float64, shape (steps + 1,)."""
    ends = torch.tensor([high, low], dtype=torch.float64).log()
    sigmas = torch.linspace(float(ends[0]), float(ends[1]), steps, dtype=torch.float64).exp()
    return torch.cat([sigmas, sigmas.new_zeros(1)])


def uniform(steps: int, low: float, high: float, shift: float = 1.0) -> Tensor:
    """Equal steps in sigma down to 0, shifted as flow models do: shift s / (1 + (shift - 1) s).

    Esser et al. 2024, arXiv 2403.03206, equation 23. ``low`` is not used. float64, (steps + 1,).
    """
    t = torch.linspace(high, 0, steps + 1, dtype=torch.float64)
    return shift * t / (1 + (shift - 1) * t)


SCHEDULES: Mapping[str, Callable[[int, float, float], Tensor]] = {
    "karras": karras,
    "exponential": exponential,
    "uniform": uniform,
}


def make_sigmas(name: str, steps: int, low: float, high: float) -> Tensor:
    """A grid by name, from ``high`` to 0 in ``steps`` steps. Raises :class:`SigmasError`."""
    if name not in SCHEDULES:
        raise SigmasError(f"Schedule {name!r} is unknown; use one of {', '.join(SCHEDULES)}.")
    if not 1 <= steps <= 1000 or not 0 < low < high:
        raise SigmasError(
            f"{steps} steps from {high:g} to {low:g} make no grid; use 1 to 1000 steps, low < high."
        )
    return SCHEDULES[name](steps, low, high)
