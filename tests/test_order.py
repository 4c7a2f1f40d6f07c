"""Orders of convergence, measured: the error over a fixed range of sigmas as steps grow.

A first Euler step errs by O(h^2) once, so no multistep run from one state can be better than
order 2, whatever its later steps are. What ``ipndm`` and ``deis`` do once their history is there
is measured from exact history.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import cache

import pytest
import torch
from problems import Mixture, gaussian, karras, mixture, randn, rms, solve, velocity
from torch import Tensor

import dode_core as dode
from dode_core.solve.integrate import State, integrate

RANGE = {"ve": (6.0, 0.3), "flow": (0.9, 0.1)}
BOTH = pytest.mark.parametrize("parametrization", ["ve", "flow"])
Lambda = Callable[[dode.Stage], float]


def smooth_grid(parametrization: str, steps: int) -> Tensor:
    high, low = RANGE[parametrization]
    rho = 7.0 if parametrization == "ve" else 2.0
    return karras(steps, low, high, rho=rho, zero=False)


def uniform_grid(parametrization: str, steps: int) -> Tensor:
    return torch.linspace(*RANGE[parametrization], steps + 1, dtype=torch.float64)


@cache
def problem(parametrization: str) -> tuple[Mixture, Tensor, Tensor]:
    """A mixture, states at the start and their exact ends."""
    model = mixture(parametrization, (2,), components=3, std=0.6)
    high, low = RANGE[parametrization]
    x = randn(4, 2) * high
    return model, x, solve(model, x, high, low, 800)


def run(
    model: Mixture,
    x: Tensor,
    stages: Sequence[dode.Stage],
    lambdas: Lambda = lambda stage: 0.0,
    history: Sequence[Tensor] = (),
) -> Tensor:
    """The final state; with history, x is the state after as many stages."""
    state = State.begin(x)
    state.outputs = list(history)
    for _ in integrate(
        model,
        [state],
        stages,
        lambda k, stage, states: [lambdas(stage)],
        parametrization=model.parametrization,
        first=len(history),
    ):
        pass
    return state.x


def order(counts: Sequence[int], errors: Sequence[float]) -> float:
    """The slope between the last two, which must be far above rounding."""
    assert errors[-1] > 1e-12
    return math.log(errors[-2] / errors[-1]) / math.log(counts[-1] / counts[-2])


def measured(
    solver: str,
    parametrization: str,
    counts: Sequence[int],
    lambdas: Lambda = lambda stage: 0.0,
    grid: Callable[[str, int], Tensor] = smooth_grid,
) -> float:
    model, x, exact = problem(parametrization)
    errors = []
    for steps in counts:
        stages = dode.SOLVERS[solver].stages(grid(parametrization, steps), parametrization)
        errors.append(rms(run(model, x, stages, lambdas) - exact))
    return order(counts, errors)


# The reference is right


def test_the_closed_form_agrees_with_runge_kutta() -> None:
    for parametrization, (high, low) in RANGE.items():
        model, x = gaussian(parametrization), randn(3, 2, 3, 3) * high
        error = solve(model, x, high, low) - model.exact(x, high, low)
        assert error.abs().max() < 1e-10


# Whole runs


@BOTH
@pytest.mark.parametrize(
    ("solver", "expected", "counts"),
    [
        ("ddim", 1, (80, 160)),
        ("ddim_x0", 1, (80, 160)),
        ("heun", 2, (80, 160)),
        ("dpmpp_2m", 2, (80, 160)),
        ("dpm_solver_2", 2, (80, 160)),  # even: steps of two evaluations throughout
        ("dpm_solver_3", 3, (80, 161)),  # 3 m + 2: its other endings have an Euler step
        ("ipndm", 2, (160, 320)),  # Euler start; fixed-step weights on a smooth grid as well
        ("deis", 2, (160, 320)),  # Euler start
    ],
)
def test_order(solver: str, expected: int, counts: tuple[int, int], parametrization: str) -> None:
    assert measured(solver, parametrization, counts) == pytest.approx(expected, abs=0.2)


@pytest.mark.parametrize("solver", ["ddim", "heun", "dpmpp_2m", "dpm_solver_3"])
@BOTH
def test_order_on_a_gaussian(solver: str, parametrization: str) -> None:
    """No worse on a linear problem, where the exact end has a closed form."""
    expected = {"ddim": 1, "heun": 2, "dpmpp_2m": 2, "dpm_solver_3": 3}[solver]
    model, (high, low) = gaussian(parametrization), RANGE[parametrization]
    x, counts, errors = randn(3, 2, 3, 3) * high, (320, 641), []
    for steps in counts:
        stages = dode.SOLVERS[solver].stages(smooth_grid(parametrization, steps), parametrization)
        errors.append(rms(run(model, x, stages) - model.exact(x, high, low)))
    assert order(counts, errors) > expected - 0.2


@BOTH
def test_odd_dpm_solver_2_ends_with_euler(parametrization: str) -> None:
    """One Euler step at the end is O(h^2) once: still order 2."""
    found = measured("dpm_solver_2", parametrization, (81, 161))
    assert found == pytest.approx(2, abs=0.2)


# Multistep solvers once their history is there


@pytest.mark.parametrize(
    ("solver", "grid", "expected"),
    [
        ("ipndm", uniform_grid, 4),
        ("ipndm", smooth_grid, 2),  # fixed-step weights: steps that vary cost two orders
        ("deis", uniform_grid, 3),
        ("deis", smooth_grid, 3),
    ],
)
@BOTH
def test_order_from_exact_history(
    solver: str, grid: Callable[[str, int], Tensor], expected: int, parametrization: str
) -> None:
    model, x, exact = problem(parametrization)
    counts, errors = (320, 640), []
    for steps in counts:
        sigmas = grid(parametrization, steps)
        states = [x]
        for s, t in zip(sigmas[:3].tolist(), sigmas[1:4].tolist(), strict=True):
            states.append(solve(model, states[-1], s, t, 20))
        history = [velocity(model, states[k], float(sigmas[k])) for k in (2, 1, 0)]
        stages = dode.SOLVERS[solver].stages(sigmas, parametrization)
        errors.append(rms(run(model, states[3], stages, history=history) - exact))
    assert order(counts, errors) == pytest.approx(expected, abs=0.2)


# With lambdas


@BOTH
@pytest.mark.parametrize("solver", ["ddim", "ddim_x0"])
def test_natural_lambdas_raise_the_order(solver: str, parametrization: str) -> None:
    found = measured(solver, parametrization, (80, 160), lambda stage: stage.adams_bashforth or 0.0)
    assert found == pytest.approx(2, abs=0.2)


@BOTH
@pytest.mark.parametrize("solver", dode.SOLVERS)
def test_any_bounded_lambda_converges(solver: str, parametrization: str) -> None:
    """Directions sum to zero, so they are O(h^2) a step: order 1 is left, and no more."""
    found = measured(solver, parametrization, (160, 320), lambda stage: 0.7)
    assert found == pytest.approx(1, abs=0.2)
