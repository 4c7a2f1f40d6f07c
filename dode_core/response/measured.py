"""What a calibration measured of its own tables, beside what was predicted."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Measured:
    """A run that was measured on held-out samples: RMS final errors, in latent units.

    ``start`` is where it began, None for pure noise; ``predicted`` is what the profile expected.
    ``built_in`` is the error on the same samples of the built-in rows of which least was expected,
    called ``name``, and ``built_in_predicted`` what was; None where they were not run.
    """

    steps: int
    start: float | None
    predicted: float
    measured: float
    built_in: float | None = None
    built_in_predicted: float | None = None
    name: str = ""

    @property
    def optimism(self) -> float:
        """By how much the run ended above what was expected of it, at least 1."""
        return _above(self.measured, self.predicted)

    @property
    def built_in_optimism(self) -> float:
        """The same of the built-in rows; 1 where they were not run."""
        if self.built_in is None or self.built_in_predicted is None:
            return 1.0
        return _above(self.built_in, self.built_in_predicted)


def _above(measured: float, predicted: float) -> float:
    return max(1.0, measured / predicted) if predicted > 0 else 1.0


def nearest(measured: Sequence[Measured], steps: int, whole: bool) -> Measured | None:
    """The measured run most like one of so many steps: of its kind, then nearest in steps."""
    known = [each for each in measured if each.predicted > 0]
    alike = [each for each in known if (each.start is None) == whole]
    return min(alike or known, key=lambda each: abs(each.steps - steps), default=None)


def compared(measured: Sequence[Measured], steps: int, start: float | None) -> bool:
    """Whether just this run was measured beside built-in rows."""
    return any(each.built_in is not None for each in of_run(measured, steps, start))


def of_run(measured: Sequence[Measured], steps: int, start: float | None) -> list[Measured]:
    """What was measured of just this run; ``start`` as in :class:`Measured`."""
    return [
        each
        for each in measured
        if each.steps == steps
        and (each.start is None) == (start is None)
        and math.isclose(each.start or 1.0, start or 1.0, rel_tol=1e-4)
    ]
