"""Starts that a caller brings: grids, and tables that learning goes on from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from ..errors import CalibrationError
from ..fit.trajectory import check_descending
from ..solve.noise import check_sigmas
from ..solve.scheme import Scheme
from ..tables.table import LambdaTable
from .learn import DEFAULT_BUDGET, REFINE_BUDGET
from .starts import Start


def default_budget(starts: Sequence[Start]) -> int:
    """Evaluations per sample where nobody says: half of it when a start brings lambdas."""
    ready = any(start.rows is not None for start in starts)
    return REFINE_BUDGET if ready else DEFAULT_BUDGET


def start_of(
    start: Tensor | Sequence[float] | LambdaTable, grid: Sequence[float], scheme: Scheme
) -> Start:
    """A grid, or a table's grid and lambdas, to learn from for the grid that is distilled.

    A table of another solver or other directions brings its sigmas only. Raises
    :class:`CalibrationError`.
    """
    if not isinstance(start, LambdaTable):
        return Start(_start(start, grid))
    nodes = _start(start.sigmas, grid)
    if start.scheme != scheme:
        return Start(nodes)
    return Start.of(replace(start, sigmas=torch.tensor(nodes, dtype=torch.float64)))


def _start(start: Tensor | Sequence[float], grid: Sequence[float]) -> tuple[float, ...]:
    """A grid to start from, with the ends of the grid that is distilled."""
    found = check_sigmas(start)
    if len(found) != len(grid):
        raise CalibrationError(
            f"A start has {len(found) - 1} steps, but the table is to have {len(grid) - 1}; give "
            "grids of as many steps."
        )
    inner = [*found[1:-1]]
    check_descending([grid[0], *inner, grid[-1]])
    return (grid[0], *inner, grid[-1])
