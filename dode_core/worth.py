"""What a profile is worth, in words: only what its calibration measured beside other samplers."""

from __future__ import annotations

from .response.measured import Measured, nearest
from .response.profile import Profile
from .tables.fields import PEER_LABELS, compared

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
    """Whether the profile serves such runs with built-in rows, since they ended nearer."""
    return any(each.steps == run.steps and not each.lambdas.any() for each in profile.tables)


def peer_name(run: Measured) -> str:
    """What a user calls the sampler that a run was measured beside."""
    return PEER_LABELS.get(run.name, run.name) or "another"
