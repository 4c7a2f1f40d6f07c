"""Held-out samples: what a table claims is true, and it never claims an improvement it lacks."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from problems import Mixture, Recorded, grid_for, karras, mixture, randn, rms, start
from torch import Tensor

import dode_core as dode
from dode_core.fit.stagewise import StagewiseFit
from dode_core.fit.teacher import Teacher

SHAPE = (2, 3, 3)
EVERY = pytest.mark.parametrize("solver", dode.SOLVERS)
BOTH = pytest.mark.parametrize("parametrization", ["ve", "flow"])


def sampled(model: Any, x: Tensor, sigmas: Tensor, **options: Any) -> Tensor:
    return dode.sample(model, x, sigmas, disable=True, **options)


# What the table says


@BOTH
@EVERY
@pytest.mark.parametrize(("columns", "gain", "batch_size"), [(1, False, 8), (2, True, 3)])
def test_errors_are_those_of_sampling(
    solver: str, parametrization: str, columns: int, gain: bool, batch_size: int
) -> None:
    """All four numbers, recomputed with the sampler and the teacher alone."""
    sigmas, model = grid_for(parametrization, 5), mixture(parametrization, SHAPE)
    x = start(parametrization, sigmas, 11, *SHAPE)
    teacher = Teacher("heun", 3)
    table = dode.distill(
        model,
        x,
        sigmas,
        solver,
        teacher=teacher,
        parametrization=parametrization,
        batch_size=batch_size,
        columns=columns,
        gain=gain,
        holdout=0.3,
    )
    assert (table.samples_fit, table.samples_holdout) == (8, 3)
    assert table.errors is not None
    goal = teacher.states(model, x, sigmas.tolist(), parametrization)[-1]
    options = {"parametrization": parametrization}
    plain = sampled(model, x, sigmas, solver=solver, **options) - goal
    distilled = sampled(model, x, sigmas, table=table, **options) - goal
    assert table.errors.plain_fit == pytest.approx(rms(plain[:8]), rel=1e-9)
    assert table.errors.plain_holdout == pytest.approx(rms(plain[8:]), rel=1e-9)
    assert table.errors.distilled_fit == pytest.approx(rms(distilled[:8]), rel=1e-9)
    assert table.errors.distilled_holdout == pytest.approx(rms(distilled[8:]), rel=1e-9)
    assert table.errors.ratio == pytest.approx(rms(distilled[8:]) / rms(plain[8:]), rel=1e-9)


@EVERY
@settings(max_examples=6)
@given(
    seed=st.integers(0, 10_000),
    steps=st.integers(1, 6),
    columns=st.integers(1, 3),
    gain=st.booleans(),
    samples=st.integers(2, 9),
    parametrization=st.sampled_from(["ve", "flow"]),
)
def test_never_worse_than_plain_on_held_out_samples(
    solver: str,
    seed: int,
    steps: int,
    columns: int,
    gain: bool,
    samples: int,
    parametrization: str,
) -> None:
    sigmas = grid_for(parametrization, steps)
    model = mixture(parametrization, SHAPE, seed=seed)
    table = dode.distill(
        model,
        start(parametrization, sigmas, samples, *SHAPE, seed=seed),
        sigmas,
        solver,
        parametrization=parametrization,
        columns=columns,
        gain=gain,
    )
    errors = table.errors
    assert errors is not None and errors.plain_holdout is not None
    assert errors.distilled_holdout is not None and errors.ratio is not None
    assert errors.distilled_holdout <= errors.plain_holdout and errors.ratio <= 1
    assert table.helps == bool(table.lambdas.any())
    assert all(not table.lambdas[k].any() for k in table.zeroed)
    if not table.helps:
        assert errors.distilled_holdout == errors.plain_holdout
        assert errors.distilled_fit == errors.plain_fit


def test_random_targets_are_refused() -> None:
    """Fit samples that say nothing of the held-out ones: no lambda survives by accident."""
    sigmas, model = karras(5), mixture(shape=SHAPE)
    x = start("ve", sigmas, 8, *SHAPE)
    opposite = torch.cat([torch.ones(6), -torch.ones(2)])[:, None, None, None]
    plain = torch.stack([sampled(model, x, sigmas[: k + 2], solver="ddim") for k in range(5)])
    targets = plain + opposite * (plain - Teacher().states(model, x, sigmas.tolist()))
    table = dode.distill(model, x, sigmas, "ddim", targets=targets)
    assert not table.helps and not table.lambdas.any()
    assert set(table.zeroed) == {0, 1, 2, 3, 4}
    assert "no improvement" in table.describe()
    fitted = dode.distill(model, x, sigmas, "ddim", targets=targets, holdout=0)
    assert fitted.lambdas.all()


def test_one_stage_that_does_not_generalise_takes_zero() -> None:
    """Held-out samples contradict the fit at stage 2 alone; elsewhere they agree."""
    sigmas, model = karras(5), mixture(shape=SHAPE, std=0.6)
    x = start("ve", sigmas, 32, *SHAPE)
    teacher = Teacher("heun", 8).states(model, x, sigmas.tolist())
    before = dode.distill(model, x, sigmas, "ddim", targets=teacher, holdout=0.5)
    assert before.zeroed == ()
    # At stage 2 the held-out targets go to the other side of the plain step.
    two = dode.LambdaTable("ddim", sigmas[:3], before.lambdas[:2])
    state = sampled(model, x, sigmas[:3], table=two)
    s, t = sigmas[2], sigmas[3]
    plain = state + (t - s) * (state - model(state, s.expand(32))) / s
    targets = teacher.clone()
    targets[2, 16:] = 2 * plain[16:] - teacher[2, 16:]
    table = dode.distill(model, x, sigmas, "ddim", targets=targets, holdout=0.5)
    assert 2 in table.zeroed and table.lambdas[2] == 0
    torch.testing.assert_close(table.lambdas[:2], before.lambdas[:2], rtol=0, atol=0)
    assert table.lambdas[:2].all()


@pytest.mark.parametrize(
    ("solver", "seed"),
    [("ipndm", 2), ("ipndm", 7), ("ipndm", 11), ("heun", 4), ("dpmpp_2m", 7)],
)
def test_elimination(solver: str, seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """A fit that loses to the plain solver: lambdas that do not help go, last stage first.

    Done again with whole runs of the sampler over the held-out samples.
    """
    fitted: list[Tensor] = []
    eliminate = StagewiseFit._eliminate

    def spy(self: StagewiseFit, *args: Any) -> Any:
        fitted.append(torch.tensor(self.lambdas, dtype=torch.float64))
        return eliminate(self, *args)

    monkeypatch.setattr(StagewiseFit, "_eliminate", spy)
    sigmas, model = karras(6), mixture(shape=SHAPE, seed=seed)
    x, teacher = start("ve", sigmas, 8, *SHAPE, seed=seed), Teacher("dpmpp_2m", 2)
    table = dode.distill(model, x, sigmas, solver, teacher=teacher)
    assert len(fitted) == 1, "choose a seed whose fit loses"
    goal = teacher.states(model, x, sigmas.tolist())[-1][6:]

    def error(lambdas: Tensor) -> float:
        trial = dode.LambdaTable(solver, sigmas, lambdas)
        return rms(sampled(model, x[6:], sigmas, table=trial) - goal)

    expected, best = fitted[0], error(fitted[0])
    for k in reversed(range(len(expected))):
        trial = expected.clone()
        trial[k] = 0
        if expected[k].any() and error(trial) < best:
            expected, best = trial, error(trial)
    if not best < error(torch.zeros_like(expected)):
        expected = torch.zeros_like(expected)
    assert torch.equal(table.lambdas, expected)


@pytest.mark.parametrize("solver", ["ddim", "deis", "dpm_solver_3"])
def test_rounding_is_not_fitted(solver: str) -> None:
    """Outputs that agree to float32 rounding have no direction, with nobody held out either."""
    model, sigmas = Mixture(randn(1, 18), 0.0), karras(5, 2.0, zero=False)
    x = model.means[0].reshape(SHAPE) + start("ve", sigmas, 8, *SHAPE)
    table = dode.distill(model, x.float(), sigmas, solver, holdout=0)
    assert not table.lambdas[1:].any()


@EVERY
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_nothing_to_improve(solver: str, dtype: torch.dtype) -> None:
    """Data of one single point: every plain solver is exact, and the table says so."""
    model = Mixture(randn(1, 18), 0.0)
    sigmas = karras(5)
    x = model.means[0].reshape(SHAPE) + start("ve", sigmas, 8, *SHAPE)
    table = dode.distill(model, x.to(dtype), sigmas, solver, columns=2)
    assert table.errors is not None
    assert table.errors.distilled_fit < 1e-12 if dtype == torch.float64 else 1e-5
    assert table.errors.ratio is not None and table.errors.ratio <= 1
    final = sampled(model, x.to(dtype), sigmas, table=table)
    assert (final - model.means[0].reshape(SHAPE)).abs().max() < 1e-4
    if solver in ("heun", "ddim_x0", "dpmpp_2m"):
        assert not table.lambdas.any() and not table.helps
        assert "no improvement" in table.describe()


# Who is held out


@pytest.mark.parametrize(
    ("samples", "holdout", "held_out"),
    [
        (8, 0.25, 2),
        (8, 0.0, 0),
        (8, 0.01, 1),
        (8, 0.99, 7),
        (2, 0.25, 1),
        (1, 0.25, 0),
        (3, 0.5, 2),
    ],
)
def test_sizes(samples: int, holdout: float, held_out: int) -> None:
    sigmas = karras(3)
    table = dode.distill(
        mixture(shape=SHAPE), start("ve", sigmas, samples, *SHAPE), sigmas, holdout=holdout
    )
    assert (table.samples_fit, table.samples_holdout) == (samples - held_out, held_out)
    assert table.errors is not None
    assert (table.errors.plain_holdout is None) == (held_out == 0)
    assert (table.errors.ratio is None) == (held_out == 0)


@BOTH
def test_held_out_samples_do_not_enter_the_fit(parametrization: str) -> None:
    """Lambdas that survive are those of the fit samples alone."""
    sigmas, model = grid_for(parametrization, 5), mixture(parametrization, SHAPE)
    x = start(parametrization, sigmas, 32, *SHAPE)
    options: dict[str, Any] = {"parametrization": parametrization}
    table = dode.distill(model, x, sigmas, "ddim", holdout=0.5, **options)
    assert table.helps and 0 not in table.zeroed
    alone = dode.distill(model, x[:16], sigmas, "ddim", holdout=0, **options)
    same = min(table.zeroed, default=5)  # later stages start from another path
    torch.testing.assert_close(table.lambdas[:same], alone.lambdas[:same], rtol=1e-9, atol=1e-12)


def test_evaluations_are_counted() -> None:
    """Model evaluations per sample, teacher included."""
    model, sigmas = Recorded(mixture(shape=SHAPE)), karras(5)
    table = dode.distill(model, start("ve", sigmas, 10, *SHAPE), sigmas, "heun", batch_size=3)
    assert table.evaluations == sum(len(call[0]) for call in model.calls) / 10
