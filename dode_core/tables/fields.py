"""The parts of a lambda table, and what they may be: files are shared, nothing is trusted."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor

from ..errors import TableError
from ..solve.directions import MAX_COLUMNS
from ..solve.noise import same_sigmas
from ..solve.stages import MAX_CHANNELS, LookAhead

MAX_LAMBDA = 1e4
MAX_PEERS, MAX_PEER_NAME = 20, 50
OF_PROFILE = "profile"  # the teacher of a table that a profile made: its errors are expected
ABOUT = 0.97  # nearer than this to another sampler's error, neither is called closer
PEER_LABELS = {
    **{"dpmpp_2m": "DPM++ 2M", "euler": "Euler", "ddim": "Euler"},  # of ddim without noise
    **{"ipndm": "iPNDM", "deis": "DEIS"},
}


@dataclass(frozen=True)
class Errors:
    """RMS error of the final state against the teacher's, in latent units, over all elements."""

    plain_fit: float
    distilled_fit: float
    plain_holdout: float | None = None
    distilled_holdout: float | None = None

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if value is not None and not 0 <= value < math.inf:
                raise TableError(f"Error {name} is {value}; it must be a number from 0 up.")

    @property
    def ratio(self) -> float | None:
        """Distilled over plain on held-out samples; below 1 is an improvement."""
        if self.plain_holdout is None or self.distilled_holdout is None:
            return None
        if self.plain_holdout == 0:
            return 1.0
        return self.distilled_holdout / self.plain_holdout


def worth(errors: Errors | None, peer: tuple[str, float] | None, plain: str) -> str:
    """Held-out error against the best peer's, or that of the solver's name ``plain``, in words."""
    if errors is None or errors.ratio is None or errors.distilled_holdout is None:
        return ""
    left, name = errors.ratio, f"plain {plain}"
    if peer is not None and peer[1] > 0:
        left, name = errors.distilled_holdout / peer[1], PEER_LABELS.get(peer[0], peer[0])
    return compared(left, name)


def compared(left: float, name: str) -> str:
    """In words, what an error of ``left`` times that of ``name`` means."""
    if left < ABOUT:
        return f"{1 - left:.0%} closer to the many-step image than {name}"
    if left > 1 / ABOUT:
        return f"{left - 1:.0%} farther from the many-step image than {name}"
    return f"about as close to the many-step image as {name}"


def check_size(lambdas: Tensor) -> None:
    """Finite numbers of at most MAX_LAMBDA. Raises :class:`TableError`."""
    largest = float(lambdas.abs().max()) if lambdas.numel() else 0.0
    if not largest <= MAX_LAMBDA:  # false for NaN as well
        raise TableError(f"A lambda is {largest:g}; they must be finite, at most {MAX_LAMBDA}.")


def check_width(lambdas: Tensor, gain: bool, names: Sequence[str] | None) -> None:
    """A row a stage, a number a direction. Raises :class:`TableError`."""
    width = lambdas.shape[1] if lambdas.ndim == 2 else 0
    if names is None and not 1 <= width - gain <= MAX_COLUMNS:
        raise TableError(
            f"The lambdas have shape {tuple(lambdas.shape)}; expected (stages, columns) "
            f"with 1 to {MAX_COLUMNS} columns."
        )
    if names is not None and (gain or not 1 <= width == len(names)):
        raise TableError(
            f"The lambdas have shape {tuple(lambdas.shape)}; expected (stages, directions) for the "
            f"directions {', '.join(names)}, and no gain beside them."
        )


def check_look_ahead(ahead: LookAhead, grid: Sequence[float], learned: bool) -> None:
    """Within the first step of learned sigmas, its mean of finite numbers."""
    if not learned:
        raise TableError("A look ahead goes with learned sigmas, but the sigmas are not learned.")
    if not grid[1] < ahead.sigma < grid[0]:  # false for NaN as well
        raise TableError(
            f"The look ahead is at sigma {ahead.sigma:g}; it must lie between the first two, "
            f"{grid[0]:g} and {grid[1]:g}."
        )
    if len(ahead.mean) > MAX_CHANNELS or not all(abs(v) <= MAX_LAMBDA for v in ahead.mean):
        raise TableError(
            f"The look ahead's mean is of {len(ahead.mean)} channels, the largest "
            f"{max(map(abs, ahead.mean), default=0.0):g}; there may be {MAX_CHANNELS} finite "
            f"numbers, at most {MAX_LAMBDA:g}."
        )


def check_asked(asked: Sequence[float], grid: Sequence[float], learned: bool) -> None:
    """As many sigmas as the learned ones, with the same ends. Raises :class:`TableError`."""
    if not learned:
        raise TableError("Asked sigmas go with learned ones, but the sigmas are not learned.")
    ends = same_sigmas((asked[0], asked[-1]), (grid[0], grid[-1]))
    if len(asked) != len(grid) or not ends:
        raise TableError(
            f"The asked sigmas are {len(asked)} from {asked[0]:g} to {asked[-1]:g}; the learned "
            f"ones are {len(grid)} from {grid[0]:g} to {grid[-1]:g}: they must agree in both."
        )


def check_peers(errors: Mapping[str, float]) -> None:
    """A few names with finite errors. Raises :class:`TableError`."""
    named = all(0 < len(name) <= MAX_PEER_NAME for name in errors)
    if len(errors) > MAX_PEERS or not named:
        raise TableError(
            f"There are errors of {len(errors)} other samplers; {MAX_PEERS} are most, with names of"
            f" {MAX_PEER_NAME} letters."
        )
    for name, value in errors.items():
        if not 0 <= value < math.inf:
            raise TableError(f"The error of {name} is {value}; it must be a number from 0 up.")
