"""The dense teacher, learned sigmas, and many tables from one teacher."""

from __future__ import annotations

import itertools
import math
from typing import Any

import pytest
import torch
from problems import Recorded, gaussian, grid_for, karras, mixture, rms, solve, start
from torch import Tensor

import dode_core as dode
from dode_core.demo.model import load_demo
from dode_core.fit.batches import Batch, Samples
from dode_core.fit.trajectory import (
    DENSE_STEPS,
    choose_nodes,
    dense_grid,
    dense_teacher,
    euler_costs,
)
from dode_core.learn import gauss_newton
from dode_core.learn.gauss_newton import differences, improve, jacobian_cost, size
from dode_core.learn.starts import (
    CENTRES,
    Start,
    fixed_starts,
    log_normal,
    pattern_search,
    rank_starts,
    resampled,
)
from dode_core.learn.student import PATH, Student, robust_weights
from dode_core.match.resolve import resolve
from dode_core.session import Session, dense_target
from dode_core.solve.integrate import State
from dode_core.solve.noise import from_minus_log_snr, minus_log_snr
from dode_core.solve.scheme import Scheme

SHAPE = (2, 3, 3)
BOTH = pytest.mark.parametrize("parametrization", ["ve", "flow"])


def noise(parametrization: str = "ve", count: int = 12, seed: int = 0) -> Tensor:
    return start(parametrization, grid_for(parametrization, 6), count, *SHAPE, seed=seed)


# The dense teacher


@BOTH
def test_dense_output_is_the_exact_solution(parametrization: str) -> None:
    """Between the knots as well as on them, at the teacher's own accuracy."""
    model, x = gaussian(parametrization, SHAPE), noise(parametrization, 3)
    grid = grid_for(parametrization, 6).tolist()
    fine = dense_grid(grid[0], grid[-2], parametrization, 60)
    trajectory = dense_teacher(model, State.begin(x), fine, parametrization)
    between = [math.sqrt(a * b) for a, b in zip(fine[:-2], fine[1:-1], strict=True)]
    expected, last = x, grid[0]
    for sigma in sorted([*fine[1:-1:7], *between[::7]], reverse=True):
        expected, last = solve(model, expected, last, sigma, steps=60), sigma
        assert rms(trajectory.at(sigma) - expected) < 2e-3 * rms(expected)
    assert trajectory.at(fine[5]) is trajectory.x[5] and trajectory.at(0) is trajectory.final
    for outside in (2 * fine[0], 0.5 * fine[-2]):
        with pytest.raises(dode.CalibrationError, match="covers sigma"):
            trajectory.at(outside)


@pytest.mark.parametrize("coefficient", [0.8, 1.0, 1.3])
def test_nodes_are_the_cheapest_of_all(coefficient: float) -> None:
    """Dynamic programming against trying every choice."""
    generator = torch.Generator().manual_seed(3)
    sigmas = [8.0, 5.0, 3.0, 2.0, 1.0, 0.5, 0.0]
    costs = torch.rand(7, 7, generator=generator, dtype=torch.float64).triu(1)

    def total(nodes: tuple[int, ...]) -> float:
        path = (0, *nodes, 6)
        value = 0.0
        for a, b in reversed(list(itertools.pairwise(path))):
            value = float(costs[a, b].sqrt()) + coefficient * value
        return value

    for steps in (1, 2, 3, 5):
        best = min(itertools.combinations(range(1, 6), steps - 1), key=total)
        found = choose_nodes(sigmas, costs, steps, coefficient)
        assert found == [sigmas[i] for i in (0, *best, 6)]


def test_euler_costs_vanish_on_a_straight_path() -> None:
    """A model whose noise estimate never changes: Euler is exact between any two knots."""

    def straight(x: Tensor, sigma: Tensor) -> Tensor:
        return torch.ones_like(x) * 0.3

    trajectory = dense_teacher(straight, State.begin(noise(count=2)), dense_grid(15, 0.1, "ve", 9))
    assert float(euler_costs([trajectory]).max()) < 1e-20


