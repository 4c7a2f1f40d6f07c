"""What cannot be distilled says so before the work: step caches, models that jump already."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from problems import grid_for, mixture, start
from torch import Tensor

import dode_core as dode
from dode_core.demo.model import IMAGE_SHAPE, load_demo
from dode_core.fit.few_step import already_few_step, evaluations, few_step_grid
from dode_core.fit.steady import EVALUATIONS, check_steady
from dode_core.solve.integrate import evaluated
from dode_core.solve.solvers import get_solver
from dode_core.solve.stages import LookAhead

KINDS = ("ve", "flow")


class Cache:
    """A step cache: while the input changes little, the last change is used again."""

    def __init__(self, model: Any, breaks: bool = False, threshold: float = 0.2) -> None:
        self.model, self.breaks, self.before = model, breaks, None
        self.threshold, self.skipped = threshold, 0

    def __call__(self, x: Tensor, sigma: Tensor, **extra_args: Any) -> Tensor:
        if self.before is not None:
            seen, found = self.before
            if self.breaks:
                raise TypeError("unsupported operand type(s) for *: 'Tensor' and 'NoneType'")
            if float((x - seen).norm()) < self.threshold * float(seen.norm()):
                self.skipped += 1
                return x + (found - seen)
        found = self.model(x, sigma, **extra_args)
        self.before = x, found
        return found


@pytest.mark.parametrize("kind", KINDS)
def test_a_step_cache_is_named(kind: str) -> None:
    grid = grid_for(kind, 6)
    x = start(kind, grid, 2, 2, 3, 3)
    check_steady(mixture(kind), x, float(grid[0]), kind)
    for breaks in (False, True):
        with pytest.raises(dode.CalibrationError, match="step cache .* take it off"):
            check_steady(Cache(mixture(kind), breaks), x, float(grid[0]), kind)


def test_an_error_of_the_model_itself_stays_what_it_is() -> None:
    def broken(x: Tensor, sigma: Tensor, **extra_args: Any) -> Tensor:
        raise ValueError("no conditioning")

    with pytest.raises(ValueError, match="no conditioning"):
        check_steady(broken, torch.ones(2, 3), 80.0, "ve")


@pytest.mark.parametrize("kind", KINDS)
def test_a_model_that_jumps_has_nothing_to_distil(kind: str) -> None:
    """Straight paths, as a rectified or distilled model has; a mixture's are curved."""
    goal = torch.randn(5, 2, 3, 3, generator=torch.Generator().manual_seed(1), dtype=torch.float64)

    def jumps(x: Tensor, sigma: Tensor, **extra_args: Any) -> Tensor:
        return goal[: len(x)] + 0 * x

    for steps in (4, 8, 16):
        grid = grid_for(kind, steps)
        x = start(kind, grid, 5, 2, 3, 3)
        assert already_few_step(mixture(kind), x, grid.tolist(), kind) == ""
        said = already_few_step(jumps, x, grid.tolist(), kind)
        assert "already few-step; nothing to distil" in said
        assert already_few_step(jumps, x[:3], grid.tolist(), kind) == ""
        assert already_few_step(lambda x, *_, **__: x / 0, x, grid.tolist(), kind) == ""


def test_guidance_makes_no_model_few_step() -> None:
    """At cfg 7 eight steps of DPM++ 2M are further off than four of DDIM, on an ordinary model."""
    model, calls = load_demo("emoji_edm"), 0

    def counted(x: Tensor, sigma: Tensor, **extra_args: Any) -> Tensor:
        nonlocal calls
        calls += 1
        return model(x, sigma, **extra_args)

    grid = few_step_grid(80.0, 0.002, "ve")
    x = 80 * torch.randn(4, *IMAGE_SHAPE, generator=torch.Generator().manual_seed(5))
    args = {"labels": torch.arange(4), "cfg": 7.0}
    assert already_few_step(counted, x, grid, "ve", args) == ""
    assert calls == 15 * 4  # a first look said that it was
    assert evaluations(4, 4) == (7 * 4 + 8) * 4 and evaluations(4, 3) == 0
    assert already_few_step(counted, x, grid, "ve", args | {"cfg": 1.0}) == ""
    assert calls == (15 + 7) * 4


