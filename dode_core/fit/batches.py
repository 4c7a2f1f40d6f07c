"""The samples of a calibration: which are held out, in which micro-batches, and their targets."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from ..errors import CalibrationError
from ..solve.integrate import State
from ..solve.stages import Stage
from . import distributed
from .guarded import ALL_ROWS, SAMPLES, args_of, has_rows

Target = Callable[[int, Stage], Tensor]


@dataclass
class Batch:
    """A micro-batch: its first state, the teacher's state for every stage and at the end.

    ``target(k, stage)`` is the state that stage k should reach, shape (b, ...). ``samples`` counts
    those of all processes.
    """

    state: State
    target: Target
    final: Tensor
    held_out: bool
    samples: int


@dataclass(frozen=True)
class Samples:
    """The noise x, (B, ...) at the first sigma, with what belongs to it.

    The last ``held_out`` samples are not learned from. Tensors in ``extra_args`` whose first
    dimension is B are split with the samples, in micro-batches of at most ``batch_size``.
    Raises :class:`CalibrationError`.
    """

    x: Tensor
    extra_args: Mapping[str, Any] | None = None
    holdout: float = 0.25
    batch_size: int = 8

    def __post_init__(self) -> None:
        x = self.x
        if x.ndim < 2 or not len(x) or not x.is_floating_point():
            raise CalibrationError(f"x has shape {tuple(x.shape)}; give noise of shape (B, ...).")
        if not 0 <= self.holdout < 1:
            raise CalibrationError(f"holdout is {self.holdout}; use a fraction from 0 to below 1.")
        if self.batch_size < 1:
            raise CalibrationError(f"batch_size is {self.batch_size}; use at least 1.")

    def __len__(self) -> int:
        return len(self.x)

    @property
    def held_out(self) -> int:
        return held_out_count(len(self), self.holdout)

    @property
    def fit(self) -> int:
        """How many are learned from."""
        return len(self) - self.held_out

    @cached_property
    def parts(self) -> list[slice]:
        """The micro-batches."""
        return split(len(self), self.held_out, self.batch_size)

    @property
    def per_sample(self) -> frozenset[str]:
        """The arguments that have one row per sample."""
        args = self.extra_args or {}
        return frozenset(key for key, value in args.items() if has_rows(value, len(self)))

    def is_held_out(self, part: slice) -> bool:
        return part.start >= self.fit

    def state(self, part: slice) -> State:
        """This process's share of a micro-batch at its start; several wait on the CPU."""
        own = distributed.share(part)
        every = {**(self.extra_args or {}), SAMPLES: torch.arange(len(self))}
        args = args_of(every, own, len(self))
        args[ALL_ROWS] = part.stop - part.start
        return State.begin(self.x[own], args, park=len(self.parts) > 1)

    def batch(
        self, part: slice, target: Target, final: Tensor, state: State | None = None
    ) -> Batch:
        """A micro-batch with its targets."""
        state = self.state(part) if state is None else state
        return Batch(state, target, final, self.is_held_out(part), part.stop - part.start)


def listed(targets: Sequence[Tensor], like: Tensor) -> tuple[Target, Tensor]:
    """(target, final) of a micro-batch whose targets are given stage by stage."""
    own = [target.to(like) for target in targets]
    return lambda k, stage: own[k], own[-1]


def held_out_count(samples: int, holdout: float) -> int:
    """How many samples a fraction holds out: at least one, never all; none for 0."""
    return min(samples - 1, max(1, round(holdout * samples))) if holdout > 0 else 0


def split(samples: int, held_out: int, batch_size: int) -> list[slice]:
    """Micro-batches of about equal size, at most ``batch_size``; none mixes fit and held-out
    samples, which come last.
    """
    parts = []
    for low, high in ((0, samples - held_out), (samples - held_out, samples)):
        count = math.ceil((high - low) / batch_size)
        ends = [low + (high - low) * i // count for i in range(count + 1)] if count else []
        parts += [slice(a, b) for a, b in zip(ends, ends[1:], strict=False)]
    return parts