# Running from the middle, and one iteration


def student(
    columns: int = 2,
    gain: bool = True,
    held_out: bool = False,
    parametrization: str = "ve",
    mean: tuple[float, ...] | None = None,
) -> Student:
    model, x = mixture(parametrization, SHAPE), noise(parametrization)
    high, low = (1.0, 0.02) if parametrization == "flow" else (15.0, 0.02)
    state = State.begin(x)
    trajectory = dense_teacher(
        model, state, dense_grid(high, low, parametrization, 40), parametrization
    )
    batch = Batch(state, dense_target(trajectory), trajectory.final, held_out, len(x))
    return Student(model, [batch], Scheme.of("ddim", parametrization, columns, gain), mean)


@pytest.mark.parametrize("solver", ["ddim", "deis", "heun", "dpm_solver_2", "dpmpp_2m"])
@pytest.mark.parametrize("refit", [True, False])
def test_a_run_from_the_middle_is_a_whole_run(solver: str, refit: bool) -> None:
    """Moving one sigma re-runs from there only, and changes nothing else."""
    runner = student(1, False)
    runner.scheme = Scheme.of(solver, "ve")
    model = Recorded(runner.model)
    runner.model = model
    base = runner.run(karras(6))
    for j in range(1, 6):
        sigmas = karras(6).tolist()
        sigmas[j] *= 1.1
        lambdas = None if refit else base.lambdas
        before = len(model.calls)
        partial = runner.run(sigmas, lambdas, base)
        taken = len(model.calls) - before
        whole = runner.run(sigmas, lambdas)
        assert taken < len(whole.stages)
        torch.testing.assert_close(partial.finals[0].x, whole.finals[0].x, rtol=0, atol=0)
        assert partial.lambdas == whole.lambdas


def test_a_round_lowers_what_is_learned_and_keeps_the_order() -> None:
    runner = student()
    run = runner.run(karras(5))
    for _ in range(2):
        found = improve(runner, run, 0.03, 4)
        assert found is not None
        weights = robust_weights(runner.path(run).square().mean(1))
        assert size(runner.path(found), weights) < size(runner.path(run), weights)
        assert found.sigmas[0] == run.sigmas[0] and found.sigmas[-1] == 0
        assert all(a > b for a, b in itertools.pairwise(found.sigmas))
        run = found


