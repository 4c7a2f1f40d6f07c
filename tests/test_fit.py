"""The fit: it finds lambdas that are there, minimises what it should, and has its symmetries."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from problems import Mixture, grid_for, karras, mixture, randn, rms, start
from torch import Tensor

import dode_core as dode
from dode_core.fit.teacher import Teacher
from dode_core.solve.integrate import State, integrate

SHAPE = (2, 3, 3)
EVERY = pytest.mark.parametrize("solver", dode.SOLVERS)
BOTH = pytest.mark.parametrize("parametrization", ["ve", "flow"])
FEW = settings(max_examples=8)


def student_path(
    model: Mixture, x: Tensor, stages: Sequence[dode.Stage], lambdas: Sequence[Sequence[float]]
) -> Tensor:
    """The states after every stage, shape (stages, B, ...)."""
    state, path = State.begin(x), []
    for _ in integrate(
        model,
        [state],
        stages,
        lambda k, stage, states: lambdas[k],
        parametrization=model.parametrization,
    ):
        path.append(state.x)
    return torch.stack(path)


# Lambdas that are there are found


@EVERY
@FEW
@given(
    seed=st.integers(0, 10_000),
    steps=st.integers(1, 7),
    columns=st.integers(1, 3),
    gain=st.booleans(),
    zero=st.booleans(),
    parametrization=st.sampled_from(["ve", "flow"]),
    batch_size=st.integers(1, 9),
)
@example(seed=1, steps=6, columns=3, gain=True, zero=True, parametrization="ve", batch_size=3)
def test_recovers_the_lambdas_of_its_own_path(
    solver: str,
    seed: int,
    steps: int,
    columns: int,
    gain: bool,
    zero: bool,
    parametrization: str,
    batch_size: int,
) -> None:
    """Targets from the student itself: the fit must go through them, with the same lambdas."""
    sigmas = grid_for(parametrization, steps, zero)
    model = mixture(parametrization, SHAPE, seed=seed, std=0.5)
    x = start(parametrization, sigmas, 6, *SHAPE, seed=seed)
    stages = dode.SOLVERS[solver].stages(sigmas, parametrization, columns=columns, gain=gain)
    width = max(len(stage.c) for stage in stages)
    random = randn(len(stages), width, seed=seed + 1) * 0.3
    for row, stage in zip(random, stages, strict=True):
        row[[i for i in range(width) if not stage.c[i]]] = 0  # no history yet
    targets = student_path(model, x, stages, random.tolist())
    table = dode.distill(
        model,
        x,
        sigmas,
        solver,
        targets=targets,
        holdout=0,
        parametrization=parametrization,
        columns=columns,
        gain=gain,
        batch_size=batch_size,
    )
    found = student_path(model, x, stages, table.lambdas.tolist())
    tolerance = 1e-6 * max(1.0, rms(targets))
    assert rms(found - targets) < tolerance
    assert table.errors is not None and table.errors.distilled_fit < tolerance
    if width == 1:  # more columns can be nearly dependent: then only the path is determined
        torch.testing.assert_close(table.lambdas, random, rtol=1e-6, atol=1e-6)


# What it minimises


@pytest.mark.parametrize("change", [-0.05, -1e-3, 1e-3, 0.05])
def test_each_lambda_minimises_its_stage(change: float) -> None:
    """ddim written out by hand: after stage k no other lambda_k is nearer to the teacher."""
    sigmas, model = karras(5), mixture(shape=SHAPE)
    x = start("ve", sigmas, 6, *SHAPE)
    table = dode.distill(model, x, sigmas, "ddim", holdout=0)
    goals = Teacher().states(model, x, sigmas.tolist())
    s, old = sigmas.tolist(), x / math.hypot(1, float(sigmas[0]))
    for k, value in enumerate(table.lambdas[:, 0].tolist()):
        eps = (x - model(x, x.new_full((6,), s[k]))) / s[k]

        def after(value: float, k: int = k, x: Tensor = x, eps: Tensor = eps) -> Tensor:
            return x + (s[k + 1] - s[k]) * (eps + value * (eps - old))  # noqa: B023

        best, other = (rms(after(v) - goals[k]) for v in (value, value + change))
        assert best < other
        x, old = after(value), eps
    assert table.errors is not None
    assert table.errors.distilled_fit == pytest.approx(rms(x - goals[-1]), rel=1e-9)


@EVERY
@pytest.mark.parametrize(("columns", "gain"), [(1, False), (3, False), (2, True)])
def test_stationary_in_every_column(solver: str, columns: int, gain: bool) -> None:
    """Moving any lambda of any stage raises that stage's squared error."""
    sigmas, model = grid_for("ve", 6), mixture(shape=SHAPE)
    x = start("ve", sigmas, 6, *SHAPE)
    options: dict[str, Any] = {"columns": columns, "gain": gain}
    stages = dode.SOLVERS[solver].stages(sigmas, **options)
    targets = (
        randn(len(stages), *x.shape, seed=5) * 0.1
        + Teacher("heun", 8).states(model, x, sigmas.tolist())[[stage.step for stage in stages]]
    )
    table = dode.distill(model, x, sigmas, solver, targets=targets, holdout=0, **options)
    best = (student_path(model, x, stages, table.lambdas.tolist()) - targets).flatten(1)
    for k, stage in enumerate(stages):
        for i, direction in enumerate(stage.c):
            if not direction:
                assert table.lambdas[k, i] == 0
                continue
            for change in (-0.02, 0.02):
                lambdas = table.lambdas.clone()
                lambdas[k, i] += change
                moved = student_path(model, x, stages[: k + 1], lambdas.tolist())[k]
                assert float((moved - targets[k]).square().sum()) >= float(
                    best[k].square().sum() * (1 - 1e-9)
                )


