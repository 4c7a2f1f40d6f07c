"""The one loop. Teacher, plain solver, calibration and distilled solver all run through it.

They differ only in where the lambdas come from: nowhere, a table, or a fit at that stage.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from .noise import alpha
from .stages import Row, Stage

Denoiser = Callable[..., Tensor]


@dataclass
class State:
    """One micro-batch on its way: the state, where its step started, its outputs, newest first.

    The state is float32 or better. It stays on its own device (calibration parks states on the
    CPU); the model is called on ``device`` in ``dtype``, the ones x came with.
    """

    x: Tensor
    device: torch.device
    dtype: torch.dtype
    extra_args: Mapping[str, Any]
    start: Tensor
    denoised: Tensor
    outputs: list[Tensor] = field(default_factory=list)

    @classmethod
    def begin(
        cls, x: Tensor, extra_args: Mapping[str, Any] | None = None, park: bool = False
    ) -> State:
        state = x.to("cpu" if park else x.device, torch.promote_types(x.dtype, torch.float32))
        return cls(state, x.device, x.dtype, extra_args or {}, state, state)

    def copy(self) -> State:
        """A state that can be advanced on its own; tensors are shared, never changed in place."""
        return replace(self, outputs=list(self.outputs))

    def guess_noise(self, stage: Stage, keep: int, parametrization: str) -> None:
        """Before a run's first evaluation: the output that solvers in eps take for eps_{-1}."""
        if stage.output == "eps" and keep > 1:
            self.outputs = [noise_guess(self.x, stage.sigma, parametrization)]


Choose = Callable[[int, Stage, Sequence[State]], Sequence[float]]
Watch = Callable[[int, Stage, Sequence[State]], None]


def no_lambdas(k: int, stage: Stage, states: Sequence[State]) -> Sequence[float]:
    """The plain solver's choice."""
    return ()


def nothing(k: int, stage: Stage, states: Sequence[State]) -> None:
    """What those do who do not watch."""


def integrate(
    model: Denoiser,
    states: Sequence[State],
    stages: Sequence[Stage],
    choose: Choose = no_lambdas,
    *,
    watch: Watch = nothing,
    parametrization: str = "ve",
    first: int = 0,
) -> Iterator[tuple[int, Stage]]:
    """Advance ``states`` through ``stages`` from number ``first``, yielding after each stage.

    At every stage the model is evaluated for all states; ``watch(k, stage, states)`` sees them as
    they were evaluated (``state.x``, ``.denoised`` and ``.outputs``); ``choose``, called likewise,
    gives the stage's lambdas; then all states take the same affine update.
    """
    keep = history_to_keep(stages)
    begin_run(model, evaluated(stages))
    for k in range(first, len(stages)):
        stage = stages[k]
        for state in states:
            if k == 0:
                state.guess_noise(stage, keep[0], parametrization)
            _evaluate(model, state, stage, keep[k])
        watch(k, stage, states)
        lambdas = choose(k, stage, states)
        for state in states:
            state.x = update(state, stage, lambdas)
        yield k, stage


def complete(
    model: Denoiser,
    states: Sequence[State],
    stages: Sequence[Stage],
    choose: Choose = no_lambdas,
    *,
    watch: Watch = nothing,
    parametrization: str = "ve",
    first: int = 0,
) -> None:
    """Run :func:`integrate` to its end, for those who look only at the final states."""
    how: Any = {"watch": watch, "parametrization": parametrization, "first": first}
    for _ in integrate(model, states, stages, choose, **how):
        pass


def evaluated(stages: Sequence[Stage]) -> list[float]:
    """The sigmas that a run asks its model about, each once, in their order, and where it ends."""
    asked = [stage.look_ahead.sigma if stage.look_ahead else stage.sigma for stage in stages]
    ends = [stages[-1].sigma_next] if stages else []
    return list(dict.fromkeys([*asked, *ends]))


def begin_run(model: Any, sigmas: Sequence[float]) -> None:
    """Tell a denoiser which run comes next: its :func:`evaluated` sigmas.

    One that wants to know has a method ``begin_run``; hosts pass the sigmas on to whatever finds
    its step in them.
    """
    told = getattr(model, "begin_run", None)
    if told is not None:
        told(sigmas)


def noise_guess(x: Tensor, sigma: float, parametrization: str) -> Tensor:
    """x / sqrt(alpha^2 + sigma^2): at sigma_max the state is almost pure noise (eps_{-1})."""
    return x / math.hypot(alpha(sigma, parametrization), sigma)


def update(state: State, stage: Stage, lambdas: Sequence[float] = ()) -> Tensor:
    """start * x_start + here * x + sum_j (b_j + sum_i lambda_i c_ij) m_j, in one pass a term."""
    terms = [(stage.here, state.x), (stage.start, state.start)]
    terms += list(zip(weights(stage, lambdas), state.outputs, strict=False))
    return combine([(w, tensor) for w, tensor in terms if w != 0] or terms[:1])


def weights(stage: Stage, lambdas: Sequence[float]) -> list[float]:
    """The row of output weights b + sum_i lambda_i c_i."""
    row = list(stage.b) + [0.0] * (stage.history - len(stage.b))
    for value, direction in zip(lambdas, stage.c, strict=False):
        for j, c in enumerate(direction):
            row[j] += value * c
    return row


def direction(state: State, row: Row) -> Tensor:
    """sum_j c_j m_j."""
    return combine(list(zip(row, state.outputs, strict=False)))


def combine(terms: Sequence[tuple[float, Tensor]]) -> Tensor:
    """sum of weight * tensor without temporaries; a new tensor."""
    (w0, first), *rest = terms
    if w0 == 1 and rest:
        (w1, second), *rest = rest
        out = torch.add(first, second, alpha=w1)
    else:
        out = first * w0
    for w, tensor in rest:
        out.add_(tensor, alpha=w)
    return out


def asked(x: Tensor, stage: Stage) -> tuple[Tensor, float]:
    """(state, sigma) that the model is asked at: those of the stage, or where it looks ahead."""
    ahead = stage.look_ahead
    return (x, stage.sigma) if ahead is None else (ahead.seen(x, stage.sigma), ahead.sigma)


def record(state: State, stage: Stage, denoised: Tensor, keep: int) -> None:
    """Push the stage's output, newest first; ``keep`` of them stay."""
    state.denoised = denoised.to(state.x)
    if stage.output == "eps":
        state.outputs.insert(0, torch.sub(state.x, state.denoised).div_(stage.sigma))
    else:
        state.outputs.insert(0, state.denoised)
    del state.outputs[keep:]


def _evaluate(model: Denoiser, state: State, stage: Stage, keep: int) -> None:
    """Call the model once and push its output."""
    if stage.starts_step:
        state.start = state.x
    x, sigma = asked(state.x, stage)
    x = x.to(state.device, state.dtype)
    denoised = model(x, x.new_full((x.shape[0],), sigma), **state.extra_args)
    record(state, stage, denoised, keep)


def history_to_keep(stages: Sequence[Stage]) -> list[int]:
    """How many outputs must survive each stage for it and all later ones."""
    keep, later = [], 0
    for stage in reversed(stages):
        later = max(stage.history, later - 1)
        keep.append(later)
    return keep[::-1]
