"""Calibration on a model that fails: memory, NaN, changes on the way; and twice the same table."""

from __future__ import annotations

import logging
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from problems import karras, mixture, randn
from tables import same
from torch import Tensor

import dode_core as dode
from dode_core.demo.model import load_demo
from dode_core.fit import guarded

SHAPE = (2, 3, 3)
SETTINGS: dict[str, dict[str, Any]] = {
    "one lambda": {},
    "columns": {"columns": 2, "gain": True},
    "sigmas": {"columns": 2, "gain": True, "learn_sigmas": True},
}
EVERY = pytest.mark.parametrize("setting", SETTINGS)


def noise(samples: int = 8) -> Tensor:
    return randn(samples, *SHAPE) * 15.0


class Wrapped:
    """The mixture, with every call noted and something done to it."""

    def __init__(self) -> None:
        self.model = mixture(shape=SHAPE)
        self.sizes: list[int] = []
        self.sigmas: list[float] = []

    def __call__(self, x: Tensor, sigma: Tensor, **extra_args: Any) -> Tensor:
        self.sizes.append(len(x))
        self.sigmas.append(float(sigma[0]))
        return self.change(x, sigma, self.model(x, sigma))

    def change(self, x: Tensor, sigma: Tensor, denoised: Tensor) -> Tensor:
        return denoised


# Memory


class Small(Wrapped):
    """No room for more than so many samples, from some call on."""

    def __init__(self, room: int, error: Exception, begin: int = 0) -> None:
        super().__init__()
        self.room, self.error, self.begin = room, error, begin

    def change(self, x: Tensor, sigma: Tensor, denoised: Tensor) -> Tensor:
        if len(x) > self.room and len(self.sizes) > self.begin:
            raise self.error
        return denoised


OUT = [
    torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."),
    RuntimeError("MPS backend out of memory (MPS allocated: 17.00 GB)"),
    RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried"),
    MemoryError(),
]


@pytest.mark.parametrize("error", OUT, ids=lambda error: str(error)[:12])
@EVERY
def test_out_of_memory_makes_smaller_parts(
    setting: str, error: Exception, caplog: pytest.LogCaptureFixture
) -> None:
    """The same table, with 2 at a time or fewer from where memory ran out."""
    options = SETTINGS[setting] | {"extra_args": {"row": torch.arange(12.0), "scale": 2.0}}
    model, free = Small(2, error, begin=9), Wrapped()
    with caplog.at_level(logging.WARNING, "dode"):
        table = dode.distill(model, noise(12), karras(5), **options)
    messages = [record.getMessage() for record in caplog.records]
    assert messages and all(m.startswith("D-ODE: out of memory, now ") for m in messages)
    assert max(model.sizes[:9]) > 2 and max(model.sizes[-20:]) <= 2
    whole = dode.distill(free, noise(12), karras(5), **options)
    torch.testing.assert_close(table.lambdas, whole.lambdas, rtol=1e-9, atol=1e-9)
    assert table.evaluations == whole.evaluations


def test_arguments_are_split_with_the_samples() -> None:
    """Rows that belong to samples stay with them; a tensor of another length is left whole."""
    seen: set[float] = set()

    def model(x: Tensor, sigma: Tensor, row: Tensor, all: Tensor) -> Tensor:
        if len(x) > 1:
            raise OUT[0]
        assert all.shape == (4,) and torch.equal(kept[row.long()] * 0 + 1, torch.ones_like(x))
        seen.update(row.tolist())
        return mixture(shape=SHAPE)(x, sigma)

    kept = noise(8)
    args = {"row": torch.arange(8.0), "all": torch.ones(4)}
    dode.distill(model, kept, karras(3), extra_args=args, batch_size=4)
    assert seen == set(range(8))


def test_no_room_at_all() -> None:
    with pytest.raises(dode.CalibrationError, match=r"one latent of shape \(2, 3, 3\)") as caught:
        dode.distill(Small(0, OUT[0]), noise(), karras(4))
    assert str(caught.value).count(".") == 1 and caught.value.__suppress_context__


