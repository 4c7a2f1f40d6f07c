"""Between a table and its plain solver: the correction in a smaller or larger dose."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

from ..solve.noise import check_sigmas
from ..solve.stages import LookAhead
from .resolve import Resolution

MAX_SCALE = 2.0


def without_look_ahead(resolution: Resolution) -> Resolution:
    """The same run with its first evaluation at its first sigma; as it is where it does that."""
    stages = resolution.stages
    if not stages or stages[0].look_ahead is None:
        return resolution
    first = replace(stages[0], look_ahead=None)
    message = f"{resolution.message}; its look ahead is left out: this guider may follow the steps"
    return replace(resolution, stages=[first, *stages[1:]], message=message, worth="")


def scaled(resolution: Resolution, sigmas: Sequence[float], scale: float) -> Resolution:
    """The same run with ``scale`` times its correction: 0 is the plain solver, 1 the table.

    lambda' = scale * lambda; learned sigmas move with it, log sigma' = log s + scale *
    (log learned - log s), so that 0 is the plain solver on the run's own ``sigmas``, and a look
    ahead moves from the first sigma down. ``scale`` is kept within 0 and 2, and sigmas in their
    order. A run without a table stays what it is.
    """
    table = resolution.table
    scale = min(max(float(scale), 0.0), MAX_SCALE)
    if table is None or scale == 1:
        return resolution
    grid = list(check_sigmas(sigmas))
    nodes: dict[int, float] = {}
    for stage in resolution.stages:
        nodes.setdefault(stage.step, stage.sigma)
    own = [nodes[i] for i in sorted(nodes)]
    stages = resolution.stages
    ahead = stages[0].look_ahead
    differ = ahead is not None or any(a != b for a, b in zip(own, grid, strict=False))
    if len(own) == len(grid) - 1 and differ:
        for i in range(1, len(own)):
            moved = math.log(grid[i]) + scale * (math.log(own[i]) - math.log(grid[i]))
            least = grid[-1] * (1 + 1e-6 * (len(own) - i))  # 0 for most grids
            grid[i] = max(min(math.exp(moved), grid[i - 1] * (1 - 1e-6)), least)
        stages = table.scheme.stages(grid, _looked(ahead, grid, scale))
    rows = [tuple(scale * value for value in row) for row in resolution.lambdas]
    return replace(resolution, stages=stages, lambdas=rows, worth="")


def _looked(ahead: LookAhead | None, grid: Sequence[float], scale: float) -> LookAhead | None:
    """A look ahead ``scale`` times as far down from the first sigma, above the second node."""
    if ahead is None or scale == 0:
        return None
    moved = grid[0] * (ahead.sigma / grid[0]) ** scale
    return replace(ahead, sigma=max(moved, math.sqrt(grid[0] * grid[1])))