@pytest.mark.parametrize(
    ("parametrization", "mean", "columns"),
    [("ve", None, 2), ("flow", None, 2), ("ve", (0.1, -0.2), 2), ("ve", None, 1)],
)
def test_the_jacobian_is_the_derivative(
    parametrization: str,
    mean: tuple[float, ...] | None,
    columns: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Small forward differences along every parameter against central ones, at the stated cost."""
    monkeypatch.setattr(gauss_newton, "PERTURBATION", 2e-3)
    monkeypatch.setattr(gauss_newton, "LAMBDA_PERTURBATION", 2e-3)
    runner = student(2, False, parametrization=parametrization, mean=mean)
    nodes = grid_for(parametrization, 4).tolist()
    run = runner.run(nodes if mean is None else [nodes[0], 9.0, *nodes[1:]])
    model = Recorded(runner.model)
    runner.model = model
    jacobian = differences(runner, run, columns)
    assert sum(len(call[0]) for call in model.calls) == 12 * jacobian_cost(run, columns)
    inner = len(run.nodes) - 2
    assert len(jacobian.values) == inner + len(jacobian.places)

    def residual(p: int, delta: float) -> Tensor:
        nodes, lambdas = list(run.nodes), [list(row) for row in run.lambdas]
        if p < inner:
            at = minus_log_snr(nodes[p + 1], parametrization) + delta
            nodes[p + 1] = from_minus_log_snr(at, parametrization)
        else:
            k, i = jacobian.places[p - inner]
            lambdas[k][i] += delta
        return runner.path(runner.run(nodes, lambdas))

    for p, found in enumerate(jacobian.values):
        exact = (residual(p, 2e-3) - residual(p, -2e-3)) / 4e-3
        assert rms(found - exact) < 0.03 * rms(exact)


def test_the_path_holds_the_final_residual_and_a_share_of_every_state() -> None:
    runner = student()
    run = runner.run(karras(4))
    path, final = runner.path(run), runner.residuals(run)
    elements = final.shape[1]
    torch.testing.assert_close(path[:, :elements], final)
    trajectory = runner.batches[0].target
    rest = []
    for k in range(3):
        state = run.checkpoints[k + 1][0].x - trajectory(k, run.stages[k])
        rest.append(state.reshape(12, -1).double()[:, k::4] * PATH * 2)
    torch.testing.assert_close(path[:, elements:], torch.cat(rest, 1))


def test_broyden_makes_the_jacobian_explain_the_step() -> None:
    runner = student()
    run = runner.run(karras(4))
    jacobian = differences(runner, run, runner.width)
    generator = torch.Generator().manual_seed(0)
    size, *shape = jacobian.values.shape
    step = torch.randn(size, generator=generator, dtype=torch.float64)
    change = torch.randn(shape, generator=generator, dtype=torch.float64)
    scale = torch.rand(size, generator=generator, dtype=torch.float64) + 0.5
    before = jacobian.values.clone()
    jacobian.correct(step, scale, change)
    explained = torch.einsum("p,pnd->nd", step, jacobian.values.double())
    torch.testing.assert_close(explained, change, rtol=1e-5, atol=1e-5)
    orthogonal = torch.randn(size, generator=generator, dtype=torch.float64)
    direction = step * scale.square()
    orthogonal -= direction * (orthogonal @ direction) / (direction @ direction)
    kept = torch.einsum("p,pnd->nd", orthogonal, (jacobian.values - before).double())
    assert rms(kept) < 1e-5  # and nothing else


# Starts


@BOTH
def test_log_normal_grids(parametrization: str) -> None:
    """Symmetric about the centre on the line; None where they do not fit."""
    high = 1.0 if parametrization == "flow" else 80.0
    grid = log_normal(7, high, 0.002, 0.2, 1.1, parametrization)
    assert grid is not None and grid[0] == high and grid[-1] == 0 and len(grid) == 8
    line = [minus_log_snr(sigma, parametrization) for sigma in grid[1:-1]]
    assert line[2] == pytest.approx(0.2)
    assert [line[i] + line[4 - i] for i in range(3)] == pytest.approx([0.4] * 3)
    assert log_normal(7, high, 0.5, 0.2, 1.1, parametrization) is None
    if parametrization == "ve":
        assert log_normal(7, 1.5, 0.002, 0.2, 1.1, "ve") is None


@BOTH
def test_resampling_keeps_the_shape(parametrization: str) -> None:
    """A log-normal grid at other step counts is the log-normal grid of that count."""
    high = 1.0 if parametrization == "flow" else 80.0
    shape = 0.2, 1.1, parametrization
    grid = log_normal(6, high, 0.002, *shape)
    assert grid is not None
    for steps in (2, 4, 6, 9):
        assert resampled(grid, steps, parametrization) == pytest.approx(
            log_normal(steps, high, 0.0, *shape)
        )
    assert resampled([*grid[:-1], 0.01], 5, parametrization) is None


def test_pattern_search_finds_the_least() -> None:
    calls = []

    def value(point: tuple[float, float]) -> float:
        calls.append(point)
        return (point[0] - 2.2) ** 2 + (point[1] - 0.7) ** 2

    found = pattern_search(value, CENTRES["ve"], 40)
    assert found is not None and abs(found[0] - 2.2) < 0.25 and abs(found[1] - 0.7) < 0.25
    assert len(calls) == len(set(calls)) <= 40
    calls.clear()
    pattern_search(value, CENTRES["ve"], 5)
    assert len(calls) == 5
    assert pattern_search(lambda point: math.inf, CENTRES["ve"], 9) is None


def test_starts_are_ranked_and_the_user_s_grid_is_among_them() -> None:
    runner = student()
    trajectory = dense_teacher(runner.model, State.begin(noise()), dense_grid(15.0, 0.03, "ve", 30))
    good = rank_starts(runner, None, [trajectory], karras(5).tolist(), [], 0.03, 30)[0]
    poor = [15.0, 14.9, 14.8, 14.7, 14.6, 0.0]
    ranked = rank_starts(runner, None, [trajectory], poor, [good], 0.03, 30)
    assert good in ranked and ranked[-1] == Start(tuple(poor))
    errors = [runner.typical_error(runner.run(start.nodes)) for start in ranked]
    assert errors == sorted(errors)
    assert rank_starts(runner, None, [trajectory], poor, [], 0.03, 0) == [Start(tuple(poor))]


@BOTH
def test_high_order_rows_are_those_of_order_three(parametrization: str) -> None:
    """DDIM with these lambdas is DEIS, or for flow models iPNDM while that is of order 3."""
    flow = parametrization == "flow"
    count = 14 if not flow else 3  # iPNDM's fourth stage is of order 4
    sigmas = dense_grid(1.0, 0.03, "flow", 14) if flow else karras(14).tolist()
    sigmas = sigmas[: count + 1]
    runner, peer = (
        student(parametrization=parametrization),
        student(parametrization=parametrization),
    )
    peer.scheme = Scheme("ipndm" if flow else "deis", parametrization)
    rows = runner.high_order(sigmas)
    assert rows is not None and any(row[1] for row in rows)
    same, other = runner.run(sigmas, rows).finals[0].x, peer.run_plain(sigmas).finals[0].x
    assert torch.allclose(same, other, atol=1e-4 * float(other.abs().max()))
    assert not torch.allclose(runner.run_plain(sigmas).finals[0].x, other, atol=1e-3)


def test_high_order_rows_of_flow_models_stay_of_order_three() -> None:
    rows = student(parametrization="flow").high_order(dense_grid(1.0, 0.03, "flow", 14))
    assert rows is not None
    assert rows[1] == pytest.approx([0.5, 0, 0])
    assert all(row == pytest.approx([11 / 12, -5 / 12, 0]) for row in rows[2:])


def test_high_order_rows_need_the_columns() -> None:
    assert student(columns=1).high_order(karras(14).tolist()) is None
    assert student(mean=(0.0,)).high_order(karras(14).tolist()) is None
    other = student()
    other.scheme = Scheme("ipndm", "ve", other.scheme.directions)
    assert other.high_order(karras(14).tolist()) is None


@pytest.mark.parametrize("cfg", [1.0, 7.0])
def test_the_dense_teacher_is_converged_under_guidance(cfg: float) -> None:
    """On the demo model; 30 evaluations were 0.035 off in the median at cfg 7."""
    generator, args = torch.Generator().manual_seed(1), {"labels": torch.arange(4), "cfg": cfg}
    x = torch.randn(4, 3, 32, 32, generator=generator) * 80
    model, low = load_demo(), 0.002
    goal = dode.sample(model, x, karras(40, low, 80.0), args, solver="heun", disable=True)
    grid = dense_grid(80.0, low, "ve", DENSE_STEPS)
    final = dense_teacher(model, State.begin(x, args), grid).final
    errors = (final - goal).square().flatten(1).mean(1).sqrt()
    assert float(errors.median()) < (0.005 if cfg == 1 else 0.02)


def test_long_runs_do_not_fall_behind_deis() -> None:
    """On the fit samples, which choose among the rows of a start."""
    model, x, sigmas = mixture("ve", SHAPE), noise(), karras(16)
    table = dode.distill(model, x, sigmas, columns=2, gain=True, learn_sigmas=True)
    goal = dode.sample(model, x[:9], karras(96), solver="heun", disable=True)

    def error(**how: Any) -> float:
        grid = how["table"].sigmas if "table" in how else sigmas
        final = dode.sample(model, x[:9], grid, disable=True, **how)
        return float((final - goal).square().mean())

    assert error(table=table) < error(solver="deis")


@pytest.mark.parametrize(("steps", "tried"), [(12, False), (13, True)])
def test_long_flow_runs_try_a_half_cosine(steps: int, tried: bool) -> None:
    runner = student(parametrization="flow")
    sigmas = [1 - i / steps for i in range(steps)] + [0.0]
    cosine = dense_grid(1.0, 0.02, "flow", steps)
    trajectory = dense_teacher(
        runner.model, State.begin(noise("flow")), dense_grid(1.0, 0.02, "flow", 40), "flow"
    )
    grids = list(fixed_starts(runner, [trajectory], sigmas, 0.02))
    assert (cosine in grids) == tried
    assert all(len(grid) == steps + 1 and grid == sorted(grid, reverse=True) for grid in grids)


def test_robust_weights() -> None:
    squares = torch.tensor([1.0, 1.1, 0.9, 100.0], dtype=torch.float64)
    weights = robust_weights(squares)
    assert math.isclose(float(weights.mean()), 1) and float(weights[3]) < 0.1 * float(weights[0])


# distill(..., learn_sigmas=True)


@BOTH
def test_learned_sigmas_help_on_new_noise(parametrization: str) -> None:
    model = Recorded(mixture(parametrization, SHAPE, std=0.3))
    sigmas = grid_for(parametrization, 5)
    options = {"parametrization": parametrization, "columns": 2, "gain": True}
    table = dode.distill(model, noise(parametrization), sigmas, learn_sigmas=True, **options)
    assert table.learned_sigmas and table.errors is not None and table.errors.ratio < 0.9
    evaluated = sum(len(call[0]) for call in model.calls)
    assert math.isclose(table.evaluations, evaluated / 12) and table.evaluations <= 300
    new = noise(parametrization, 32, seed=7)
    goal = solve(model, new, float(sigmas[0]), 1e-4)

    def error(table: dode.LambdaTable, sigmas: Tensor) -> float:
        """Of the median sample: a few fork to another mode, whatever the solver."""
        found = dode.sample(model, new, sigmas, disable=True, table=table)
        return float((found - goal).flatten(1).square().mean(1).sqrt().median())

    fixed = dode.distill(model, noise(parametrization), sigmas, **options)
    assert error(table, table.sigmas) < 0.5 * error(fixed, sigmas)


def test_budget_is_kept() -> None:
    for budget in (80, 120, 300):
        model = Recorded(mixture(shape=SHAPE))
        table = dode.distill(model, noise(), karras(6), learn_sigmas=True, budget=budget)
        assert table.evaluations <= budget
        assert table.errors is not None and table.errors.ratio <= 1


def test_learned_errors_are_what_a_user_sees() -> None:
    model, x = mixture(shape=SHAPE), noise()
    table = dode.distill(model, x, karras(5), learn_sigmas=True, columns=2)
    assert table.errors is not None and table.samples_holdout == 3
    goal = dense_teacher(
        model, State.begin(x[9:]), dense_grid(15.0, karras(5)[-2], "ve", DENSE_STEPS)
    ).final
    found = dode.sample(model, x[9:], table.sigmas, disable=True, table=table)
    assert math.isclose(rms(found - goal), table.errors.distilled_holdout, rel_tol=1e-9)
    plain = dode.sample(model, x[9:], karras(5), disable=True)
    assert math.isclose(rms(plain - goal), table.errors.plain_holdout, rel_tol=1e-9)


def test_nothing_to_learn_keeps_the_grid() -> None:
    """The model's noise estimate is constant: the plain solver is exact on any grid."""

    def straight(x: Tensor, sigma: Tensor) -> Tensor:
        return torch.zeros_like(x)

    table = dode.distill(straight, noise(), karras(5), learn_sigmas=True)
    assert not table.learned_sigmas and not table.helps
    assert table.sigmas.tolist() == karras(5).tolist() and not table.lambdas.any()


def test_learning_refuses_targets_and_ascending_grids() -> None:
    def learn(sigmas: Any, targets: Tensor | None = None) -> None:
        dode.distill(mixture(shape=SHAPE), noise(), sigmas, targets=targets, learn_sigmas=True)

    with pytest.raises(dode.CalibrationError, match="its own teacher"):
        learn(karras(3), torch.zeros(3, 12, *SHAPE))
    for sigmas in ([1.0, 2.0, 4.0], [4.0, 2.0, 2.0, 1.0]):
        with pytest.raises(dode.CalibrationError, match="descending grid"):
            learn(sigmas)


def test_learning_is_deterministic() -> None:
    a, b = (dode.distill(mixture(shape=SHAPE), noise(), karras(5), learn_sigmas=True) for _ in "ab")
    assert torch.equal(a.sigmas, b.sigmas) and torch.equal(a.lambdas, b.lambdas)


# distill_many


@pytest.mark.parametrize("learn", [False, True])
def test_one_teacher_for_all(learn: bool) -> None:
    model = Recorded(mixture(shape=SHAPE))
    grids = [karras(n) for n in (4, 6)]
    done: list[tuple[int, int]] = []
    tables = dode.distill_many(
        model,
        noise(),
        grids,
        ["ddim", "dpmpp_2m"],
        settings=[(1, False), (2, True)],
        learn_sigmas=learn,
        budget=800 if learn else None,
        progress=lambda n, total, x: done.append((n, total)),
    )
    assert len(tables) == 8
    assert [(t.steps, t.solver, t.columns, t.gain) for t in tables[:3]] == [
        (4, "ddim", 1, False),
        (4, "ddim", 2, True),
        (4, "dpmpp_2m", 1, False),
    ]
    evaluated = sum(len(call[0]) for call in model.calls)
    assert math.isclose(sum(t.evaluations for t in tables), evaluated / 12)
    assert all(n <= total for n, total in done) and done[-1][0] == done[-1][1]
    assert all(t.evaluations < 70 for t in tables[1:]) or learn
    assert not learn or sum(t.evaluations for t in tables) <= 800
    best = dode.best_tables(tables)
    assert list(best) == [4, 6]
    for nfe, table in best.items():
        others = [t.errors.distilled_holdout for t in tables if len(t.stages) == nfe]
        assert table.errors.distilled_holdout == min(others)


def test_grids_of_one_session_share_their_ends() -> None:
    with pytest.raises(dode.CalibrationError, match="same sigmas"):
        dode.distill_many(mixture(shape=SHAPE), noise(), [karras(4), karras(4) * 2])


def test_the_teacher_runs_once() -> None:
    model = Recorded(mixture(shape=SHAPE))
    session = Session(model, Samples(noise(), batch_size=16), karras(5).tolist())
    first, second = session.dense(), session.dense()
    assert len(model.calls) == DENSE_STEPS * len(session.parts)
    assert first[0].final is second[0].final


# Resolving a learned table


def test_a_learned_table_brings_its_sigmas() -> None:
    own = [15.0, 4.0, 1.0, 0.3, 0.0]
    rows = torch.full((4, 1), 0.3, dtype=torch.float64)
    asked = {"learned_sigmas": True, "asked_sigmas": karras(4)}
    table = dode.LambdaTable("ddim", torch.tensor(own), rows, **asked)
    found = resolve([table], karras(4))
    assert found.kind == "exact" and [s.sigma for s in found.stages] == pytest.approx(own[:-1])
    assert found.lambdas == [(0.3,)] * 4
    assert resolve([table], karras(4)[1:]).kind != "exact"
    assert resolve([table], karras(5)).kind != "exact"