def test_other_errors_pass() -> None:
    """Nothing but memory is tried again."""
    model = Small(0, RuntimeError("expected all tensors on the same device"))
    with pytest.raises(RuntimeError, match="same device"):
        dode.distill(model, noise(), karras(4))
    assert len(model.sizes) == 1


# Not finite


class Broken(Wrapped):
    """Not finite for some samples, known by an element of their noise, below a sigma."""

    def __init__(self, bad: Tensor, value: float = math.nan, below: float = math.inf) -> None:
        super().__init__()
        self.bad, self.value, self.below = bad, value, below

    def __call__(self, x: Tensor, sigma: Tensor, mark: Tensor, **rest: Any) -> Tensor:
        denoised = super().__call__(x, sigma)
        hit = torch.isin(mark, self.bad) & (sigma < self.below)
        denoised[hit, 0, 0, 0] = self.value
        return denoised


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("below", [math.inf, 0.5])
@EVERY
def test_bad_samples_are_left_out(
    setting: str, below: float, value: float, caplog: pytest.LogCaptureFixture
) -> None:
    """The table is that of the good samples alone; the rest is counted and named."""
    x, marks, good = noise(12), torch.arange(12.0), [0, 1, 3, 4, 5, 6, 7, 8, 9, 10]
    model = Broken(torch.tensor([2.0, 11.0]), value, below)  # one to fit, one held out
    options = SETTINGS[setting]
    with caplog.at_level(logging.WARNING, "dode"):
        table = dode.distill(model, x, karras(5), extra_args={"mark": marks}, **options)
    alone = dode.distill(Wrapped(), x[good], karras(5), **options)
    assert torch.equal(table.lambdas, alone.lambdas) and torch.equal(table.sigmas, alone.sigmas)
    assert table.dropped == 2 and table.samples_fit + table.samples_holdout == 10
    assert "2 of 12 samples were not finite" in table.describe()
    text = caplog.text
    assert "sample 3 of 12" in text and "sample 12 of 12" in text and "at sigma" in text
    assert math.isclose(table.evaluations, sum(model.sizes) / 10, rel_tol=0.1)
    assert table.evaluations > alone.evaluations  # what was lost is counted


def test_many_tables_without_the_bad_sample() -> None:
    x, marks = noise(9), torch.arange(9.0)
    model = Broken(torch.tensor([0.0]))
    tables = dode.distill_many(model, x, [karras(4), karras(5)], extra_args={"mark": marks})
    alone = dode.distill_many(Wrapped(), x[1:], [karras(4), karras(5)])
    assert [t.dropped for t in tables] == [1, 1]
    for a, b in zip(tables, alone, strict=True):
        assert torch.equal(a.lambdas, b.lambdas)


def test_given_targets_stay_with_their_samples() -> None:
    x, marks = noise(6), torch.arange(6.0)
    targets = randn(4, 6, *SHAPE, seed=5)
    options: dict[str, Any] = {"targets": targets, "holdout": 0}
    found = dode.distill(
        Broken(torch.tensor([1.0])), x, karras(4), extra_args={"mark": marks}, **options
    )
    good = [0, 2, 3, 4, 5]
    alone = dode.distill(Wrapped(), x[good], karras(4), targets=targets[:, good], holdout=0)
    assert torch.equal(found.lambdas, alone.lambdas)


def test_dropped_is_kept_in_the_file(tmp_path: Path) -> None:
    args = {"mark": torch.arange(8.0)}
    table = dode.distill(Broken(torch.tensor([1.0])), noise(), karras(4), extra_args=args)
    table.save(tmp_path / "t.dode.json")
    assert same(dode.LambdaTable.load(tmp_path / "t.dode.json"), table)
    assert '"dropped": 1' in (tmp_path / "t.dode.json").read_text()


@pytest.mark.parametrize("below", [math.inf, 1.0])
def test_all_samples_are_bad(below: float) -> None:
    """An error that says at which sigma, and no table."""
    model = Broken(torch.arange(8.0), below=below)
    with pytest.raises(dode.CalibrationError, match="for [78] of 8 samples, which") as caught:
        dode.distill(model, noise(), karras(4), extra_args={"mark": torch.arange(8.0)})
    sigma = float(str(caught.value).split("at sigma ")[1].split(",")[0])
    first = next(s for s in model.sigmas if s < below)
    assert math.isclose(sigma, first, rel_tol=1e-4)


