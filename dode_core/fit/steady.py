"""Before the work: does the model answer the same when it is asked again?

A step cache (EasyCache, LazyCache, TeaCache and their kin) keeps outputs of one run from high to
low sigma. A calibration runs its model dozens of times, up and down: it would learn the cache.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from ..errors import CalibrationError, DodeError
from ..solve.integrate import Denoiser, begin_run
from .guarded import args_of
from .memory import InParts

# Where caches are at work: down around the middle of a schedule, in steps as small as a run of many
# has, where one would skip; then up in larger ones, where the same one would not.
HIGH = {"ve": 2.7, "flow": 0.9}
RATIO, COUNT, STRIDE = 0.88, 12, 3
EVALUATIONS = 18
TOLERANCE, HALF_TOLERANCE = 0.01, 0.05  # relative; as the check at the end of a calibration


@torch.no_grad()
def check_steady(
    model: Denoiser,
    x: Tensor,
    highest: float,
    parametrization: str,
    extra_args: Mapping[str, Any] | None = None,
) -> None:
    """Ask about one sample from the highest sigma down, then up again. Raises
    :class:`CalibrationError` when an answer differs, or when the model fails only then.

    x: noise at sigma ``highest``, shape (B, ...). :data:`EVALUATIONS` of one sample. What is not
    finite is left for the calibration to name.
    """
    asked = InParts(model)
    args = args_of(extra_args, slice(1), len(x))
    first = min(HIGH[parametrization], highest * RATIO)
    down = [highest, *(first * RATIO**i for i in range(COUNT))]
    begin_run(model, [*down, 0.0])
    half = x.dtype in (torch.float16, torch.bfloat16)
    answers: dict[float, Tensor] = {}
    for sigma in [*down, *down[:-1][::-STRIDE], highest]:
        seen = x[:1] * (sigma / highest)
        try:
            found = asked(seen, seen.new_full((1,), sigma), args)
        except (RuntimeError, TypeError, ValueError, KeyError, AttributeError) as error:
            if not answers or isinstance(error, DodeError):
                raise
            raise CalibrationError(_said(str(error))) from error
        if not found.isfinite().all():
            return
        before = answers.setdefault(sigma, found)
        off = float((found - before).float().norm() / before.float().norm().clamp(min=1e-12))
        if off > (HALF_TOLERANCE if half else TOLERANCE):
            raise CalibrationError(_said(f"its output was {off:.0%} off the second time"))


def _said(why: str) -> str:
    return (
        f"The model answers differently when it is asked again ({why[:100]}): a step cache "
        "(EasyCache, LazyCache, TeaCache or the like) is on the model, or something else that "
        "remembers earlier steps or draws at random (APG with momentum, ToMe); take it off for "
        "distilling."
    )
