"""The contract of ``distill`` around the mathematics: arguments, memory, progress, precision."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from problems import (
    EpsWrapper,
    LowPrecision,
    Recorded,
    VWrapper,
    karras,
    mixture,
    randn,
    rms,
)
from torch import Tensor

import dode_core as dode
from dode_core.fit.teacher import Teacher

SHAPE = (2, 3, 3)
EVERY = pytest.mark.parametrize("solver", dode.SOLVERS)


def noise(samples: int = 8, shape: tuple[int, ...] = SHAPE) -> Tensor:
    return randn(samples, *shape) * 15.0


# Samples and what belongs to them


def test_extra_args_are_split_with_the_samples() -> None:
    """Every row keeps its condition, in the teacher, the fit and the trials alike."""
    base = mixture(shape=SHAPE)
    x = noise(10)
    labels = torch.arange(10.0)
    shift = randn(10, *SHAPE, seed=3)
    seen: set[float] = set()

    def model(x: Tensor, sigma: Tensor, label: Tensor, shift: Tensor, both: Tensor, **rest: Any):  # noqa: ANN202
        assert len(label) == len(shift) == len(x) and both.shape == (3,)
        assert rest == {"name": "kept", "scale": 2.0, "nested": {"rows": None}}
        assert torch.equal(shift, kept[label.long()])
        seen.update(label.tolist())
        return base(x - shift, sigma) + shift

    kept = shift
    extra = {"label": labels, "shift": shift, "both": torch.ones(3), "name": "kept"}
    extra |= {"scale": 2.0, "nested": {"rows": None}}
    table = dode.distill(model, x, karras(4), "dpm_solver_2", extra_args=extra, batch_size=4)
    assert seen == set(range(10))
    whole = dode.distill(model, x, karras(4), "dpm_solver_2", extra_args=extra, batch_size=10)
    torch.testing.assert_close(table.lambdas, whole.lambdas, rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize("batch_size", [1, 3, 8, 100])
@EVERY
def test_no_call_is_larger_than_a_micro_batch(solver: str, batch_size: int) -> None:
    """Memory: with batch_size 1 a model never sees two samples at once."""
    model = Recorded(mixture(shape=SHAPE))
    dode.distill(model, noise(7), karras(4), solver, batch_size=batch_size)
    sizes = [len(call[0]) for call in model.calls]
    assert max(sizes) == min(batch_size, 5)  # 5 to fit, 2 held out, never mixed


def test_micro_batches_do_not_change_the_table() -> None:
    model, x = mixture(shape=SHAPE), noise(9)
    tables = [
        dode.distill(model, x, karras(5), "ddim", columns=2, gain=True, batch_size=size)
        for size in (1, 2, 4, 9)
    ]
    for table in tables[1:]:
        torch.testing.assert_close(table.lambdas, tables[0].lambdas, rtol=1e-7, atol=1e-9)
        assert table.zeroed == tables[0].zeroed


def test_the_calibration_noise_is_left_alone() -> None:
    x = noise()
    before = x.clone()
    dode.distill(mixture(shape=SHAPE), x, karras(4))
    assert torch.equal(x, before)


def test_no_gradients() -> None:
    def model(x: Tensor, sigma: Tensor) -> Tensor:
        assert not torch.is_grad_enabled()
        return base(x, sigma)

    base = mixture(shape=SHAPE)
    assert torch.is_grad_enabled()
    table = dode.distill(model, noise(), karras(3))
    dode.sample(model, noise(), karras(3), table=table, disable=True)
    assert torch.is_grad_enabled() and not table.lambdas.requires_grad


# Progress


@EVERY
@pytest.mark.parametrize("holdout", [0.0, 0.4])
@pytest.mark.parametrize("columns", [1, 3])
def test_progress(solver: str, holdout: float, columns: int) -> None:
    """It starts at 1, rises by 1, ends at a total that never changes."""
    model = Recorded(mixture(shape=SHAPE, std=0.05))
    reports: list[tuple[int, int]] = []
    dode.distill(
        model,
        noise(7),
        karras(5),
        solver,
        progress=lambda done, total, denoised: reports.append((done, total)),
        holdout=holdout,
        columns=columns,
        batch_size=2,
    )
    done, totals = zip(*reports, strict=True)
    assert len(set(totals)) == 1
    assert list(done[:-1]) == list(range(1, len(model.calls) + 1))
    assert done[-1] == totals[0] >= len(model.calls)


def test_progress_shows_the_newest_prediction() -> None:
    """Hosts draw previews from it, the last one included."""
    model = Recorded(mixture(shape=SHAPE))
    shown: list[Tensor] = []
    dode.distill(model, noise(), karras(4), progress=lambda *report: shown.append(report[2]))
    predicted = [call[3] for call in model.calls]
    assert all(a is b for a, b in zip(shown, predicted, strict=False))
    assert float(shown[-1].abs().max()) < 5, "the last preview is the noise at sigmas[0]"


@pytest.mark.parametrize("stop", [1, 30, 50])
def test_raising_from_progress_stops(stop: int) -> None:
    class Interrupted(BaseException):
        pass

    def progress(done: int, total: int, denoised: Tensor) -> None:
        if done == stop:
            raise Interrupted

    model = Recorded(mixture(shape=SHAPE))
    with pytest.raises(Interrupted):
        dode.distill(model, noise(), karras(5), "heun", progress=progress)
    assert len(model.calls) == stop


# Precision and rank


@pytest.mark.parametrize(
    ("dtype", "tolerance"),
    [(torch.float32, 1e-3), (torch.float16, 0.02), (torch.bfloat16, 0.1)],
)
@EVERY
def test_low_precision_models(solver: str, dtype: torch.dtype, tolerance: float) -> None:
    """The model is called in x's dtype alone; the lambdas are as good as those of float64."""
    base, sigmas, x = mixture(shape=SHAPE, std=0.5), karras(5), noise(16)
    exact = dode.distill(base, x, sigmas, solver)
    table = dode.distill(LowPrecision(base, dtype), x.to(dtype), sigmas, solver)
    assert table.lambdas.dtype == torch.float64 and table.errors is not None
    assert table.errors.ratio is not None and table.errors.ratio <= 1
    high = [k for k, stage in enumerate(table.stages) if stage.sigma > 1]  # below, q is rounding
    torch.testing.assert_close(
        table.lambdas[high], exact.lambdas[high], rtol=tolerance, atol=tolerance
    )
    goal = Teacher().states(base, x[12:], sigmas.tolist())[-1]
    errors = [
        rms(dode.sample(base, x[12:], sigmas, disable=True, table=each) - goal)
        for each in (table, exact)
    ]
    assert errors[0] < errors[1] * (1 + 2 * tolerance)


@pytest.mark.parametrize("shape", [(18,), (2, 9), (2, 3, 3), (1, 2, 3, 3)])
@EVERY
def test_ranks(solver: str, shape: tuple[int, ...]) -> None:
    """2-D to 5-D: vectors, audio, images, video."""
    x = noise().reshape(8, *shape)
    table = dode.distill(mixture(), x, karras(4), solver)
    assert table.latent_shape == shape
    expected = dode.distill(mixture(), noise(), karras(4), solver)
    assert torch.equal(table.lambdas, expected.lambdas)


@pytest.mark.parametrize("wrapper", [EpsWrapper, VWrapper])
def test_network_parametrisations(wrapper: type[EpsWrapper]) -> None:
    """A denoiser is a denoiser, whatever its network predicts."""
    model, x = mixture(shape=SHAPE), noise()
    expected = dode.distill(model, x, karras(5), "ipndm")
    table = dode.distill(wrapper(model), x, karras(5), "ipndm")
    torch.testing.assert_close(table.lambdas, expected.lambdas, rtol=1e-6, atol=1e-8)