# Symmetries


def fitted(model: Any, x: Tensor, sigmas: Any, solver: str, **options: Any) -> Tensor:
    return dode.distill(model, x, sigmas, solver, holdout=0, **options).lambdas


@EVERY
@BOTH
def test_rotation(solver: str, parametrization: str) -> None:
    """Lambdas are inner products: an orthogonal change of basis leaves them."""
    sigmas, model = grid_for(parametrization, 5), mixture(parametrization, (18,))
    x = start(parametrization, sigmas, 6, 18)
    rotation = torch.linalg.qr(randn(18, 18, seed=9)).Q
    turned = Mixture(model.means @ rotation, model.std, parametrization)
    options = {"parametrization": parametrization}
    before = fitted(model, x, sigmas, solver, **options)
    after = fitted(turned, x @ rotation, sigmas, solver, **options)
    torch.testing.assert_close(after, before, rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize("scale", [0.1, 7.0])
@pytest.mark.parametrize("solver", ["heun", "ddim_x0", "dpmpp_2m"])
def test_units(solver: str, scale: float) -> None:
    """Other units and another origin for the data: data prediction does not notice.

    (The noise guess of eps solvers supposes data of about unit size, on purpose.)
    """
    sigmas, model = karras(5), mixture(shape=SHAPE)
    x, shift = start("ve", sigmas, 6, *SHAPE), 0.3
    moved = Mixture(scale * model.means + shift, scale * model.std)
    before = fitted(model, x, sigmas, solver)
    after = fitted(moved, scale * x + shift, scale * sigmas, solver)
    torch.testing.assert_close(after, before, rtol=1e-6, atol=1e-8)


@EVERY
def test_order_of_samples(solver: str) -> None:
    sigmas, model = karras(5), mixture(shape=SHAPE)
    x = start("ve", sigmas, 6, *SHAPE)
    before = fitted(model, x, sigmas, solver, batch_size=4)
    after = fitted(model, x.flip(0), sigmas, solver, batch_size=4)
    torch.testing.assert_close(after, before, rtol=1e-7, atol=1e-9)


@EVERY
def test_twice_is_bit_equal(solver: str) -> None:
    sigmas, model = karras(5), mixture(shape=SHAPE)
    x = start("ve", sigmas, 8, *SHAPE).float()

    def once() -> dode.LambdaTable:
        return dode.distill(model, x, sigmas, solver, columns=2, gain=True, batch_size=3)

    one, two = once(), once()
    assert torch.equal(one.lambdas, two.lambdas)
    assert (one.errors, one.zeroed) == (two.errors, two.zeroed)


@pytest.mark.parametrize("make", [Tensor.double, Tensor.float, Tensor.tolist])
def test_sigmas_may_come_as_any_sequence(make: Callable[[Tensor], Any]) -> None:
    model, sigmas = mixture(shape=SHAPE), karras(4).float()
    x = start("ve", sigmas, 4, *SHAPE)
    expected = fitted(model, x, sigmas.tolist(), "ddim")
    assert torch.equal(fitted(model, x, make(sigmas), "ddim"), expected)
