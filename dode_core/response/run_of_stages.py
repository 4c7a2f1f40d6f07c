"""Any solver's stages through a response: what is expected of a table or a built-in sampler."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ..solve.integrate import weights
from ..solve.stages import Stage
from .model import Around, Array, Response, unit


def expected_error(
    response: Response, stages: Sequence[Stage], lambdas: Sequence[Sequence[float]] = ()
) -> float:
    """Predicted RMS final error of a run from the teacher's state at its first sigma."""
    return float(expected_errors(response, [stages], lambdas)[0])


def expected_errors(
    response: Response,
    runs: Sequence[Sequence[Stage]],
    lambdas: Sequence[Sequence[float]] = (),
) -> Array:
    """The same (c,) of runs of one solver, of as many stages each: on many grids."""
    n, first = len(runs[0]), runs[0][0]
    places, around = _around(response, runs)
    x = around.state[:, places[:, 0]]
    noise = np.zeros((*x.shape[:2], n))
    variance = noise.copy()
    state = start = (x, noise)
    past: list[tuple[Array, Array]] = []
    if first.output == "eps":
        norm = np.array([unit(run[0].sigma, response.parametrization) for run in runs])
        past = [(x / norm[:, None], noise)]
    for k, stages in enumerate(zip(*runs, strict=True)):
        if stages[0].starts_step:
            start = state
        output = _denoised(response, around, stages, places, state, variance, k)
        if stages[0].output == "eps":
            sigma = np.array([stage.sigma for stage in stages])[:, None]
            output = (state[0] - output[0]) / sigma, (state[1] - output[1]) / sigma
        past.insert(0, output)
        rows = [weights(stage, lambdas[k] if len(lambdas) else ()) for stage in stages]
        rows = [[s.here, s.start, *row] for s, row in zip(stages, rows, strict=True)]
        width = max(map(len, rows))
        terms = np.array([row + [0.0] * (width - len(row)) for row in rows]).T[:, :, None]
        many = list(zip(terms, (state, start, *past), strict=False))
        x = np.asarray(sum(w * term[0] for w, term in many))
        state = (x, np.asarray(sum(w * term[1] for w, term in many)))
    off = state[0] - around.state[:, places[:, n]]
    square = (off**2).sum((0, 2)) + (state[1] ** 2 * variance).sum((0, 2))
    return np.sqrt(square)


def _around(response: Response, runs: Sequence[Sequence[Stage]]) -> tuple[Array, Around]:
    """Where the runs' stages are in what the response has there; where they end is last."""
    sigmas = [[*(stage.sigma for stage in run), run[-1].sigma_next] for run in runs]
    ahead = [run[0].look_ahead for run in runs]
    for row, look in zip(sigmas, ahead, strict=True):
        row.append(row[0] if look is None else look.sigma)
    few, places = np.unique(np.array(sigmas), return_inverse=True)
    return places.reshape(len(runs), -1), response.at(few)


def _denoised(
    response: Response,
    around: Around,
    stages: Sequence[Stage],
    places: Array,
    state: tuple[Array, Array],
    variance: Array,
    k: int,
) -> tuple[Array, Array]:
    """Coordinates of the denoised outputs; ``variance`` gets what this evaluation adds."""
    x, noise = state
    at, looks = places[:, k], stages[0].look_ahead is not None
    if looks:
        at = places[:, -1]
        pairs = [(s.look_ahead.sigma if s.look_ahead else s.sigma) / s.sigma for s in stages]
        ratio = np.array(pairs)[:, None]
        x = x * ratio + (1 - ratio) * response.mean[:, None]
    elif k == 0:  # the teacher's own state
        return x - around.state[:, at] + around.output[:, at], noise
    out, carried, added = around.denoised(at, x, noise, variance)
    carried[:, :, k] = 1.0
    variance[:, :, k] = added
    return out, carried
