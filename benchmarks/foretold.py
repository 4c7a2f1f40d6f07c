"""What a profile expects of samplers that are not ours: any that is linear in the model's outputs.

Almost every deterministic sampler is: what it hands to the model, and its result, are sums of its
start and of the denoised outputs so far, with weights that only depend on the sigmas. So its
weights can be read off by running it once on unit vectors, whatever its code looks like.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from dode_core.response.model import Array
from dode_core.response.profile import Profile

Sampler = Callable[[Any, Tensor, Tensor], Tensor]  # (model, start, sigmas) -> result
MOST_EVALUATIONS = 200
CLOSE = 1e-3  # relative: many samplers compute in float32
CHANNELS = 8  # of the random outputs that a sampler's weights are tried on


@dataclass(frozen=True)
class LinearRun:
    """A sampler on a grid: ``sigmas`` of its n evaluations, and weights of (start, outputs 1 .. n).

    ``inputs`` (n, n + 1): of what the model gets; ``final`` (n + 1): of the result. ``start`` is
    the sigma of the start.
    """

    start: float
    sigmas: tuple[float, ...]
    inputs: Array
    final: Array

    @property
    def evaluations(self) -> int:
        return len(self.sigmas)


@dataclass(frozen=True)
class Advice:
    """A sampler and schedule by name, and the RMS final error that is expected of them."""

    sampler: str
    schedule: str
    expected: float


def linear_run(sampler: Sampler, sigmas: Tensor) -> LinearRun | None:
    """The weights of ``sampler`` on ``sigmas`` (n + 1), or None where it has none.

    None for a sampler that adds noise, chooses its own steps by what the model answers, or makes
    more than MOST_EVALUATIONS; what it raises is raised.
    """
    size = MOST_EVALUATIONS + 1
    units = torch.eye(size, dtype=torch.float64)
    start = units[0].reshape(1, size, 1, 1)
    calls, result = _record(sampler, start, sigmas, units.reshape(size, 1, size, 1, 1)[1:])
    if result is None or not calls:
        return None
    n = len(calls)
    inputs = np.stack([_flat(x)[: n + 1] for _, x in calls])
    found = LinearRun(
        float(sigmas[0]), tuple(sigma for sigma, _ in calls), inputs, _flat(result)[: n + 1]
    )
    return found if _holds(found, sampler, sigmas) else None


def _holds(run: LinearRun, sampler: Sampler, sigmas: Tensor) -> bool:
    """Whether the weights say what the sampler makes of other outputs: else it is not linear."""
    generator = torch.Generator().manual_seed(0)
    shape = (run.evaluations + 2, 1, CHANNELS, 1, 1)
    drawn = torch.randn(shape, generator=generator, dtype=torch.float64)
    calls, result = _record(sampler, drawn[0], sigmas, drawn[1:])
    if result is None or tuple(sigma for sigma, _ in calls) != run.sigmas:
        return False
    want = np.vstack([run.inputs, run.final]) @ drawn[:-1].reshape(run.evaluations + 1, -1).numpy()
    got = np.stack([_flat(x) for x in (*(x for _, x in calls), result)])
    return bool(np.abs(got - want).max() < CLOSE * (np.abs(want).max() + 1))


def _record(
    sampler: Sampler, start: Tensor, sigmas: Tensor, outputs: Tensor
) -> tuple[list[tuple[float, Tensor]], Tensor | None]:
    """(what the model got, the result) where it answers ``outputs`` one by one; None: too few."""
    calls: list[tuple[float, Tensor]] = []

    def model(x: Tensor, sigma: Tensor, **_: Any) -> Tensor:
        if len(calls) == len(outputs):
            raise _TooMany
        calls.append((float(sigma.flatten()[0]), x.detach().clone()))
        return outputs[len(calls) - 1].to(x.dtype).clone()

    try:
        return calls, sampler(model, start.clone(), sigmas.clone())
    except _TooMany:
        return calls, None


class _TooMany(Exception):
    """A sampler made more evaluations than there are outputs for."""


def _flat(x: Tensor) -> Array:
    return x.detach().double().flatten().numpy()


def expected_of(profile: Profile, run: LinearRun) -> float:
    """The RMS error that the profile predicts for a run from pure noise, in latent units.

    A schedule that starts below ``sigma_max`` starts from noise of that size, as hosts do it.
    """
    response, n = profile.response, run.evaluations
    around = response.at(np.array(run.sigmas))
    top = np.array([profile.sigma_max])
    begin = response.state(top) * (run.start / profile.sigma_max)
    variance = np.zeros((len(begin), 1, n))
    outputs: list[tuple[Array, Array]] = []

    def combined(weights: Array) -> tuple[Array, Array]:
        x, noise = weights[0] * begin, np.zeros_like(variance)
        for weight, (output, carried) in zip(weights[1:], outputs, strict=False):
            x, noise = x + weight * output, noise + weight * carried
        return x, noise

    whole = math.isclose(run.start, profile.sigma_max, rel_tol=1e-3)
    for k in range(n):
        x, noise = combined(run.inputs[k])
        if k == 0 and whole:  # the teacher's own state
            outputs.append((x - response.slope(top), noise))
            continue
        out, carried, added = around.denoised(np.array([k]), x, noise, variance)
        carried[:, :, k] = 1.0
        variance[:, :, k] = added
        outputs.append((out, carried))
    x, noise = combined(run.final)
    goal = response.state(np.zeros(1))
    return math.sqrt(float(((x - goal) ** 2).sum() + (noise**2 * variance).sum()))


def advise(
    profile: Profile,
    samplers: Mapping[str, Sampler],
    grids: Callable[[str, int], Mapping[str, Tensor]],
    evaluations: int,
) -> list[Advice]:
    """What is expected of every sampler on every schedule at so many evaluations, best first.

    ``grids(sampler, steps)``: schedules of so many steps by name. A sampler of several evaluations
    a step gets as few steps as cost the same. Left out: what has no weights (see
    :func:`linear_run`), what fails at so few steps, and what is not finite.
    """
    found = []
    for name, sampler in samplers.items():
        runs: dict[str, LinearRun] = {}
        for steps in range(evaluations, 0, -1):
            runs = _runs(sampler, grids(name, steps))
            if not runs or any(run.evaluations <= evaluations for run in runs.values()):
                break
        alike = {k: run for k, run in runs.items() if run.evaluations == evaluations}
        found += [Advice(name, k, expected_of(profile, run)) for k, run in alike.items()]
    return sorted(
        (each for each in found if math.isfinite(each.expected)), key=lambda each: each.expected
    )


def _runs(sampler: Sampler, grids: Mapping[str, Tensor]) -> dict[str, LinearRun]:
    found = {}
    for schedule, sigmas in grids.items():
        try:
            run = linear_run(sampler, sigmas)
        except Exception:  # some fail at few steps; the code is not ours
            continue
        if run is not None:
            found[schedule] = run
    return found
