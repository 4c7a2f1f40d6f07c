"""Sampler and calibration, inside this process, in front of hosts that differ or fail."""

from __future__ import annotations

import logging
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from comfy_pack import part, patcher, table
from torch import Tensor

pytestmark = pytest.mark.usefixtures("pack")


class Host:
    """A k-diffusion denoiser as a guider wraps it; ``options`` are the guider's attributes."""

    def __init__(self, model: Any = None, **options: Any) -> None:
        self.inner_model = SimpleNamespace(model_patcher=model, **options)

    def __call__(self, x: Tensor, sigma: Tensor, **_: Any) -> Tensor:
        return x / (1 + sigma.reshape(-1, *[1] * (x.ndim - 1)) ** 2)


SIGMAS = torch.tensor([10.0, 3.0, 1.0, 0.0])


@pytest.mark.parametrize("options", [{}, {"cfg": None}, {"cfg": "2"}, {"cfg": 2}])
def test_guiders_without_cfg(options: dict[str, Any]) -> None:
    sample = part("nodes.host.sampling").sample_dode
    x = torch.randn(1, 4, 8, 8) * 10
    assert sample(Host(**options), x, SIGMAS, None, disable=True).isfinite().all()


def test_other_ranks_and_a_single_sigma() -> None:
    sample = part("nodes.host.sampling").sample_dode
    for shape in ((2, 1, 100), (1, 4, 3, 8, 8)):
        seen: list[dict[str, Any]] = []
        x = torch.randn(shape) * 10
        out = sample(Host(), x, SIGMAS, {}, seen.append, True)
        assert out.shape == shape and [report["i"] for report in seen] == [0, 1, 2]
    assert sample(Host(), x, SIGMAS[:1]) is x
    up = torch.tensor([0.01, 1.0, 10.0])
    assert sample(Host(), x, up, disable=True).isfinite().all()


def test_a_table_that_rides_wins(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    mine = table(sigmas=SIGMAS, lambdas=[[0.5]] * 3)
    for riding in (mine, [mine]):
        args = {"model_options": {"transformer_options": {"dode": riding}}}
        part("nodes.host.sampling").sample_dode(
            Host(), torch.randn(1, 4), SIGMAS, args, disable=True
        )
    assert caplog.text.count("exact table: D-DDIM, 3 steps") == 2


class Stop(Exception):
    """What ComfyUI raises on an interrupt is a plain Exception."""


def settings(**changes: Any) -> Any:
    plan: dict[str, Any] = {"solver": "ddim", "samples": 6, "holdout": 0.25, "seed": 0}
    plan |= {"batch_size": 4, "cfg": 2.0, "teacher": part("dode_core.fit.teacher").Teacher()}
    return part("nodes.host.calibrate").DistillSettings(**{**plan, **changes})


def calibration_of(plan: Any) -> Any:
    """A calibration as the node makes it, with its bar and its previews."""
    format = SimpleNamespace(taesd_decoder_name=None, latent_rgb_factors=None)
    model = SimpleNamespace(load_device="cpu", model=SimpleNamespace(latent_format=format))
    return part("nodes.host.calibrate").DistillSampler(
        plan, "ve", part("nodes.host.live").Live(model)
    )


def test_out_of_memory_halves_the_batch(caplog: pytest.LogCaptureFixture) -> None:
    import comfy.model_management as management

    sizes = []

    def hungry(x: Tensor, sigma: Tensor, **_: Any) -> Tensor:
        sizes.append(len(x))
        if len(x) > room:
            raise management.OOM_EXCEPTION("CUDA out of memory")
        return Host()(x, sigma)

    room, x = 1, torch.randn(6, 2, 4, 4) * 10
    calibration = calibration_of(settings())
    assert calibration(hungry, x, SIGMAS) is x
    begun = len(sizes) - 1 - sizes[::-1].index(2)  # before it, checks that try 4 and 2 as well
    assert sizes[begun - 1 : begun + 2] == [4, 2, 1] and len(sizes) - begun > 60
    assert calibration.table.samples_fit + calibration.table.samples_holdout == 6
    assert "out of memory, now 1 at a time" in caplog.text

    room = 0
    calibration = calibration_of(settings())
    with pytest.raises(
        part("dode_core.errors").CalibrationError, match="one latent of shape .2, 4"
    ):
        calibration(hungry, x, SIGMAS)


def test_an_interrupt_is_not_swallowed() -> None:
    calls = []

    def interrupted(x: Tensor, sigma: Tensor, **_: Any) -> Tensor:
        calls.append(1)
        raise Stop

    x = torch.randn(6, 2, 4, 4)
    with pytest.raises(Stop):
        calibration_of(settings())(interrupted, x, SIGMAS)
    with pytest.raises(Stop):
        part("nodes.host.sampling").sample_dode(interrupted, x, SIGMAS)
    assert len(calls) == 2


def test_interrupts_need_no_progress_bar() -> None:
    """Newer hosts throttle theirs: both look for an interrupt at every model call."""
    import comfy.model_management as management

    calls: list[int] = []

    def model(x: Tensor, sigma: Tensor, **_: Any) -> Tensor:
        calls.append(len(calls))
        management.interrupt_current_processing(len(calls) == 3)
        return Host()(x, sigma)

    calibration = calibration_of(settings())
    for run in (calibration, part("nodes.host.sampling").sample_dode):
        calls.clear()
        with pytest.raises(management.InterruptProcessingException):
            run(model, torch.randn(6, 2, 4, 4), torch.linspace(10, 0, 9))
        assert len(calls) == 3
    assert calibration.table is None


def test_memory_is_asked_for_one_batch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not for all samples at once, which would push the model out of a small card."""
    import comfy.sampler_helpers

    calibrate, asked = part("nodes.host.calibrate"), []
    original = comfy.sampler_helpers.estimate_memory

    def estimate(model: Any, shape: Any, conds: Any) -> Any:
        asked.append(list(shape))
        return original(model, shape, conds)

    monkeypatch.setattr(comfy.sampler_helpers, "estimate_memory", estimate)
    model = patcher(tmp_path)
    text = [[torch.randn(1, 4, 64), {"pooled_output": torch.randn(1, 64)}]]
    guider = calibrate.make_guider(model, text, text, 2.0)
    sigmas = calibrate.schedule(model, "simple", 3)
    with torch.inference_mode():
        live = part("nodes.host.live").Live(model)
        found = calibrate.calibrate(guider, torch.zeros(1, 16, 8, 8), sigmas, settings(), live)
    assert asked == [[4, 16, 8, 8]]
    assert (found.samples_fit, found.samples_holdout) == (4, 2)
    assert found.parametrization == "flow" and not model.wrappers


def test_without_matplotlib(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    image, problem = part("nodes.host.distill_report").plot(table())
    assert image is None and "pip install matplotlib" in problem
