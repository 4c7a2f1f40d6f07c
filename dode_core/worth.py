"""What a profile is worth, in words: what its calibration measured, and what it expects."""

from __future__ import annotations

import math
from collections.abc import Sequence

from .errors import DodeError
from .fit.peers import hosts_kind
from .response.measured import Measured, nearest
from .response.profile import Profile
from .tables.fields import ABOUT, PEER_LABELS, compared
from .tables.table import LambdaTable

MUCH = 0.2  # of the peer's error: below it no number is given, a simulation is no measure there
PEER = "dpmpp_2m"  # what a user would have run: its plain rows on the host's own grid
USUAL = 8  # steps that are spoken of where no run is asked for


def compared_runs(profile: Profile) -> list[Measured]:
    """The whole runs, from pure noise, that were measured beside a built-in sampler."""
    return [each for each in profile.measured if each.start is None and each.built_in]


def measured_worth(profile: Profile, steps: int = USUAL) -> str:
    """How much closer the measured run nearest to ``steps`` came; "" where none was compared."""
    run = nearest(compared_runs(profile), steps, whole=True)
    if run is None:
        return ""
    peer = run.built_in or 1.0
    ours = peer if run.measured > peer and _left_to_built_in(profile, run) else run.measured
    words = compared(ours / peer, f"{peer_name(run)}, the most promising built-in sampler,")
    return (
        f"{words} at {run.steps} steps, measured on {profile.samples_holdout} noises that it did "
        "not learn from"
    )


def _left_to_built_in(profile: Profile, run: Measured) -> bool:
    """Whether the profile serves such whole runs with built-in rows, since they ended nearer."""
    whole = (each for each in profile.tables if profile.is_whole(each))
    return any(each.steps == run.steps and not each.lambdas.any() for each in whole)


def peer_name(run: Measured) -> str:
    """What a user calls the sampler that a run was measured beside."""
    return PEER_LABELS.get(run.name, run.name) or "another"


def closer(profile: Profile, table: LambdaTable, grid: Sequence[float]) -> str:
    """What it expects against DPM++ 2M on the host's grid, in words; empty where it can't say.

    What is expected of the table is raised by as much as the held-out samples ended above what was
    expected of them in the measured run that is most like this one.
    """
    try:
        plain = profile.expected_plain(PEER, grid, hosts_kind(PEER, profile.parametrization))
        ours = profile.expected(table) * profile.optimism(table)
    except DodeError:
        return ""
    if not 0 < plain < math.inf or not 0 < ours < math.inf:
        return ""
    if ours > ABOUT * plain:
        return "expected about as close to the many-step image as DPM++ 2M"
    much = "much" if ours < MUCH * plain else f"{1 - ours / plain:.0%}"
    return f"expected {much} closer to the many-step image than DPM++ 2M"
