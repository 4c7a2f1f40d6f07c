"""What a calibration measured of its own tables, beside what was predicted."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Measured:
    """A run that was measured on held-out samples: RMS final errors, in latent units.

    ``start`` is where it began, None for pure noise; ``predicted`` is what the profile expected,
    ``built_in`` the error of the best built-in rows on the same samples, where they were run.
    """

    steps: int
    start: float | None
    predicted: float
    measured: float
    built_in: float | None = None
    name: str = ""
