"""The callback contract of k-diffusion's samplers, which hosts draw previews from."""

from __future__ import annotations

from types import ModuleType
from typing import Any

import pytest
import torch
from problems import Recorded, grid_for, mixture, start
from torch import Tensor

import dode_core as dode

SHAPE = (2, 3, 3)
BOTH = pytest.mark.parametrize("parametrization", ["ve", "flow"])
EVERY = pytest.mark.parametrize("solver", dode.SOLVERS)


def observed(
    solver: str, parametrization: str, steps: int = 5, zero: bool = True
) -> tuple[list[dict[str, Any]], Recorded, Tensor]:
    sigmas = grid_for(parametrization, steps, zero)
    model = Recorded(mixture(parametrization, SHAPE))
    reports: list[dict[str, Any]] = []
    dode.sample(
        model,
        start(parametrization, sigmas, 3, *SHAPE),
        sigmas,
        callback=reports.append,
        disable=True,
        solver=solver,
        parametrization=parametrization,
    )
    return reports, model, sigmas


@EVERY
@BOTH
def test_once_per_step(solver: str, parametrization: str) -> None:
    reports, model, sigmas = observed(solver, parametrization)
    assert [report["i"] for report in reports] == list(range(len(sigmas) - 1))
    assert len(model.calls) == (9 if solver == "heun" else 5)
    assert len(model.calls) == dode.SOLVERS[solver].evaluations(5)


@EVERY
def test_reports_the_current_state(solver: str) -> None:
    """x is what the model was just evaluated at (ComfyUI's ipndm reports the start all along)."""
    reports, model, _ = observed(solver, "ve")
    calls = model.calls[::2] if solver == "heun" else model.calls
    for report, (x, sigma, _, denoised) in zip(reports, calls, strict=True):
        assert set(report) == {"x", "i", "sigma", "sigma_hat", "denoised"}
        assert torch.equal(report["x"], x) and torch.equal(report["denoised"], denoised)
        assert (
            float(report["sigma"]) == float(report["sigma_hat"]) == pytest.approx(sigma, rel=1e-6)
        )


@pytest.mark.parametrize(("solver", "name"), [("ddim", "sample_euler"), ("heun", "sample_heun")])
def test_reports_what_the_peer_reports(comfy_sampling: ModuleType, solver: str, name: str) -> None:
    sigmas = grid_for("ve", 5)
    model, x = mixture(shape=SHAPE), start("ve", sigmas, 3, *SHAPE)
    own: list[dict[str, Any]] = []
    peer: list[dict[str, Any]] = []
    dode.sample(model, x, sigmas, None, own.append, True, solver=solver)
    getattr(comfy_sampling, name)(model, x, sigmas, None, peer.append, True)
    assert len(own) == len(peer)
    for found, expected in zip(own, peer, strict=True):
        assert found["i"] == expected["i"] and found.keys() == expected.keys()
        for key in ("x", "denoised", "sigma", "sigma_hat"):
            expected_value = torch.as_tensor(expected[key]).double()
            torch.testing.assert_close(found[key].double(), expected_value, rtol=1e-6, atol=1e-9)


def test_x_is_not_changed_afterwards() -> None:
    """A host may keep what it was given."""
    kept: list[tuple[Tensor, Tensor]] = []
    sigmas = grid_for("ve", 6)
    x = start("ve", sigmas, 3, *SHAPE)
    before = x.clone()
    dode.sample(
        mixture(shape=SHAPE),
        x,
        sigmas,
        callback=lambda report: kept.append((report["x"], report["x"].clone())),
        disable=True,
        solver="ipndm",
    )
    assert len(kept) == 6 and all(torch.equal(a, b) for a, b in kept)
    assert torch.equal(x, before)


def test_the_callback_may_stop_the_run() -> None:
    class Interrupted(BaseException):
        pass

    def stop(report: dict[str, Any]) -> None:
        if report["i"] == 2:
            raise Interrupted

    sigmas = grid_for("ve", 6)
    model = Recorded(mixture(shape=SHAPE))
    with pytest.raises(Interrupted):
        dode.sample(model, start("ve", sigmas, 1, *SHAPE), sigmas, None, stop, True)
    assert len(model.calls) == 3


def test_no_call_without_steps() -> None:
    reports: list[dict[str, Any]] = []
    model = Recorded(mixture(shape=SHAPE))
    dode.sample(model, start("ve", torch.ones(1), 1, *SHAPE), [1.0], None, reports.append, True)
    assert not reports and not model.calls
