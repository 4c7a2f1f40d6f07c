"""Looking ahead: the first evaluation sees the noise at a lower sigma."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from problems import Recorded, alpha, gaussian, karras, mixture, randn, rms, solve, start
from tables import document, made_up, same
from torch import Tensor

import dode_core as dode
from dode_core.fit.batches import Samples
from dode_core.learn.learn import Learner
from dode_core.learn.student import Run, Student
from dode_core.match.between_cfgs import between
from dode_core.match.resolve import resolve
from dode_core.match.scale import scaled
from dode_core.session import Session
from dode_core.solve.stages import LookAhead
from dode_core.tables.table import dump_tables, parse_tables

SHAPE = (3, 4, 4)
MEAN = (0.5, -0.25, 0.0)
AHEAD = LookAhead(9.0, MEAN)  # karras(5) begins at 15, 6.7
EVERY = pytest.mark.parametrize("solver", dode.SOLVERS)


def table(solver: str = "ddim", steps: int = 5, **fields: Any) -> dode.LambdaTable:
    fields = {"learned_sigmas": True, "look_ahead": AHEAD, "columns": 2, "gain": True} | fields
    return made_up(solver, karras(steps), **fields)


def flat_image(x: Tensor, sigma: Tensor, **extra_args: Any) -> Tensor:
    return torch.tensor(MEAN).to(x).view(1, 3, 1, 1).expand_as(x)


@EVERY
def test_only_what_the_first_evaluation_sees_changes(solver: str) -> None:
    """(x s'/s + (1 - s'/s) mean, s') instead of (x, s); every update as it was."""
    own = table(solver)
    x = randn(4, *SHAPE) * 15
    model = Recorded(flat_image)
    found = dode.sample(model, x, own.sigmas, disable=True, table=own)
    blind = Recorded(flat_image)
    without = table(solver, look_ahead=None)
    expected = dode.sample(blind, x, own.sigmas, disable=True, table=without)
    torch.testing.assert_close(found, expected, rtol=0, atol=0)  # the model says the same anywhere
    (seen, sigma, *_), *rest = model.calls
    mean = torch.tensor(MEAN).view(1, 3, 1, 1)
    torch.testing.assert_close(seen, x * 0.6 + 0.4 * mean.double())
    assert sigma == 9.0 and len(model.calls) == len(own.stages)
    for call, other in zip(rest, blind.calls[1:], strict=True):
        torch.testing.assert_close(call[0], other[0], rtol=0, atol=0)
        assert call[1] == other[1]


@pytest.mark.parametrize("parametrization", ["ve", "flow"])
def test_what_is_seen_lies_on_the_trajectory_of_a_flat_image(parametrization: str) -> None:
    """When the data is one flat image, what the model is shown is where the ODE would be."""
    high, low = (1.0, 0.7) if parametrization == "flow" else (15.0, 9.0)
    noise = randn(2, *SHAPE) * high
    x = noise + alpha(high, parametrization) * flat_image(noise, noise)
    goal = solve(flat_image, x, high, low)
    torch.testing.assert_close(LookAhead(low, MEAN).seen(x, high), goal, rtol=1e-6, atol=1e-6)


def test_no_mean_is_a_mean_of_zero_and_half_precision_is_kept() -> None:
    x = randn(2, *SHAPE, dtype=torch.float32).half()
    assert torch.equal(LookAhead(3.0).seen(x, 6.0), x / 2)
    assert LookAhead(3.0, MEAN).seen(x, 6.0).dtype == torch.float16
    with pytest.raises(dode.DodeError, match="3 channels, but the latent has 4"):
        LookAhead(3.0, MEAN).seen(torch.zeros(1, 4, 2, 2), 6.0)


def test_zero_lambdas_are_the_plain_solver() -> None:
    own = table(columns=1, gain=False)
    own = dode.LambdaTable(
        "ddim", own.sigmas, own.lambdas * 0, learned_sigmas=True, look_ahead=AHEAD
    )
    x, model = randn(2, *SHAPE) * 15, mixture(shape=SHAPE)
    found = dode.sample(model, x, own.sigmas, disable=True, table=own)
    plain = dode.sample(model, x, own.sigmas, disable=True)
    torch.testing.assert_close(found, plain, rtol=0, atol=0)