def test_no_more_samples_at_once_than_are_asked_for() -> None:
    """Somebody distils one at a time because two do not fit."""
    most: list[int] = []

    def model(x: Tensor, sigma: Tensor, **extra_args: Any) -> Tensor:
        most.append(len(x))
        return mixture("ve")(x, sigma)

    grid = grid_for("ve", 4)
    x = start("ve", grid, 5, 2, 3, 3)
    check_steady(model, x, float(grid[0]), "ve")
    assert most == [1] * EVALUATIONS
    already_few_step(model, x, grid.tolist(), "ve", batch_size=2)
    assert set(most[EVALUATIONS:]) == {2}


def test_what_a_first_look_does_not_judge() -> None:
    """Too little memory has its own sentence; what is not finite is the calibration's to name."""
    x = start("ve", grid_for("ve", 4), 2, 2, 3, 3)

    def full(x: Tensor, sigma: Tensor, **extra_args: Any) -> Tensor:
        raise RuntimeError("CUDA out of memory.")

    with pytest.raises(dode.CalibrationError, match="Memory ran out with one latent"):
        check_steady(full, x, 80.0, "ve")
    check_steady(lambda x, sigma, **_: x * float("nan"), x, 80.0, "ve")


@pytest.mark.parametrize("threshold", [0.15, 0.2, 0.4])
def test_caches_of_any_strength(threshold: float) -> None:
    """Steps of the first look are as small as those of a run in which one would skip."""
    grid = grid_for("ve", 20)
    x = start("ve", grid, 2, 2, 3, 3)
    cache = Cache(mixture("ve"), threshold=threshold)
    dode.sample(cache, x, grid, solver="ddim")
    assert cache.skipped
    with pytest.raises(dode.CalibrationError, match="step cache"):
        check_steady(Cache(mixture("ve"), threshold=threshold), x, float(grid[0]), "ve")


class Listening:
    """Keeps what it is told, and every sigma that it was not told of."""

    def __init__(self, model: Any) -> None:
        self.model, self.runs, self.missing = model, [], []

    def begin_run(self, sigmas: list[float]) -> None:
        self.runs.append(list(sigmas))

    def __call__(self, x: Tensor, sigma: Tensor, **extra_args: Any) -> Tensor:
        if float(sigma[0]) not in self.runs[-1]:
            self.missing.append(float(sigma[0]))
        return self.model(x, sigma, **extra_args)


@pytest.mark.parametrize("learn", [False, True])
def test_every_trajectory_of_a_distillation_is_told(learn: bool) -> None:
    grid = grid_for("ve", 4)
    x = start("ve", grid, 6, 2, 3, 3)
    model = Listening(mixture("ve"))
    how: Any = {"learn_sigmas": True, "budget": 120, "columns": 2} if learn else {}
    table = dode.distill(model, x, grid, parametrization="ve", batch_size=2, **how)
    assert not model.missing and len({tuple(run) for run in model.runs}) > 1
    model.runs.clear()
    dode.sample(model, x, grid, table=table)
    assert model.runs == [evaluated(table.stages)] and not model.missing


def test_what_a_run_asks_about() -> None:
    """Every sigma once, look ahead and middle evaluations included, and the end."""
    grid = [80.0, 9.0, 2.0, 0.0]
    ahead = get_solver("ddim").stages(grid, look_ahead=LookAhead(30.0))
    assert evaluated(ahead) == [30.0, 9.0, 2.0, 0.0]
    assert evaluated(get_solver("heun").stages(grid)) == grid
    middle = evaluated(get_solver("dpm_solver_2").stages([80.0, 9.0, 2.0, 0.5]))
    assert middle == sorted(middle, reverse=True) and middle[-1] == 0.5
    assert evaluated([]) == []


def test_a_denoiser_that_says_no_gets_no_look_ahead() -> None:
    grid = grid_for("ve", 4)
    x = start("ve", grid, 6, 2, 3, 3)
    how: Any = {"learn_sigmas": True, "budget": 160, "columns": 2, "gain": True}
    model = mixture("ve")
    assert dode.distill(model, x, grid, **how).look_ahead is not None
    model.look_ahead = False
    assert dode.distill(model, x, grid, **how).look_ahead is None
