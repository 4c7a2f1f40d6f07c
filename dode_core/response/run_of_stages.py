"""Any solver's stages through a response: what is expected of a table or a built-in sampler."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from ..solve.integrate import weights
from ..solve.stages import Stage
from .model import Array, Response, unit


def expected_error(
    response: Response,
    stages: Sequence[Stage],
    lambdas: Sequence[Sequence[float]],
) -> float:
    """Predicted RMS final error of a run from the teacher's state at its first sigma."""
    n, first = len(stages), stages[0].sigma
    x = response.state(np.array([first]))
    bands = len(x)
    noise, variance = np.zeros((bands, 1, n)), np.zeros((bands, 1, n))
    state = start = (x, noise)
    past: list[tuple[Array, Array]] = []
    if stages[0].output == "eps":
        past = [(x / unit(first, response.parametrization), noise)]
    for k, stage in enumerate(stages):
        if stage.starts_step:
            start = state
        output = _denoised(response, stage, k, state, variance)
        if stage.output == "eps":
            x, noise = state[0] - output[0], state[1] - output[1]
            output = x / stage.sigma, noise / stage.sigma
        past.insert(0, output)
        row = weights(stage, lambdas[k] if len(lambdas) else ())
        terms = [(stage.here, state), (stage.start, start), *zip(row, past, strict=False)]
        x = np.asarray(sum(w * term[0] for w, term in terms))
        noise = np.asarray(sum(w * term[1] for w, term in terms))
        state = (x, noise)
    goal = response.state(np.array([stages[-1].sigma_next]))
    square = ((state[0] - goal) ** 2).sum() + (state[1] ** 2 * variance).sum()
    return math.sqrt(float(square))


def _denoised(
    response: Response, stage: Stage, k: int, state: tuple[Array, Array], variance: Array
) -> tuple[Array, Array]:
    """Coordinates of the denoised output; ``variance`` gets what this evaluation adds."""
    x, sigma = state[0], stage.sigma
    if stage.look_ahead is not None:
        ratio = stage.look_ahead.sigma / sigma
        x, sigma = x * ratio + (1 - ratio) * response.mean[:, None], stage.look_ahead.sigma
    elif k == 0:  # the teacher's own state
        return x - response.slope(np.array([sigma])), state[1]
    out, noise, added = response.denoised(np.array([sigma]), x, state[1], variance)
    noise[:, :, k] = 1.0
    variance[:, :, k] = added
    return out, noise
