"""What users choose among: how much of a solver is distilled. Light: menus are made of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from .errors import CalibrationError
from .solve.directions import direction_names


@dataclass(frozen=True)
class Method:
    """``columns`` and ``gain`` as in :func:`dode_core.distill`; whether the sigmas move too."""

    columns: int
    gain: bool
    learn_sigmas: bool

    @property
    def directions(self) -> tuple[str, ...]:
        return direction_names(self.columns, self.gain)


EVERY_RUN = "any steps"  # not a table but a profile, which serves every run
METHODS: Mapping[str, Method] = {
    "columns and sigmas": Method(2, True, True),
    "one lambda": Method(1, False, False),
    "columns": Method(2, True, False),
}


def get_method(name: str) -> Method:
    """The method of that name. Raises :class:`CalibrationError`."""
    try:
        return METHODS[name]
    except (KeyError, TypeError):
        known = ", ".join(METHODS)
        raise CalibrationError(f"Method {name!r} is unknown; use one of {known}.") from None


def default_method(full_run: bool = True) -> str:
    """The method that a user gets who chooses none; one that keeps the grid for partial runs."""
    return next(name for name, each in METHODS.items() if full_run or not each.learn_sigmas)
