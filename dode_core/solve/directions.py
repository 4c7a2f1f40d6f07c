"""Correction directions: what a lambda can multiply, each a function from a stage to one row.

    x_next = plain step + sum_i lambda_i sum_j c_ij m_j

A new direction is an entry of DIRECTIONS, nothing else: tables, fits, files and samplers know it by
its name. Rows are scaled by the newest output's own weight in the plain step, so that lambdas are
dimensionless; a row that needs more past outputs than there are is empty.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from ..errors import DodeError
from .stages import Row, Stage

MAX_COLUMNS = 3  # difference columns that ``columns`` and table files can ask for


@dataclass(frozen=True)
class Direction:
    """``row(stage, available)``: weights of the past outputs, newest first, of which there are
    ``available``; the noise guess before the first evaluation counts.

    ``balanced``: they sum to zero, so that a model whose output stands still is left alone.
    """

    row: Callable[[Stage, int], Row]
    balanced: bool = True


def correction(stage: Stage, available: int) -> Row:
    """The solver's own: the newest output m becomes m + lambda (m - m_prev).

    Kim, Tang, Yu, CVPR 2024, arXiv 2309.16421, section 4.
    """
    return stage.c[0]


def difference(j: int) -> Direction:
    """b_0 (m_{k-j} - m_{k-j-1})."""

    def row(stage: Stage, available: int) -> Row:
        scale = stage.b[0]
        return (0.0,) * j + (scale, -scale) if j + 2 <= available else ()

    return Direction(row)


def gain(stage: Stage, available: int) -> Row:
    """b_0 m_k: the newest output itself, so that the row need not sum to the plain step."""
    return (stage.b[0],)


DIRECTIONS: dict[str, Direction] = {
    "correction": Direction(correction),
    **{f"difference_{j + 1}": difference(j) for j in range(MAX_COLUMNS)},
    "gain": Direction(gain, balanced=False),
}
PAPER = ("correction",)


def direction_names(columns: int = 1, gain: bool = False) -> tuple[str, ...]:
    """What ``columns`` and ``gain`` stand for, as arguments and in table files.

    One column is the solver's own correction, 2 and 3 are differences of successive outputs; the
    gain goes last. Raises :class:`DodeError`.
    """
    if not 1 <= columns <= MAX_COLUMNS:
        raise DodeError(f"columns is {columns}; use 1 to {MAX_COLUMNS}.")
    found = PAPER if columns == 1 else tuple(f"difference_{j + 1}" for j in range(columns))
    return (*found, "gain") if gain else found


def columns_and_gain(names: Sequence[str]) -> tuple[int, bool] | None:
    """(columns, gain) that stand for these directions; None where none do."""
    has_gain = names[-1:] == ("gain",)
    columns = len(names) - has_gain
    if 1 <= columns <= MAX_COLUMNS and direction_names(columns, has_gain) == tuple(names):
        return columns, has_gain
    return None


def get_direction(name: str) -> Direction:
    """The direction of that name. Raises :class:`DodeError` that lists the known ones."""
    try:
        return DIRECTIONS[name]
    except (KeyError, TypeError):
        known = ", ".join(DIRECTIONS)
        raise DodeError(f"Direction {name!r} is unknown; use one of {known}.") from None


def directed(stages: Sequence[Stage], names: Sequence[str]) -> list[Stage]:
    """Stages as their solver made them, with these directions in the place of its own."""
    if tuple(names) == PAPER:
        return list(stages)
    chosen = [get_direction(name) for name in names]
    free = tuple(i for i, each in enumerate(chosen) if not each.balanced)
    found = []
    for k, stage in enumerate(stages):
        available = k + 1 + (stage.output == "eps")  # eps_{-1} is guessed from the noise
        rows = tuple(each.row(stage, available) for each in chosen)
        found.append(replace(stage, c=rows, free=free))
    return found
