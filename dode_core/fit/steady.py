"""Before the work: does the model answer the same when it is asked again?

A step cache (EasyCache, LazyCache, TeaCache and their kin) keeps outputs of one run from high to
low sigma. A calibration runs its model dozens of times, up and down: it would learn the cache.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from ..errors import CalibrationError
from ..solve.integrate import Denoiser, begin_run
from .guarded import has_rows
from .memory import no_room, ran_out_of_memory

# Where caches are at work, near enough that one would skip: around the middle of a schedule.
CENTRE = {"ve": 1.5, "flow": 0.5}
AROUND = (1.3, 1.15, 1.0, 0.87, 0.75)
TOLERANCE, HALF_TOLERANCE = 0.01, 0.05  # relative; as the check at the end of a calibration


@torch.no_grad()
def check_steady(
    model: Denoiser,
    x: Tensor,
    highest: float,
    parametrization: str,
    extra_args: Mapping[str, Any] | None = None,
) -> None:
    """Ask about one sample at five sigmas down, then up. Raises :class:`CalibrationError` when an
    answer differs, or when the model fails only then.

    x: noise at sigma ``highest``, shape (B, ...). Nine evaluations of one sample.
    """
    args = {k: v[:1] if has_rows(v, len(x)) else v for k, v in (extra_args or {}).items()}
    middle = min(CENTRE[parametrization], highest / AROUND[0])
    down = [middle * part for part in AROUND]
    begin_run(model, [*down, 0.0])
    half = x.dtype in (torch.float16, torch.bfloat16)
    answers: dict[float, Tensor] = {}
    for sigma in [*down, *reversed(down[:-1])]:
        seen = x[:1] * (sigma / highest)
        try:
            found = model(seen, seen.new_full((1,), sigma), **args)
        except (RuntimeError, TypeError, ValueError, KeyError, AttributeError) as error:
            if ran_out_of_memory(error):
                raise no_room(x) from None
            if not answers:
                raise
            raise CalibrationError(_said(str(error))) from error
        before = answers.setdefault(sigma, found)
        off = float((found - before).float().norm() / before.float().norm().clamp(min=1e-12))
        if not off <= (HALF_TOLERANCE if half else TOLERANCE):
            raise CalibrationError(_said(f"its output was {off:.0%} off the second time"))


def _said(why: str) -> str:
    return (
        "The model answers differently when it is asked again: a step cache (EasyCache, LazyCache, "
        f"TeaCache or the like) is on the model; take it off for distilling ({why[:100]})."
    )
