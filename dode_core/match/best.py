"""Which of the stored tables is trusted most for a model."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from ..tables.identity import Identity
from ..tables.library import Stored
from ..tables.likeness import Likeness, compare
from ..tables.table import LambdaTable
from .resolve import Resolution


def best(
    stored: Sequence[Stored],
    identity: Identity | None,
    pick: Callable[[Sequence[LambdaTable]], Resolution],
) -> tuple[Resolution, str]:
    """The best table made for exactly this model; else for it with little changed, else any.

    Tables for another prediction type or sigma range are left out. Returns what ``pick`` makes of
    the rest, and a note on where it is from and how its model differs.
    """
    own = identity.fingerprint if identity else ""
    alike = [(compare(own, each.table.model_fingerprint), each) for each in stored]
    allowed = [(likeness, each) for likeness, each in alike if likeness.kind != "refused"]
    resolution = pick([each.table for _, each in allowed])
    for most in sorted({likeness.distance for likeness, _ in allowed}):
        trusted = [each.table for likeness, each in allowed if likeness.distance <= most]
        found = pick(trusted)
        if found.table is not None:
            resolution = found
            break
    if resolution.table is None:
        return resolution, _refusal(alike)
    likeness, each = next(pair for pair in allowed if pair[1].table is resolution.table)
    return resolution, f" ({', '.join([f'from {each.file.name}', *likeness.doubts])})"


def _refusal(alike: Sequence[tuple[Likeness, Stored]]) -> str:
    """Why tables that are there were not even looked at."""
    for likeness, each in alike:
        if likeness.kind == "refused":
            return f" ({each.file.name} is left out: {likeness.note})"
    return ""
