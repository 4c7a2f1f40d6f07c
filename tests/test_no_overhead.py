"""Sampling costs nothing beside the model: no reading of data, no more memory than its peers."""

from __future__ import annotations

from types import ModuleType
from typing import Any

import pytest
import torch
from memory import Memory, peak
from problems import karras
from tables import made_up
from torch import Tensor

import dode_core as dode
from dode_core.solve.stages import LookAhead

EVERY = pytest.mark.parametrize("solver", dode.SOLVERS)
LOOK = LookAhead(10.0, (0.1, 0.2, 0.3, 0.4))
WIDE: list[dict[str, Any]] = [
    {},
    {"columns": 3, "gain": True, "learned_sigmas": True, "look_ahead": LOOK},
]
SHAPE = (2, 4, 16, 16)
STEPS = 9
X = torch.randn(SHAPE, generator=torch.Generator().manual_seed(0)) * 15


def denoiser(x: Tensor, sigma: Tensor, **rest: Any) -> Tensor:
    return x / (1 + sigma.view(-1, 1, 1, 1) ** 2)


@pytest.mark.parametrize("wide", WIDE, ids=["one lambda", "all there is"])
@EVERY
def test_no_value_is_read(solver: str, wide: dict[str, Any]) -> None:
    """On the meta device there are no values: anything that would wait for a GPU raises here."""
    table = made_up(solver, karras(STEPS), **wide)
    seen = []

    def callback(report: dict[str, Any]) -> None:
        seen.append(report["denoised"].device.type)

    x = torch.empty(SHAPE, device="meta")
    out = dode.sample(denoiser, x, karras(STEPS), None, callback, True, table=table)
    assert out.device.type == "meta" and out.shape == x.shape and seen == ["meta"] * STEPS


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@EVERY
def test_the_gpu_is_not_waited_for(solver: str) -> None:
    """With CUDA's own check: any synchronisation raises."""
    table = made_up(solver, karras(STEPS), **WIDE[1])
    x = torch.randn(SHAPE, device="cuda") * 15
    dode.sample(denoiser, x, karras(STEPS), disable=True, table=table)
    torch.cuda.set_sync_debug_mode("error")
    try:
        dode.sample(denoiser, x, karras(STEPS), disable=True, table=table)
    finally:
        torch.cuda.set_sync_debug_mode("default")


def test_the_counter_counts() -> None:
    def three(x: Tensor) -> Tensor:
        a = x + 1
        b = a * 2
        del a
        return x + b.view(-1).view_as(x)

    assert peak(three, X) == pytest.approx(2, abs=0.01)
    assert peak(lambda x: (x + 1).add_(2).mul_(3), X) == pytest.approx(1, abs=0.01)


@pytest.mark.parametrize("wide", WIDE, ids=["one lambda", "all there is"])
@EVERY
def test_memory_against_ipndm(
    solver: str, wide: dict[str, Any], comfy_sampling: ModuleType
) -> None:
    """At most two latents more than ComfyUI's own ipndm, whatever the table."""
    sigmas = karras(STEPS).float()
    theirs = peak(lambda x: comfy_sampling.sample_ipndm(denoiser, x, sigmas, disable=True), X)
    table = made_up(solver, karras(STEPS), **wide)
    ours = peak(lambda x: dode.sample(denoiser, x, sigmas, disable=True, table=table), X)
    assert 3 < theirs < 10
    assert ours <= theirs + 2, (ours, theirs)


@EVERY
def test_history_is_what_the_solver_needs(solver: str) -> None:
    """More steps need no more memory."""
    runs = {}
    for steps in (12, 24):
        table = made_up(solver, karras(steps))
        runs[steps] = peak(
            lambda x, t=table, n=steps: dode.sample(denoiser, x, karras(n), disable=True, table=t),
            X,
        )
    assert runs[12] == pytest.approx(runs[24], abs=0.05)


@pytest.mark.parametrize("batch_size", [2, 4])
def test_calibration_holds_one_batch_at_the_model(batch_size: int) -> None:
    """Peak of a calibration: plain sampling at that batch, and the states that it stores.

    States: two starting points, a goal a stage, and the checkpoints of held-out samples.
    """
    samples, solver, steps = 16, "ddim", 4
    x = torch.randn(samples, *SHAPE[1:]) * 15
    unit = x[0].untyped_storage().nbytes() / samples

    def sampling(x: Tensor) -> Tensor:
        return dode.sample(denoiser, x[:batch_size], karras(steps), disable=True, solver=solver)

    with Memory() as plain:
        sampling(x)
    with Memory() as whole:
        dode.distill(denoiser, x, karras(steps), solver, batch_size=batch_size)
    stored = samples * (steps + 3) + 4 * steps * 3  # goals and states; held-out checkpoints
    products = 8 * batch_size * 2  # one micro-batch of directions and residuals in float64
    assert whole.peak / unit <= plain.peak / unit + stored + products