# A model that changes


class Changing(Wrapped):
    """Another model from some call on."""

    def __init__(
        self, begin: int, factor: float = 1.1, shape: tuple[int, ...] | None = None
    ) -> None:
        super().__init__()
        self.begin, self.factor, self.shape = begin, factor, shape

    def change(self, x: Tensor, sigma: Tensor, denoised: Tensor) -> Tensor:
        if len(self.sizes) <= self.begin:
            return denoised
        if self.shape is not None:
            return denoised.new_zeros(len(x), *self.shape)
        return denoised * self.factor


@pytest.mark.parametrize("share", [0.3, 0.6, 0.95])
@EVERY
def test_a_model_that_changes_gives_no_table(setting: str, share: float) -> None:
    """Another pack unloads it, or a LoRA is switched: whenever that is, it is noticed."""
    steady = Wrapped()
    dode.distill(steady, noise(), karras(5), **SETTINGS[setting])
    model = Changing(int(share * len(steady.sizes)))
    with pytest.raises(
        dode.CalibrationError, match="model changed while it was distilled.* 10% off"
    ):
        dode.distill(model, noise(), karras(5), **SETTINGS[setting])


def test_a_model_that_returns_something_else() -> None:
    with pytest.raises(dode.CalibrationError, match=r"\(6, 2, 3, 3\) and returned \(6, 5\)"):
        dode.distill(Changing(3, shape=(5,)), noise(), karras(4))


def test_rounding_is_no_change() -> None:
    """fp16 kernels differ between batch sizes; that is not another model."""
    model = Wrapped()
    model.change = lambda x, sigma, d: d * (1 + 2e-3 * torch.sin(10 * x))  # type: ignore[method-assign]
    dode.distill(model, noise().float(), karras(4))
    jitter = iter(range(10**6))
    model.change = lambda x, sigma, d: d * (1 + 1e-3 * (next(jitter) % 3))  # type: ignore[method-assign]
    dode.distill(model, noise().float(), karras(4))


def test_no_argument_of_ours_reaches_the_model() -> None:
    def model(x: Tensor, sigma: Tensor, **rest: Any) -> Tensor:
        assert rest == {"a": 1}
        return mixture(shape=SHAPE)(x, sigma)

    dode.distill(model, noise(), karras(4), extra_args={"a": 1})
    assert guarded.SAMPLES.startswith("_dode")


# Determinism


@pytest.mark.parametrize("solver", ["ddim", "heun", "dpm_solver_3"])
@EVERY
def test_the_same_inputs_give_the_same_bits(setting: str, solver: str) -> None:
    options = SETTINGS[setting] | {"solver": solver}
    first, second = (
        dode.distill(mixture(shape=SHAPE), noise(), karras(6), **options) for _ in "ab"
    )
    assert same(first, second)


@pytest.mark.parametrize("cfg", [1.0, 3.0])
def test_the_same_bits_from_a_network(cfg: float) -> None:
    model = load_demo()
    x = randn(8, 3, 32, 32, dtype=torch.float32) * 80.0
    args = {"labels": torch.arange(8), "cfg": cfg}
    tables = [dode.distill(model, x, karras(5, 0.03, 80.0), extra_args=args) for _ in "ab"]
    assert same(*tables)


@EVERY
def test_micro_batches_of_1_4_and_16(setting: str) -> None:
    """To 1e-9 where the model itself does not depend on its batch."""
    tables = [
        dode.distill(
            mixture(shape=SHAPE), noise(16), karras(6), batch_size=size, **SETTINGS[setting]
        )
        for size in (1, 4, 16)
    ]
    for table in tables[1:]:
        torch.testing.assert_close(table.lambdas, tables[0].lambdas, rtol=1e-9, atol=1e-9)
        torch.testing.assert_close(table.sigmas, tables[0].sigmas, rtol=1e-9, atol=1e-9)