# Tables and files


def test_a_table_file_carries_it() -> None:
    own = table()
    (back,) = parse_tables(dump_tables([own]))
    assert same(back, own) and back.look_ahead == AHEAD
    assert back.stages[0].look_ahead == AHEAD
    assert not any(stage.look_ahead for stage in back.stages[1:])
    assert "look_ahead" not in document(table(look_ahead=None))["tables"][0]


@pytest.mark.parametrize("sigma", [15.0, 4.0, 0.0, 20.0, math.nan, math.inf])
def test_a_look_outside_of_the_first_step_is_refused(sigma: float) -> None:
    with pytest.raises(dode.TableError, match="between the first two"):
        table(look_ahead=LookAhead(sigma))


def test_absurd_means_are_refused() -> None:
    for mean in [(0.0,) * 257, (math.nan,), (1e5,)]:
        with pytest.raises(dode.TableError, match=f"mean is of {len(mean)} channels"):
            table(look_ahead=LookAhead(9.0, mean))
    with pytest.raises(dode.TableError, match="goes with learned sigmas"):
        table(learned_sigmas=False)


@pytest.mark.parametrize(
    "value", [None, 3, [], {}, {"sigma": 9}, {"sigma": "9", "mean": []}, {"sigma": 9, "mean": [[]]}]
)
def test_malformed_entries_are_refused(value: Any) -> None:
    import json

    entry = document(table())
    entry["tables"][0]["look_ahead"] = value
    with pytest.raises(dode.TableError):
        parse_tables(json.dumps(entry).encode())


# Which runs look ahead


def test_runs_that_start_from_noise_look_and_others_do_not() -> None:
    own = table(steps=6)
    grid = own.sigmas.tolist()
    for run, looks in ((grid, True), (karras(6), True), (grid[:5], True), (grid[2:], False)):
        found = resolve([own], run)
        assert found.kind in ("exact", "slice")
        assert [stage.look_ahead == AHEAD for stage in found.stages] == (
            [looks] + [False] * (len(found.stages) - 1)
        )


def test_a_mean_of_other_channels_is_for_another_model() -> None:
    own = table()
    x = randn(1, 4, 2, 2) * 15
    assert resolve([own], karras(5), channels=3).kind == "exact"
    assert resolve([own], karras(5), channels=4).kind == "uncalibrated"
    plain = table(look_ahead=LookAhead(9.0))
    assert resolve([plain], karras(5), channels=4).kind == "exact"
    found = dode.sample(gaussian(shape=(4, 2, 2)), x, karras(5), disable=True, table=own)
    assert found.isfinite().all()


def test_between_two_cfgs_the_look_lies_between() -> None:
    low, high = (
        table(cfg=cfg, look_ahead=LookAhead(sigma, (mean, 0.0, 1.0)))
        for cfg, sigma, mean in ((1.0, 8.1, 0.2), (3.0, 10.0, 0.4))
    )
    found = between([low, high], low, 2.0)
    assert found is not None and found.look_ahead is not None
    assert found.look_ahead.sigma == pytest.approx(9.0)
    assert found.look_ahead.mean == pytest.approx((0.3, 0.0, 1.0))
    assert between([low, table(cfg=3.0, look_ahead=None)], low, 2.0) is None


@pytest.mark.parametrize("scale", [0.0, 0.5, 1.0, 2.0])
def test_scaled_looks_lie_nearer_or_further(scale: float) -> None:
    own = table()
    found = scaled(resolve([own], own.sigmas.tolist()), own.sigmas.tolist(), scale).stages[0]
    if scale == 0:
        assert found.look_ahead is None
        return
    assert found.look_ahead is not None and found.look_ahead.mean == MEAN
    first, second = own.sigmas[:2].tolist()
    assert second < found.look_ahead.sigma < first
    if scale <= 1:
        assert found.look_ahead.sigma == pytest.approx(first * (9 / first) ** scale)


