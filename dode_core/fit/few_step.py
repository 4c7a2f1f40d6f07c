"""Does this model jump already? Turbo, LCM and Lightning models follow no trajectory."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from ..solve.integrate import Denoiser, State, begin_run, complete, evaluated
from ..solve.schedules import make_sigmas
from ..solve.solvers import get_solver
from ..solve.stages import plain
from .guarded import args_of, has_rows
from .memory import InParts
from .products import flat
from .teacher import Teacher

SAMPLES = 4
COARSE, FINE = 2, 4  # sub-steps of the two teachers
FINEST = 8  # of the one that is asked besides, on one sample, where those say that it jumps
FLOOR = 1e-4  # relative: below it both are rounding
SENTENCE = (
    "this model is already few-step; nothing to distil: the plain solver is {:.3g} from the "
    "teacher, whose own spread is {:.3g}"
)
STEPS, SCHEDULE = 4, {"ve": "karras", "flow": "uniform"}


def evaluations(steps: int, samples: int) -> int:
    """What :func:`already_few_step` costs at most on a grid of so many steps: evaluations."""
    return calls(steps, samples, 1)


def calls(steps: int, samples: int, batch_size: int) -> int:
    """How often it asks the model at most for that, so many samples at a time."""
    if samples < SAMPLES:
        return 0
    return ((1 + COARSE + FINE) * math.ceil(SAMPLES / batch_size) + FINEST) * steps


def few_step_grid(highest: float, lowest: float, parametrization: str) -> list[float]:
    """The steps that few-step models are made for, where none are asked for."""
    return make_sigmas(SCHEDULE[parametrization], STEPS, lowest, highest).tolist()


@torch.no_grad()
def already_few_step(
    model: Denoiser,
    x: Tensor,
    grid: Sequence[float],
    parametrization: str,
    extra_args: Mapping[str, Any] | None = None,
    solver: str = "ddim",
    batch_size: int = SAMPLES,
) -> str:
    """A sentence where the plain solver is within the teacher's own spread; "" where it is not.

    On the first 4 of the noises x (B, ...) at ``grid[0]``: the plain solver's distance to a
    DPM++ 2M teacher of 4 sub-steps a step against the distance between that teacher and one of 2.
    Where it is not larger for any of them, a teacher shows nothing that the plain solver lacks;
    then the same is asked of teachers of 8 and 4, on the sample that was nearest to tell otherwise:
    at cfg 7 and more one of 2 was further off than the plain solver on an ordinary model
    (docs/trust.md). Costs 7 runs of the grid on those samples, and 8 on one. Fewer noises than that
    tell nothing.
    """
    if len(x) < SAMPLES:
        return ""
    rows = frozenset(key for key, value in (extra_args or {}).items() if has_rows(value, len(x)))
    parts = InParts(model, rows)  # where memory holds no four samples at once
    parts.most = batch_size

    def in_parts(x: Tensor, sigma: Tensor, **extra_args: Any) -> Tensor:
        return parts(x, sigma, extra_args)

    def final(stages: Any, some: slice = slice(SAMPLES)) -> Tensor:
        state = State.begin(x[some], args_of(extra_args, some, len(x)))
        stages = plain(stages)
        begin_run(model, evaluated(stages))
        complete(in_parts, [state], stages, parametrization=parametrization)
        return flat(state.x)

    own = final(get_solver(solver).stages(grid, parametrization))
    coarse, fine, finest = (
        Teacher("dpmpp_2m", each).stages(grid, parametrization) for each in (COARSE, FINE, FINEST)
    )
    after = final(fine)
    error, spread = _apart(own, final(coarse), after)
    least = int((error - spread).argmax())
    one = slice(least, least + 1)
    if not error[least] <= spread[least]:  # also where one is not finite
        return ""
    if not torch.le(*_apart(own[one], after[one], final(finest, one))):
        return ""
    means = [float(each.mean()) / own.shape[1] ** 0.5 for each in (error, spread)]
    return SENTENCE.format(*means)


def _apart(own: Tensor, coarse: Tensor, fine: Tensor) -> tuple[Tensor, Tensor]:
    """Every sample's distance to the finer teacher, and that of the coarser one, with rounding."""
    floor = FLOOR * fine.norm(dim=1)
    return (own - fine).norm(dim=1), (coarse - fine).norm(dim=1) + floor
