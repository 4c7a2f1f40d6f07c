"""The examples of docs/new-solver.md, run as they stand, and what the page says of them."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from problems import gaussian, karras, mixture, randn

import dode_core as dode
from dode_core.solve.directions import DIRECTIONS
from dode_core.solve.scheme import Scheme

PAGE = Path(__file__).parents[1] / "docs" / "new-solver.md"
SHAPE = (2, 3, 3)


@pytest.fixture(scope="module")
def page() -> Iterator[dict[str, Any]]:
    """The names that the page's code leaves behind."""
    blocks = re.findall(r"^```python\n(.*?)^```", PAGE.read_text(encoding="utf-8"), re.M | re.S)
    assert len(blocks) == 3
    sigmas = karras(6)
    names: dict[str, Any] = {
        "model": mixture(shape=SHAPE),
        "noise": randn(12, *SHAPE),
        "x": randn(4, *SHAPE, seed=1) * float(sigmas[0]),
        "sigmas": sigmas,
    }
    try:
        tables = []
        for block in blocks:
            exec(compile(block, str(PAGE), "exec"), names)
            tables.append(names.get("table"))
        yield {**names, "tables": tables}
    finally:
        dode.SOLVERS.pop("ab2", None)
        DIRECTIONS.pop("older_output", None)


def test_the_example_is_the_textbook(page: dict[str, Any]) -> None:
    """The same steps as Euler's with their Adams-Bashforth lambdas."""
    ours = page["solver"].stages(karras(8))
    for stage, euler in zip(ours, dode.SOLVERS["ddim"].stages(karras(8)), strict=True):
        ab, (h,) = euler.adams_bashforth, euler.b
        assert ab is not None
        assert stage.b == pytest.approx((h * (1 + ab), -h * ab))


def test_the_example_is_of_order_two(page: dict[str, Any]) -> None:
    """On a grid that does not end at 0: half the step, a quarter of the error."""
    model, x = gaussian(shape=SHAPE), randn(3, *SHAPE) * 15

    def end(steps: int) -> torch.Tensor:
        sigmas = torch.logspace(1.1761, 0, steps + 1, dtype=torch.float64)
        return dode.sample(model, x, sigmas, disable=True, solver="ab2")

    exact = end(1024)
    coarse, fine = ((end(n) - exact).square().mean().sqrt() for n in (32, 64))
    assert 3.2 < float(coarse / fine) < 4.8


def test_the_example_is_distilled(page: dict[str, Any]) -> None:
    _, table, _ = page["tables"]
    assert table.solver == "ab2" and table.errors.ratio <= 1
    assert page["image"].shape == page["x"].shape and page["image"].isfinite().all()


def test_the_direction_is_fitted(page: dict[str, Any]) -> None:
    *_, table = page["tables"]
    assert table.scheme == Scheme("ddim", "ve", ("correction", "older_output"))
    assert (table.lambdas[:, 1] != 0).any() and table.errors.ratio < 1