def test_a_look_is_scaled_before_a_single_step_too() -> None:
    one = made_up(sigmas=[15.0, 0.0], learned_sigmas=True, look_ahead=AHEAD)
    stage = scaled(resolve([one], [15.0, 0.0]), [15.0, 0.0], 2.0).stages[0]
    assert stage.look_ahead is not None and stage.look_ahead.sigma == pytest.approx(9 * 9 / 15)


# Learning it


def far_means(high: float = 80.0) -> tuple[Any, Tensor]:
    """Data around a colour, noise so strong that the first output is little more than it."""
    model = mixture(shape=SHAPE, components=6, std=0.2)
    model.means = model.means + torch.tensor(MEAN).double().repeat_interleave(16) * 2
    return model, start("ve", karras(4, high=high), 12, *SHAPE)


def test_learning_looks_ahead_where_that_helps(monkeypatch: pytest.MonkeyPatch) -> None:
    model, x = far_means()
    grid = karras(4, high=80.0)
    how: dict[str, Any] = {"columns": 2, "gain": True, "learn_sigmas": True}
    own = dode.distill(model, x, grid, **how)
    assert own.look_ahead is not None and own.sigmas[1] < own.look_ahead.sigma < own.sigmas[0]
    assert own.sigmas[0] == grid[0] and own.sigmas[-1] == 0
    first = model(x[:9], x.new_full((9,), 80.0))
    assert own.look_ahead.mean == pytest.approx(first.mean((0, 2, 3)).tolist(), abs=1e-9)
    monkeypatch.setattr(Session, "mean", None)
    blind = dode.distill(model, x, grid, **how)
    assert blind.look_ahead is None
    new = start("ve", grid, 32, *SHAPE, seed=5)
    goal = solve(model, new, 80.0, 1e-4)

    def error(table: dode.LambdaTable) -> float:
        found = dode.sample(model, new, table.sigmas, disable=True, table=table)
        return float((found - goal).flatten(1).square().mean(1).sqrt().median())

    assert error(own) < 0.9 * error(blind)


def test_starts_that_look_ahead_are_learned_from_first(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where others begin lower; those follow while the budget lasts."""
    order = []

    def error(student: Student, run: Run, held_out: bool = False) -> float:
        few = student.samples < 12  # the few that choose starts see it the other way round
        return 1.0 if (run.look_ahead is None) != few else 2.0

    def note(learner: Learner, everyone: Student, fit: Any, run: Run) -> None:
        order.append(run.look_ahead is not None)

    monkeypatch.setattr(Student, "typical_error", error)
    monkeypatch.setattr(Learner, "_round", note)
    model, x = far_means()
    dode.distill(model, x, karras(4, high=80.0), learn_sigmas=True)
    assert order == [True, False]


def test_flow_models_and_vectors_have_no_mean_to_guess() -> None:
    model = mixture("flow", SHAPE)
    x = start("flow", torch.tensor([1.0, 0.5, 0.0]), 8, *SHAPE)
    assert Session(model, Samples(x, batch_size=4), [1.0, 0.5, 0.0], "flow").mean is None
    x = randn(8, 5) * 15
    assert Session(gaussian(shape=(5,)), Samples(x, batch_size=4), [15.0, 1.0], "ve").mean == ()


def test_the_mean_does_not_depend_on_micro_batches() -> None:
    model, x = far_means()
    grid = karras(4, high=80.0).tolist()
    means = [Session(model, Samples(x, batch_size=size), grid, "ve").mean for size in (1, 4, 12)]
    assert means[0] == pytest.approx(means[1]) and means[0] == pytest.approx(means[2])


def test_errors_are_of_what_is_saved() -> None:
    """The table's held-out error is what a run with the saved table gives."""
    model, x = far_means()
    own = dode.distill(model, x, karras(4, high=80.0), columns=2, gain=True, learn_sigmas=True)
    (own,) = parse_tables(dump_tables([own]))
    assert own.look_ahead is not None and own.errors is not None
    session = Session(model, Samples(x, batch_size=12), karras(4, high=80.0).tolist())
    goal = session.trajectories[-1].final
    found = dode.sample(model, x[9:], own.sigmas, disable=True, table=own)
    assert rms(found - goal) == pytest.approx(own.errors.distilled_holdout, rel=1e-9)
