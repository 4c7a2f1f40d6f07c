"""What cannot work is refused before the work, with what to do."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from ...dode_core.errors import CalibrationError
from ...dode_core.match.resolve import FULL
from .models import highest_sigma, parametrization
from .wrapping import step_cache


def check_start(patcher: Any, latent: Any, sigmas: Tensor) -> None:
    """A part of a schedule starts from an image: noise alone is never that clean.

    Raises :class:`CalibrationError` for an empty latent on sigmas that start below the model's.
    """
    first, highest = float(sigmas[0]), highest_sigma(patcher)
    parts = latent.unbind() if latent.is_nested else [latent]
    empty = not any(part.any() for part in parts)
    full = FULL[parametrization(patcher)]
    if empty and highest is not None and first < full * highest and first > float(sigmas[-1]):
        raise CalibrationError(
            f"The SIGMAS start at {first:.4g}, below the model's {highest:.4g}, but the latent is "
            "empty: connect the latent of an image, or SIGMAS of the whole schedule (their table, "
            'made by the method "one lambda" or "columns", serves parts of it as well).'
        )


def check_caches(patcher: Any) -> None:
    """Raises :class:`CalibrationError` for a step cache that says so: it may do nothing yet."""
    name = step_cache(patcher)
    if name:
        raise CalibrationError(
            f"{name}, a step cache, is on the model: it gives some steps another step's output. A "
            "step cache is for sampling; take it off for distilling."
        )
