"""What a profile is worth, in words: only what its calibration measured beside other samplers."""

from __future__ import annotations

from .response.measured import Measured
from .response.profile import Profile
from .tables.fields import PEER_LABELS, compared

USUAL = 8  # steps that are spoken of where no run is asked for


def compared_runs(profile: Profile) -> list[Measured]:
    """The whole runs, from pure noise, that were measured beside a built-in sampler."""
    return [each for each in profile.measured if each.start is None and each.built_in]


def measured_worth(profile: Profile, steps: int = USUAL) -> str:
    """How much closer the measured run nearest to ``steps`` came; "" where none was compared."""
    found = compared_runs(profile)
    if not found:
        return ""
    run = min(found, key=lambda each: abs(each.steps - steps))
    words = compared(run.measured / (run.built_in or 1.0), peer_name(run))
    return (
        f"{words} at {run.steps} steps, measured on {profile.samples_holdout} noises that it did "
        "not learn from"
    )


def peer_name(run: Measured) -> str:
    """What a user calls the sampler that a run was measured beside."""
    return PEER_LABELS.get(run.name, run.name) or "the best built-in sampler"
