"""Noise levels: the parametrisations and time maps that turn a sigma into what solvers need.

``ve``    x = x0 + sigma * eps, EPS and V_PREDICTION models and EDM (k-diffusion coordinates);
``flow``  x = (1 - sigma) * x0 + sigma * eps, rectified flow; sigma in [0, 1].

In both, DDIM is x + (t - s) * d with d = (x - denoised) / s: eps for ``ve``, the velocity for
``flow``.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ..errors import SigmasError

PARAMETRIZATIONS = ("ve", "flow")
MAX_SIGMAS = 4096
MIN_SIGMA, MAX_SIGMA = 1e-15, 1e6
SAME_SIGMA = 1e-4  # relative; hosts compute a schedule in float32, in different orders
FLOW_SIGMA_LIMIT = 1 - 1e-4  # log-SNR is minus infinity at sigma = 1


def alpha(sigma: float, parametrization: str) -> float:
    """The factor of x0 in x: 1 for ``ve``, 1 - sigma for ``flow``."""
    return 1.0 if parametrization == "ve" else 1.0 - sigma


def log_snr(sigma: float, parametrization: str) -> float:
    """log(alpha / sigma), half the log of the signal-to-noise ratio; guarded at flow's sigma 1."""
    if parametrization == "flow":
        sigma = min(sigma, FLOW_SIGMA_LIMIT)
    return math.log(alpha(sigma, parametrization) / sigma)


def minus_log_snr(sigma: float, parametrization: str) -> float:
    """-log(alpha / sigma): log sigma for ``ve``, log(sigma / (1 - sigma)) for ``flow``.

    Grids are moved and compared in it.
    """
    return math.log(
        sigma if parametrization == "ve" else sigma / (1 - min(sigma, FLOW_SIGMA_LIMIT))
    )


def from_minus_log_snr(u: float, parametrization: str) -> float:
    """The sigma of a minus log-SNR; see :func:`minus_log_snr`."""
    return math.exp(u) if parametrization == "ve" else 1 / (1 + math.exp(-u))


def vp_time(sigma: float) -> float:
    """Time of the variance-preserving SDE with linear beta, t in [0.001, 1] for sigma 0.002 to 80.

    Song et al. 2021, arXiv 2011.13456; constants as in Karras et al. 2022, arXiv 2206.00364,
    table 1 (the same map that ComfyUI's ``deis`` uses).
    """
    epsilon, low, high = 1e-3, math.log1p(0.002**2), math.log1p(80.0**2)
    beta_d = 2 * (low / epsilon - high) / (epsilon - 1)
    beta_min = high - 0.5 * beta_d
    return (math.sqrt(beta_min**2 + 2 * beta_d * math.log1p(sigma**2)) - beta_min) / beta_d


TIME_MAPS: Mapping[str, Callable[[float], float]] = {
    "vp": vp_time,
    "sigma": lambda sigma: sigma,
    "log_sigma": math.log,
}
DEFAULT_TIME = {"ve": "vp", "flow": "sigma"}


def check_sigmas(sigmas: Any) -> tuple[float, ...]:
    """The grid as Python floats, checked: 1-D, finite, positive except for a last 0.

    A tensor is read with one transfer. Ascending grids (unsampling) are allowed. Raises
    :class:`SigmasError`.
    """
    try:
        values = sigmas.tolist() if hasattr(sigmas, "tolist") else list(sigmas)
        if not 1 <= len(values) <= MAX_SIGMAS:
            raise SigmasError(f"{len(values)} sigmas given; use 1 to {MAX_SIGMAS}.")
        if any(isinstance(value, str | bytes) for value in values):
            raise TypeError
        grid = tuple(float(value) for value in values)
    except SigmasError:
        raise
    except (TypeError, ValueError, OverflowError):
        raise SigmasError("sigmas must be a list of numbers (1-D); flatten it first.") from None
    for i, sigma in enumerate(grid):
        if not (sigma == 0 or MIN_SIGMA <= sigma <= MAX_SIGMA):  # false for NaN as well
            raise SigmasError(
                f"sigma {sigma} at position {i} is neither 0 nor between {MIN_SIGMA:g} and "
                f"{MAX_SIGMA:g}."
            )
        if sigma == 0 and i < len(grid) - 1:
            raise SigmasError(
                f"sigma 0 at position {i} of {len(grid)}: only the last sigma may be 0; "
                "start an ascending grid slightly above 0."
            )
    return grid


def infer_parametrization(model: object, sigmas: Sequence[float]) -> str:
    """Which parametrisation a denoiser uses when nobody says.

    In order: the model's own ``parametrization`` attribute; k-diffusion wrappers' list of
    ``sigmas`` (flow when its largest is at most 1.0001), but not one that is the run's own grid,
    as ComfyUI's denoisers have it; a run that starts from noise at sigma 1 can only be flow; else
    ``ve``.
    """
    named = getattr(model, "parametrization", None)
    if named in PARAMETRIZATIONS:
        return str(named)
    for owner in (model, getattr(model, "inner_model", None)):
        known = getattr(owner, "sigmas", None)
        if known is not None and len(known) and not _is_run(known, sigmas):
            largest = known.max() if hasattr(known, "max") else max(known)
            return "flow" if float(largest) <= 1.0001 else "ve"
    return "flow" if abs(sigmas[0] - 1) < 1e-3 else "ve"


def _is_run(known: Any, sigmas: Sequence[float]) -> bool:
    if len(known) != len(sigmas):
        return False
    return same_sigmas(known.tolist() if hasattr(known, "tolist") else list(known), sigmas)


def same_sigmas(a: Sequence[float], b: Sequence[float], tolerance: float = SAME_SIGMA) -> bool:
    """Whether two grids agree to float32 rounding of a schedule."""
    return len(a) == len(b) and all(
        abs(p - q) <= tolerance * max(abs(p), abs(q)) for p, q in zip(a, b, strict=True)
    )
