"""What ``distill`` refuses, in one sentence, and the unusual grids that it does not."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from problems import grid_for, karras, mixture, randn, start
from torch import Tensor

import dode_core as dode
from dode_core.fit.teacher import Teacher

SHAPE = (2, 3, 3)
EVERY = pytest.mark.parametrize("solver", dode.SOLVERS)


def noise(samples: int = 8) -> Tensor:
    return randn(samples, *SHAPE) * 15.0


# Refusals


@pytest.mark.parametrize("bad", [math.nan, math.inf])
@pytest.mark.parametrize("where", ["student", "teacher"])
def test_a_model_that_is_not_finite(bad: float, where: str) -> None:
    """An fp16 overflow: the message names the sigma where it happened."""
    sigmas = karras(4)
    broken = float(sigmas[2]) if where == "student" else 1.0

    def model(x: Tensor, sigma: Tensor) -> Tensor:
        hit = abs(float(sigma[0]) - broken) < 0.3 * broken
        return base(x, sigma) * (bad if hit else 1.0)

    base = mixture(shape=SHAPE)
    with pytest.raises(dode.CalibrationError, match=r"not finite.* sigma [0-9.]+"):
        dode.distill(model, noise(), sigmas, "ddim", teacher=Teacher("dpmpp_2m", 5))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"solver": "euler"}, "'euler' is unknown.*ddim"),
        ({"sigmas": [3.0]}, "at least two"),
        ({"sigmas": [3.0, 0.0, 1.0]}, "sigma 0 at position 1"),
        ({"sigmas": [3.0, math.nan]}, "nan"),
        ({"sigmas": []}, "0 sigmas"),
        ({"sigmas": torch.ones(2, 2)}, "1-D"),
        ({"x": torch.zeros(3)}, r"shape \(3,\)"),
        ({"x": torch.zeros(0, 4)}, r"shape \(0, 4\)"),
        ({"x": torch.zeros(2, 18, dtype=torch.long)}, "noise"),
        ({"holdout": 1.0}, "holdout is 1.0"),
        ({"holdout": -0.1}, "holdout is -0.1"),
        ({"holdout": math.nan}, "holdout is nan"),
        ({"batch_size": 0}, "batch_size is 0"),
        ({"columns": 0}, "columns is 0"),
        ({"columns": 4}, "columns is 4"),
        ({"parametrization": "vp"}, "'vp' is unknown"),
        ({"targets": torch.zeros(3, 8, 2, 3, 3)}, r"expected \(4, 8, 2, 3, 3\)"),
        ({"solver": "heun", "targets": torch.zeros(4, 8, 2, 3, 3)}, r"expected \(7, 8"),
        ({"teacher": ("dpmpp_2m", 0)}, "sub-steps is 0"),
        ({"teacher": ("euler", 5)}, "'euler' is unknown"),
        ({"teacher": ("dpm_solver_2", 5)}, "multiple"),
    ],
)
def test_refusals(change: dict[str, Any], words: str) -> None:
    """One sentence of ours, that names the value, before the model is called."""
    arguments: dict[str, Any] = {"x": noise(), "sigmas": karras(4), "solver": "ddim"} | change

    def model(x: Tensor, sigma: Tensor) -> Tensor:
        assert "teacher" in change, "the model was called"
        return mixture(shape=SHAPE)(x, sigma)

    with pytest.raises(dode.DodeError, match=words):
        if "teacher" in arguments:
            arguments["teacher"] = Teacher(*arguments["teacher"])
        dode.distill(model, **arguments)


# Unusual grids


@EVERY
@pytest.mark.parametrize("grid", ["ends above 0", "ascending", "repeated", "one step"])
def test_unusual_grids(solver: str, grid: str) -> None:
    sigmas = {
        "ends above 0": karras(4, zero=False).tolist(),
        "ascending": [0.5, 1.0, 2.0, 4.0],
        "repeated": [15.0, 5.0, 5.0, 1.0, 0.0],
        "one step": [15.0, 0.0],
    }[grid]
    model = mixture(shape=SHAPE)
    table = dode.distill(model, noise() / 15 * sigmas[0], sigmas, solver)
    assert table.errors is not None and table.errors.ratio is not None
    assert table.errors.ratio <= 1 and table.sigmas.tolist() == sigmas


def test_grids_that_come_back_to_a_sigma() -> None:
    """Up and down again: each stage's goal is the teacher's state at that stage."""
    model, sigmas = mixture(shape=SHAPE), [15.0, 3.0, 8.0, 3.0, 0.5, 0.0]
    table = dode.distill(model, noise(), sigmas, "ddim", holdout=0)
    goals = Teacher().states(model, noise(), sigmas)
    expected = dode.distill(model, noise(), sigmas, "ddim", holdout=0, targets=goals)
    torch.testing.assert_close(table.lambdas, expected.lambdas, rtol=1e-9, atol=1e-12)


def test_a_lambda_that_explodes_is_no_error() -> None:
    """One sample, many steps: q is tiny at large sigma, and nothing is held out to notice."""
    x = randn(1, *SHAPE) * 80
    table = dode.distill(mixture(shape=SHAPE), x, karras(40, 0.002, 80.0), "heun")
    assert table.samples_holdout == 0 and table.lambdas.isfinite().all()


def test_flow_is_recognised() -> None:
    sigmas = grid_for("flow", 4)
    table = dode.distill(mixture("flow", SHAPE), start("flow", sigmas, 4, *SHAPE), sigmas)
    assert table.parametrization == "flow"
