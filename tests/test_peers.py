"""Every plain solver against the sampler that ComfyUI or k-diffusion ships.

1e-10 is float64 rounding accumulated over a run from sigma 15; peers that are not exact to
rounding have a test that says why.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from types import ModuleType
from typing import Any

import pytest
import torch
from problems import Mixture, grid_for, mixture, randn, start
from torch import Tensor

import dode_core as dode

SHAPE = (2, 3, 3)
STEPS = [1, 2, 3, 5, 8, 13]
ENDS = pytest.mark.parametrize("zero", [True, False], ids=["to0", "above0"])
COUNTS = pytest.mark.parametrize("steps", STEPS)
BOTH = pytest.mark.parametrize("parametrization", ["ve", "flow"])


def problem(parametrization: str, steps: int, zero: bool) -> tuple[Mixture, Tensor, Tensor]:
    sigmas = grid_for(parametrization, steps, zero)
    return mixture(parametrization, SHAPE), start(parametrization, sigmas, 3, *SHAPE), sigmas


def plain(model: Mixture, x: Tensor, sigmas: Tensor, solver: str) -> Tensor:
    parametrization = model.parametrization
    return dode.sample(
        model, x, sigmas, disable=True, solver=solver, parametrization=parametrization
    )


def assert_same(found: Tensor, expected: Tensor, tolerance: float = 1e-10) -> None:
    torch.testing.assert_close(found, expected, rtol=0, atol=tolerance)


@BOTH
@COUNTS
@ENDS
@pytest.mark.parametrize(
    ("solver", "name", "options"),
    [
        ("ddim", "sample_euler", {}),
        ("ddim_x0", "sample_euler", {}),
        ("heun", "sample_heun", {}),
        ("ipndm", "sample_ipndm", {"max_order": 4}),
    ],
)
def test_comfyui(
    comfy_sampling: ModuleType,
    solver: str,
    name: str,
    options: dict[str, Any],
    zero: bool,
    steps: int,
    parametrization: str,
) -> None:
    model, x, sigmas = problem(parametrization, steps, zero)
    peer = getattr(comfy_sampling, name)(model, x, sigmas, disable=True, **options)
    assert_same(plain(model, x, sigmas, solver), peer)


@COUNTS
@ENDS
def test_comfyui_dpmpp_2m(comfy_sampling: ModuleType, zero: bool, steps: int) -> None:
    """``ve`` alone: ComfyUI takes -log sigma for the log-SNR of flow models as well."""
    model, x, sigmas = problem("ve", steps, zero)
    peer = comfy_sampling.sample_dpmpp_2m(model, x, sigmas, disable=True)
    assert_same(plain(model, x, sigmas, "dpmpp_2m"), peer)


@COUNTS
@ENDS
@pytest.mark.parametrize(
    ("solver", "name"),
    [("ddim", "sample_euler"), ("heun", "sample_heun"), ("dpmpp_2m", "sample_dpmpp_2m")],
)
def test_k_diffusion(
    k_diffusion_sampling: ModuleType, solver: str, name: str, zero: bool, steps: int
) -> None:
    model, x, sigmas = problem("ve", steps, zero)
    peer = getattr(k_diffusion_sampling, name)(model, x, sigmas, disable=True)
    assert_same(plain(model, x, sigmas, solver), peer)


# DEIS: their coefficients are a sum of N points, both ends included, times step / N


@contextmanager
def float64_taus() -> Iterator[None]:
    """Their quadrature points take torch's default dtype."""
    torch.set_default_dtype(torch.float64)
    try:
        yield
    finally:
        torch.set_default_dtype(torch.float32)


@COUNTS
@ENDS
def test_deis_coefficients(comfy_sampling: ModuleType, zero: bool, steps: int) -> None:
    """Such a sum errs by a multiple of 1 / N, so 2 C(2N) - C(N) is off by 1 / N^2 = 1e-8."""
    sigmas = grid_for("ve", steps, zero)
    with float64_taus():
        coarse, fine = (
            comfy_sampling.deis.get_deis_coeff_list(sigmas, 3, N=points)
            for points in (10_000, 20_000)
        )
    stages = dode.SOLVERS["deis"].stages(sigmas)
    assert len(stages[0].b) == 1 and not coarse[0]
    for k, stage in list(enumerate(stages))[1 : len(stages) - zero]:
        step = abs(stage.sigma_next - stage.sigma)
        for own, once, twice in zip(stage.b, coarse[k], fine[k], strict=True):
            assert abs(own - float(2 * twice.detach() - once.detach())) < 1e-8 * step


