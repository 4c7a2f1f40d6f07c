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
SUB_STEPS = (2, 4, 8)  # of the teachers, the finest only where the others say that it jumps
FLOOR = 1e-4  # relative: below it both are rounding
STEPS, SCHEDULE = 4, {"ve": "karras", "flow": "uniform"}


def evaluations(steps: int, samples: int) -> int:
    """What :func:`already_few_step` costs at most on a grid of so many steps: evaluations."""
    return SAMPLES * (1 + sum(SUB_STEPS)) * steps if samples >= SAMPLES else 0


def calls(steps: int, samples: int, batch_size: int) -> int:
    """How often it asks the model at most for that, so many samples at a time."""
    return evaluations(steps, samples) // SAMPLES * math.ceil(SAMPLES / batch_size)


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
    then the same is asked of teachers of 8 and 4: at cfg 7 and more one of 2 was further off than
    the plain solver on an ordinary model (docs/trust.md). Costs 7 runs of the grid on those
    samples, or 15. Fewer noises than that tell nothing.
    """
    count = SAMPLES
    if len(x) < count:
        return ""
    args = args_of(extra_args, slice(count), len(x))
    rows = frozenset(key for key, value in (extra_args or {}).items() if has_rows(value, len(x)))
    parts = InParts(model, rows)  # where memory holds no four samples at once
    parts.most = batch_size

    def in_parts(x: Tensor, sigma: Tensor, **extra_args: Any) -> Tensor:
        return parts(x, sigma, extra_args)

    def final(stages: Any) -> Tensor:
        state = State.begin(x[:count], args)
        stages = plain(stages)
        begin_run(model, evaluated(stages))
        complete(in_parts, [state], stages, parametrization=parametrization)
        return flat(state.x)

    own = final(get_solver(solver).stages(grid, parametrization))
    fine = final(Teacher("dpmpp_2m", SUB_STEPS[0]).stages(grid, parametrization))
    for each in SUB_STEPS[1:]:
        coarse, fine = fine, final(Teacher("dpmpp_2m", each).stages(grid, parametrization))
        error, spread = (own - fine).norm(dim=1), (coarse - fine).norm(dim=1)
        if not bool((error <= spread + FLOOR * fine.norm(dim=1)).all()):
            return ""
    size = fine.shape[1] ** 0.5
    return (
        "this model is already few-step; nothing to distil: the plain solver is "
        f"{float(error.mean()) / size:.3g} from the teacher, whose own spread is "
        f"{float(spread.mean()) / size:.3g}"
    )
