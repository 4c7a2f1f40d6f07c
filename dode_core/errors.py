"""The errors a user can meet. Each message is one sentence: what disagrees and what to do."""

from __future__ import annotations


class DodeError(ValueError):
    """Base of every error raised on purpose by this package."""


class SigmasError(DodeError):
    """A sigma grid that no solver can run on."""


class TableError(DodeError):
    """A table file that cannot be read or written, or a table that does not fit."""


class CalibrationError(DodeError):
    """A calibration that cannot be run, or whose numbers are not finite."""


class Enough(Exception):
    """Raise this from ``progress`` to end a calibration with the best table so far.

    Learning sigmas ends there and keeps what it has; anything earlier, or a calibration that has
    no table yet, ends with this exception, as it would with any other.
    """


class NotFiniteError(CalibrationError):
    """The model's output is not finite for some samples; the calibration goes on without them."""

    def __init__(self, sigma: float, samples: list[int], evaluations: int) -> None:
        super().__init__(
            f"The model's output is not finite at sigma {sigma:g}; check its precision (an fp16 "
            "overflow?) or use other calibration noise."
        )
        self.sigma, self.samples, self.evaluations = sigma, samples, evaluations
        self.told = False  # whether all processes of a distributed run know of it
