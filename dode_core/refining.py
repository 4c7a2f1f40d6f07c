"""What learning a table for some steps goes on from: the profile that is there already."""

from __future__ import annotations

from collections.abc import Sequence

from .errors import SigmasError
from .shelf import StoredProfile, find_same_profile, table_for
from .tables.identity import Identity
from .tables.table import LambdaTable


def start_for(
    stored: Sequence[StoredProfile],
    identity: Identity,
    cfg: float | None,
    shape: tuple[int, ...],
    grid: Sequence[float],
) -> LambdaTable | None:
    """The table that learning one for ``grid`` goes on from: that of this very model's profile.

    None where there is no such profile, or where it does not cover the run.
    """
    found = find_same_profile(stored, identity, cfg, shape)
    if found is None or grid[-1] > 0:
        return None
    try:
        return table_for(found.profile, grid)
    except SigmasError:
        return None
