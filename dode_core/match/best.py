"""Which of the stored tables is trusted most for a model."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from ..tables.identity import Identity
from ..tables.library import Stored
from ..tables.table import LambdaTable
from .resolve import Resolution


def best(
    stored: Sequence[Stored],
    identity: Identity | None,
    pick: Callable[[Sequence[LambdaTable]], Resolution],
) -> tuple[Resolution, str]:
    """The best table made for exactly this model, else for it without its LoRAs, else any.

    Returns what ``pick`` makes of it, and a note on where it is from.
    """

    def trust(table: LambdaTable) -> int:
        if identity is None or not identity.same_model(table.model_fingerprint):
            return 2
        return 0 if identity.same_patches(table.model_fingerprint) else 1

    resolution = pick([each.table for each in stored])
    for least in (0, 1):
        trusted = [each.table for each in stored if trust(each.table) <= least]
        found = pick(trusted)
        if found.table is not None:
            resolution = found
            break
    if resolution.table is None:
        return resolution, ""
    file = next(each.file for each in stored if each.table is resolution.table)
    notes = ("", ", made with other LoRAs", ", made for another checkpoint: distil it again")
    return resolution, f" (from {file.name}{notes[trust(resolution.table)]})"
