"""D- solvers with lambdas for which ComfyUI ships the very same sampler."""

from __future__ import annotations

import math
from collections.abc import Callable
from types import ModuleType

import pytest
import torch
from problems import Mixture, grid_for, mixture, start
from torch import Tensor

import dode_core as dode

SHAPE = (2, 3, 3)
ENDS = pytest.mark.parametrize("zero", [True, False], ids=["to0", "above0"])
COUNTS = pytest.mark.parametrize("steps", [1, 2, 3, 5, 8, 13])
BOTH = pytest.mark.parametrize("parametrization", ["ve", "flow"])
Golden = Callable[[list[float], int], float]


def distilled(
    model: Mixture, x: Tensor, sigmas: Tensor, golden: Golden, solver: str = "ddim"
) -> Tensor:
    """The D- solver; the peers take a plain first step, and a plain last one to sigma 0."""
    s = sigmas.tolist()
    inner = range(1, len(s) - 1)
    lambdas = [golden(s, k) if k in inner and s[k + 1] > 0 else 0.0 for k in range(len(s) - 1)]
    rows = torch.tensor(lambdas, dtype=torch.float64)[:, None]
    table = dode.LambdaTable(solver, sigmas, rows, model.parametrization)
    return dode.sample(model, x, sigmas, disable=True, table=table)


def adams_bashforth(s: list[float], k: int) -> float:
    """h_k / (2 h_{k-1})"""
    return (s[k + 1] - s[k]) / (2 * (s[k] - s[k - 1]))


def log_snr_ratio(s: list[float], k: int) -> float:
    """(log step) / (2 x last log step)"""
    return math.log(s[k + 1] / s[k]) / (2 * math.log(s[k] / s[k - 1]))


@BOTH
@COUNTS
@ENDS
@pytest.mark.parametrize(
    ("golden", "name", "options"),
    [
        (lambda s, k: 1.0, "sample_gradient_estimation", {"ge_gamma": 2.0}),
        (lambda s, k: 0.6, "sample_gradient_estimation", {"ge_gamma": 1.6}),
        (lambda s, k: 0.5, "sample_ipndm", {"max_order": 2}),
        (adams_bashforth, "sample_ipndm_v", {"max_order": 2}),
        (adams_bashforth, "sample_lms", {"order": 2}),
    ],
    ids=["gradient_estimation", "gamma_1.6", "ipndm_2", "ipndm_v_2", "lms_2"],
)
def test_ddim(
    comfy_sampling: ModuleType,
    golden: Golden,
    name: str,
    options: dict[str, float],
    zero: bool,
    steps: int,
    parametrization: str,
) -> None:
    sigmas = grid_for(parametrization, steps, zero)
    model, x = mixture(parametrization, SHAPE), start(parametrization, sigmas, 3, *SHAPE)
    peer = getattr(comfy_sampling, name)(model, x, sigmas, disable=True, **options)
    found = distilled(model, x, sigmas, golden)
    torch.testing.assert_close(found, peer, rtol=0, atol=1e-10)
    if steps > 3:
        plain = comfy_sampling.sample_euler(model, x, sigmas, disable=True)
        assert (found - plain).abs().max() > 1e-3


@COUNTS
@ENDS
def test_ddim_x0_is_dpmpp_2m(comfy_sampling: ModuleType, zero: bool, steps: int) -> None:
    sigmas = grid_for("ve", steps, zero)
    model, x = mixture(shape=SHAPE), start("ve", sigmas, 3, *SHAPE)
    peer = comfy_sampling.sample_dpmpp_2m(model, x, sigmas, disable=True)
    found = distilled(model, x, sigmas, log_snr_ratio, "ddim_x0")
    torch.testing.assert_close(found, peer, rtol=0, atol=1e-10)


@BOTH
@COUNTS
@ENDS
def test_ddim_x0_is_our_dpmpp_2m(zero: bool, steps: int, parametrization: str) -> None:
    """Flow models as well, with the log-SNR log((1 - sigma) / sigma), guarded at sigma 1."""

    def log_snr(sigma: float) -> float:
        if parametrization == "ve":
            return -math.log(sigma)
        sigma = min(sigma, 1 - 1e-4)
        return math.log((1 - sigma) / sigma)

    def ratio(s: list[float], k: int) -> float:
        a, b, c = (log_snr(s[k + j]) for j in (-1, 0, 1))
        return (c - b) / (2 * (b - a))

    sigmas = grid_for(parametrization, steps, zero)
    model, x = mixture(parametrization, SHAPE), start(parametrization, sigmas, 3, *SHAPE)
    found = distilled(model, x, sigmas, ratio, "ddim_x0")
    options = {"solver": "dpmpp_2m", "parametrization": parametrization, "disable": True}
    torch.testing.assert_close(found, dode.sample(model, x, sigmas, **options), rtol=0, atol=1e-10)


@BOTH
@pytest.mark.parametrize("solver", ["ddim", "ddim_x0"])
def test_stages_carry_their_natural_lambda(solver: str, parametrization: str) -> None:
    """``adams_bashforth`` of every stage: what stands in where nothing is calibrated."""
    sigmas = grid_for(parametrization, 6)
    stages = dode.SOLVERS[solver].stages(sigmas, parametrization)
    s = sigmas.tolist()
    assert stages[0].adams_bashforth == stages[-1].adams_bashforth == 0
    for k in range(2 if parametrization == "flow" else 1, len(stages) - 1):
        if solver == "ddim":
            expected = adams_bashforth(s, k)
        elif parametrization == "ve":
            expected = log_snr_ratio(s, k)
        else:
            logs = [math.log((1 - value) / value) for value in s[k - 1 : k + 2]]
            expected = (logs[2] - logs[1]) / (2 * (logs[1] - logs[0]))
        assert stages[k].adams_bashforth == pytest.approx(expected, rel=1e-12)


# The first stage's history


@BOTH
def test_noise_guess(parametrization: str) -> None:
    """x' = x + h (eps + lambda (eps - x / sqrt(alpha^2 + s^2)))"""
    s, t = (1.0, 0.6) if parametrization == "flow" else (15.0, 4.0)
    sigmas = torch.tensor([s, t], dtype=torch.float64)
    model, x = mixture(parametrization, SHAPE), start(parametrization, sigmas, 3, *SHAPE)
    alpha = 1 - s if parametrization == "flow" else 1.0
    eps = (x - model(x, x.new_full((3,), s))) / s
    expected = x + (t - s) * (eps + 0.7 * (eps - x / math.hypot(alpha, s)))
    for solver in ("ddim", "ipndm", "deis", "dpm_solver_2", "dpm_solver_3"):
        table = dode.LambdaTable(
            solver, sigmas, torch.tensor([[0.7]], dtype=torch.float64), parametrization
        )
        found = dode.sample(model, x, sigmas, disable=True, table=table)
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-12)
