"""What a profile expects of samplers that are not ours: their weights, and the order it gives."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import pytest
import torch
from problems import Recorded, mixture, randn, solve
from torch import Tensor

import dode_core as dode
from benchmarks.foretold import MOST_EVALUATIONS, Sampler, advise, expected_of, linear_run
from dode_core.demo.peers import k_diffusion_sampling
from dode_core.solve.schedules import karras

HIGH, LOW = 15.0, 0.02
SHAPE = (2, 8, 8)
DETERMINISTIC = ("euler", "heun", "dpm_2", "lms", "dpmpp_2m")
MIXTURE = mixture("ve", SHAPE, components=4, std=0.6)
ONE_EACH = ("euler", "lms", "dpmpp_2m")


def peer(name: str, **how: Any) -> Sampler:
    """One of k-diffusion's."""

    def sampler(model: Any, x: Tensor, sigmas: Tensor) -> Tensor:
        return getattr(k_diffusion_sampling(), f"sample_{name}")(
            model, x, sigmas, disable=True, **how
        )

    return sampler


def ours(solver: str) -> Sampler:
    return lambda model, x, sigmas: dode.sample(model, x, sigmas, solver=solver, disable=True)


@cache
def profile() -> dode.Profile:
    return dode.calibrate(
        MIXTURE, randn(16, *SHAPE, seed=1) * HIGH, HIGH, LOW, parametrization="ve"
    )


@pytest.mark.parametrize("solver", ["ddim", "ipndm", "deis", "dpmpp_2m", "dpm_solver_3"])
def test_of_our_own_solvers_it_expects_what_their_rows_say(solver: str) -> None:
    """Weights that were read off and the solver's own stages are two ways to one number."""
    sigmas = karras(7, LOW, HIGH)
    run = linear_run(ours(solver), sigmas)
    assert run is not None
    expected = profile().expected_plain(solver, sigmas)
    assert expected_of(profile(), run) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("name", DETERMINISTIC)
def test_the_weights_are_the_samplers(name: str) -> None:
    """On a model that is not linear: the weights times its outputs are the sampler's result."""
    model, sigmas = Recorded(MIXTURE), karras(6, LOW, HIGH)
    x = randn(2, *SHAPE, seed=3) * HIGH
    final = peer(name)(model, x, sigmas)
    run = linear_run(peer(name), sigmas)
    assert run is not None and run.evaluations == len(model.calls)
    known = torch.stack([x, *(output for *_, output in model.calls)])
    torch.testing.assert_close(torch.einsum("n,n...->...", torch.tensor(run.final), known), final)
    for weights, sigma, (given, at, *_) in zip(run.inputs, run.sigmas, model.calls, strict=True):
        assert at == pytest.approx(sigma)
        got = torch.einsum("n,n...->...", torch.tensor(weights), known)
        torch.testing.assert_close(got, given)


def cubic(model: Any, x: Tensor, sigmas: Tensor) -> Tensor:
    """Euler whose result is no sum of outputs."""
    return peer("euler")(model, x, sigmas) ** 3


def endless(model: Any, x: Tensor, sigmas: Tensor) -> Tensor:
    for _ in range(MOST_EVALUATIONS + 1):
        x = model(x, sigmas[:1])
    return x


def by_the_answer(model: Any, x: Tensor, sigmas: Tensor) -> Tensor:
    """A step size that depends on what the model says, as adaptive samplers have."""
    found = model(x, sigmas[:1])
    return x + float(found.abs().sum()) * found


@pytest.mark.parametrize(
    "sampler", [peer("euler_ancestral"), peer("dpmpp_2s_ancestral"), cubic, endless, by_the_answer]
)
def test_what_has_no_weights_is_not_foretold(sampler: Sampler) -> None:
    assert linear_run(sampler, karras(6, LOW, HIGH)) is None


def grids(_: str, steps: int) -> dict[str, Tensor]:
    found = {"karras": karras(steps, LOW, HIGH), "short": karras(steps, 0.1, HIGH)}
    return found if steps > 1 else {}


def median(final: Tensor, x: Tensor) -> float:
    """Of the samples' distances from the exact solution: a few of a mixture's go elsewhere."""
    off = final - solve(MIXTURE, x, HIGH, 1e-4)
    return float(off.square().flatten(1).mean(1).sqrt().median())


def test_the_order_is_the_real_one() -> None:
    """Ten pairs of a sampler and a schedule at seven evaluations, whoever's code they are."""
    samplers, x = {name: peer(name) for name in DETERMINISTIC}, randn(32, *SHAPE, seed=5) * HIGH
    found = advise(profile(), samplers, grids, 7)
    assert {a.sampler for a in found} == set(DETERMINISTIC) and len(found) == 2 * len(samplers)
    assert [a.expected for a in found] == sorted(a.expected for a in found)
    real = []
    for each in found:
        steps = 7 if each.sampler in ONE_EACH else 4  # two evaluations a step, the last has one
        grid = grids(each.sampler, steps)[each.schedule]
        real.append(median(samplers[each.sampler](MIXTURE, x, grid), x))
    assert real[0] == min(real)
    ranks = torch.tensor(real).argsort().argsort().double()
    there = torch.stack([torch.arange(len(real), dtype=torch.float64), ranks])
    assert float(torch.corrcoef(there)[0, 1]) > 0.9


def test_what_fails_or_costs_otherwise_is_left_out() -> None:
    def failing(*_: Any) -> Tensor:
        raise RuntimeError("too few steps")

    def blind(model: Any, x: Tensor, sigmas: Tensor) -> Tensor:
        return x * float("nan") + model(x, sigmas[:1])

    samplers: dict[str, Callable[..., Tensor]] = {"failing": failing, "blind": blind}
    samplers |= {"heun": peer("heun"), "euler": peer("euler"), "noisy": peer("euler_ancestral")}
    found = advise(profile(), samplers, grids, 8)  # Heun makes 7 or 9
    assert {a.sampler for a in found} == {"euler"}


def test_a_schedule_that_starts_lower_starts_from_less_noise() -> None:
    """As hosts do it: noise of that size, not the state that the model has there."""
    grid, x = karras(8, LOW, HIGH)[2:], randn(32, *SHAPE, seed=5) * HIGH
    run = linear_run(peer("euler"), grid)
    assert run is not None
    real = median(peer("euler")(MIXTURE, x * float(grid[0]) / HIGH, grid), x)
    assert expected_of(profile(), run) == pytest.approx(real, rel=0.2)
