"""Lambdas on a grid of another density: interpolated, within limits."""

from __future__ import annotations

import pytest
import torch
from problems import grid_for, karras
from tables import made_up

import dode_core as dode
from dode_core.match.resolve import resolve

EVERY = pytest.mark.parametrize("solver", dode.SOLVERS)
BOTH = pytest.mark.parametrize("parametrization", ["ve", "flow"])


def rows(resolution: dode.Resolution) -> torch.Tensor:
    return torch.tensor(resolution.lambdas, dtype=torch.float64)


@pytest.mark.parametrize(("solver", "steps"), [("ddim", 7), ("ddim", 10), ("ddim_x0", 9)])
def test_interpolation_keeps_the_ratio_to_adams_bashforth(solver: str, steps: int) -> None:
    """lambda = r AB on one grid is r AB' on another: that is what the steps make of it."""
    sigmas, ratio = karras(8), 1.3
    stages = dode.SOLVERS[solver].stages(sigmas)
    natural_rows = [[stage.adams_bashforth or 0.0] for stage in stages]
    table = dode.LambdaTable(
        solver, sigmas, torch.tensor(natural_rows, dtype=torch.float64) * ratio
    )
    found = resolve([table], karras(steps))
    assert found.kind == "interpolated" and len(found.lambdas) == steps
    inner = range(1, steps - 1)
    assert inner
    for k in inner:
        natural_value = found.stages[k].adams_bashforth
        assert natural_value
        assert found.lambdas[k][0] == pytest.approx(ratio * natural_value, rel=1e-9)


@EVERY
@BOTH
def test_interpolation_is_between_the_tables_values(solver: str, parametrization: str) -> None:
    table = made_up(solver, grid_for(parametrization, 8), parametrization=parametrization)
    grid = grid_for(parametrization, 10)
    found = resolve([table], grid, parametrization=parametrization)
    assert found.kind == "interpolated"
    assert len(found.lambdas) == len(found.stages)
    assert found.lambdas[0] == tuple(table.lambdas[0].tolist())  # both start from pure noise
    assert rows(found).isfinite().all()
    if solver not in ("ddim", "ddim_x0"):  # no natural lambda: values, not ratios
        low, high = table.lambdas.min(), table.lambdas.max()
        inner = rows(found)[1:-1]
        assert bool(((inner >= low - 1e-12) & (inner <= high + 1e-12)).all())
        assert inner.any()


@pytest.mark.parametrize(("columns", "gain"), [(2, False), (3, False), (1, True)])
def test_wide_tables_do_not_carry_over(columns: int, gain: bool) -> None:
    """Measured: several columns and gains belong to their own grid."""
    table = made_up(sigmas=karras(8), columns=columns, gain=gain)
    assert resolve([table], karras(9)).kind == "uncalibrated"
    assert resolve([table], karras(8)).kind == "exact"


def test_interpolation_is_linear_in_log_sigma() -> None:
    """Heun's correctors, by hand: between the table's two nearest, Euler stages left out."""
    table = made_up("heun", karras(8))
    found = resolve([table], karras(9))
    known = [
        (float(torch.tensor(stage.sigma).log()), float(row))
        for stage, row in zip(table.stages, table.lambdas[:, 0], strict=True)
        if stage.role == "corrector"
    ]
    for stage, row in list(zip(found.stages, found.lambdas, strict=True))[3:-2]:
        if stage.role != "corrector":
            continue
        at = float(torch.tensor(stage.sigma).log())
        (x0, y0) = min((p for p in known if p[0] >= at), key=lambda p: p[0])
        (x1, y1) = max((p for p in known if p[0] <= at), key=lambda p: p[0])
        assert row[0] == pytest.approx(y0 + (at - x0) / (x1 - x0) * (y1 - y0), abs=1e-5)


def test_first_and_last_stage_mean_something_else() -> None:
    """Noise guess and last step: kept from the same noise level, natural elsewhere."""
    table = made_up(sigmas=karras(8))
    same = resolve([table], karras(9))
    assert same.lambdas[0] == tuple(table.lambdas[0].tolist())
    assert same.lambdas[-1] == tuple(table.lambdas[-1].tolist())
    lower = resolve([table], karras(6, high=5.0))
    assert lower.kind == "interpolated" and lower.lambdas[0] == (0.0,)
    higher = resolve([table], karras(6, low=0.3))
    assert higher.kind == "interpolated" and higher.lambdas[-1] == (0.0,)
    above = resolve([table], karras(5, 0.5, zero=False))
    assert above.kind == "interpolated" and above.lambdas[-1] != tuple(table.lambdas[-1].tolist())


@pytest.mark.parametrize(
    ("steps", "kind"),
    [(6, "uncalibrated"), (7, "interpolated"), (12, "interpolated"), (13, "uncalibrated")],
)
def test_density_limits(steps: int, kind: str) -> None:
    """Up to 1.4 times the table's steps or down to as little, in the range both cover."""
    assert resolve([made_up(sigmas=karras(9))], karras(steps)).kind == kind


def test_the_nearest_density_serves() -> None:
    offered = [made_up(sigmas=karras(steps)) for steps in (6, 9, 14)]
    assert resolve(offered, karras(8)).table is offered[1]
    assert resolve(offered, karras(13)).table is offered[2]


def test_density_is_that_of_the_common_range() -> None:
    """An image-to-image tail of a 16-step schedule has the density of 16 steps, not of its 8."""
    eight, sixteen = made_up(sigmas=karras(8)), made_up(sigmas=karras(17))
    tail = karras(16)[8:]
    assert resolve([eight, sixteen], tail).table is sixteen


def test_disjoint_ranges_do_not_interpolate() -> None:
    table = made_up(sigmas=karras(6, 20.0, 80.0, zero=False))
    assert resolve([table], karras(6, 0.03, 10.0)).kind == "uncalibrated"
