"""What learning a table for some steps goes on from: the profile that is there already."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from .errors import SigmasError
from .shelf import StoredProfile, find_same_profile, table_for
from .solve.scheme import Scheme
from .tables.identity import Identity
from .tables.table import LambdaTable

# Added to the seed of what goes on from a profile: on the noises that the profile was made of, EDM
# at cfg 7 gained nothing at 5 and 6 steps, on others 2 % at 6 (docs/benchmarks.md).
OTHER_NOISE, SEEDS = 1 << 16, 1 << 64


def seed_for(seed: int, starts: Sequence[LambdaTable], schemes: Collection[Scheme]) -> int:
    """The seed of the noise that tables of these ``schemes`` are learned from.

    Another one where learning goes on from the lambdas of a profile's table: of a table of another
    scheme only the sigmas are tried, as those of any other start.
    """
    goes_on = any(start.scheme in schemes for start in starts)
    return (seed + OTHER_NOISE) % SEEDS if goes_on else seed


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