@COUNTS
@ENDS
def test_deis_samples(comfy_sampling: ModuleType, zero: bool, steps: int) -> None:
    """The 1 / N = 1e-4 of their coefficients, seen in samples of about unit size."""
    model, x, sigmas = problem("ve", steps, zero)
    peer = comfy_sampling.sample_deis(model, x, sigmas, disable=True, max_order=3)
    assert_same(plain(model, x, sigmas, "deis"), peer, 1e-4)


# DPM-Solver: k-diffusion's single steps, grouped as the design says


def groups(evaluations: int, order: int, zero: bool) -> list[int]:
    """Evaluations per step, written down case by case."""
    if order == 2:
        sizes = [2] * (evaluations // 2) + [1] * (evaluations % 2)
    else:
        k = evaluations // 3 + 1
        sizes = {
            0: [3] * (k - 2) + [2, 1],
            1: [3] * (k - 1) + [1],
            2: [3] * (k - 1) + [2],
        }[evaluations % 3]
    if zero and sizes[-1] > 1:
        sizes = [*sizes[:-1], sizes[-1] - 1, 1]
    return sizes


def dpm_solver_peer(
    sampling: ModuleType, model: Mixture, x: Tensor, sigmas: Tensor, order: int
) -> Tensor:
    solver = sampling.DPMSolver(model)
    first, zero = 0, float(sigmas[-1]) == 0
    for size in groups(len(sigmas) - 1, order, zero):
        nodes = sigmas[first : first + size + 1]
        first += size
        if float(nodes[-1]) == 0:
            x = sampling.sample_euler(model, x, nodes, disable=True)
            continue
        t = solver.t(nodes)
        span = t[-1] - t[0]
        if size == 1:
            x, _ = solver.dpm_solver_1_step(x, t[0], t[1])
        elif size == 2:
            x, _ = solver.dpm_solver_2_step(x, t[0], t[2], r1=(t[1] - t[0]) / span)
        else:
            r1, r2 = (t[1] - t[0]) / span, (t[2] - t[0]) / span
            x, _ = solver.dpm_solver_3_step(x, t[0], t[3], r1=r1, r2=r2)
    assert first == len(sigmas) - 1
    return x


@BOTH
@pytest.mark.parametrize("steps", [*range(1, 10), 13])
@ENDS
@pytest.mark.parametrize("order", [2, 3])
def test_dpm_solver(
    k_diffusion_sampling: ModuleType, order: int, zero: bool, steps: int, parametrization: str
) -> None:
    model, x, sigmas = problem(parametrization, steps, zero)
    peer = dpm_solver_peer(k_diffusion_sampling, model, x, sigmas, order)
    assert_same(plain(model, x, sigmas, f"dpm_solver_{order}"), peer)


def test_peers_disagree_with_each_other(comfy_sampling: ModuleType) -> None:
    """The tolerances above are far below what tells two solvers apart."""
    model, x, sigmas = problem("ve", 5, True)
    finals = [plain(model, x, sigmas, name) for name in dode.SOLVERS if name != "ddim_x0"]
    distances = [float((a - b).abs().max()) for i, a in enumerate(finals) for b in finals[:i]]
    assert min(distances) > 1e-3


# Edges


def test_one_sigma_returns_x(comfy_sampling: ModuleType) -> None:
    x = randn(2, *SHAPE)
    for name in dode.SOLVERS:
        for sigmas in ([3.0], torch.tensor([3.0]), [0.0]):
            found = dode.sample(mixture(), x, sigmas, solver=name, disable=True)
            assert torch.equal(found, x)
    assert torch.equal(comfy_sampling.sample_euler(mixture(), x, torch.tensor([3.0])), x)


@pytest.mark.parametrize("solver", ["ddim", "ddim_x0", "heun", "ipndm"])
def test_ascending_grids(comfy_sampling: ModuleType, solver: str) -> None:
    """Unsampling: peers run it too."""
    model, sigmas = mixture(shape=SHAPE), grid_for("ve", 6, False).flip(0)
    x = randn(3, *SHAPE)
    name = "sample_euler" if solver.startswith("ddim") else f"sample_{solver}"
    peer = getattr(comfy_sampling, name)(model, x, sigmas, disable=True)
    assert_same(plain(model, x, sigmas, solver), peer)


@pytest.mark.parametrize("given", [list, tuple, Tensor.float, Tensor.double])
def test_sigmas_may_come_as_any_sequence(given: Any) -> None:
    model, x, sigmas = problem("ve", 4, True)
    sigmas = sigmas.float()

    def floats(values: Tensor) -> Sequence[float]:
        return given(values.tolist()) if given in (list, tuple) else given(values)

    assert torch.equal(
        plain(model, x, floats(sigmas), "dpmpp_2m"), plain(model, x, sigmas, "dpmpp_2m")
    )
