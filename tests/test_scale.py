"""Between a table and its plain solver."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from problems import karras, mixture, randn
from tables import made_up, tables

import dode_core as dode
from dode_core.match.resolve import brings_sigmas, resolve
from dode_core.match.scale import scaled
from dode_core.sampler import of_stages, run_resolved
from dode_core.solve.stages import plain


def own_sigmas(table: dode.LambdaTable) -> list[float]:
    """A run's grid with the table's ends and other sigmas between."""
    grid = table.sigmas.tolist()
    return [grid[0], *(sigma * 1.1 for sigma in grid[1:-1]), grid[-1]]


@given(tables(), st.floats(-1, 5))
def test_every_scale_makes_a_run(table: dode.LambdaTable, scale: float) -> None:
    """Stages check their own rows; grids stay in order; lambdas are in proportion."""
    grid = table.sigmas.tolist()
    resolution = resolve([table], grid, parametrization=table.parametrization)
    made = scaled(resolution, grid, scale)
    assert len(made.stages) == len(made.lambdas) == len(resolution.stages)
    dose = min(max(scale, 0.0), 2.0)
    for ours, theirs in zip(made.lambdas, resolution.lambdas, strict=True):
        assert ours == pytest.approx([dose * value for value in theirs], nan_ok=False)


@pytest.mark.parametrize("solver", ["ddim", "heun", "dpm_solver_2", "deis", "dpmpp_2m"])
def test_0_is_the_plain_solver_and_1_the_table(solver: str) -> None:
    moved = [sigma * (0.8 if 0 < i < 5 else 1.0) for i, sigma in enumerate(karras(5).tolist())]
    table = made_up(solver, moved, columns=2, gain=True, learned_sigmas=True)
    grid = karras(5).tolist()
    resolution = resolve([table], grid)
    assert brings_sigmas(table, grid) and scaled(resolution, grid, 1) is resolution
    model, x = mixture(), randn(2, 2, 3, 3) * grid[0]
    ours = run_resolved(model, x, scaled(resolution, grid, 0.0), disable=True)
    own = run_resolved(model, x, of_stages(plain(dode.SOLVERS[solver].stages(grid))), disable=True)
    torch.testing.assert_close(ours, own, rtol=1e-9, atol=1e-9)


def test_sigmas_move_with_it() -> None:
    table = made_up("ddim", karras(5), learned_sigmas=True)
    grid = own_sigmas(table)
    resolution = resolve([table], grid)
    half = [stage.sigma for stage in scaled(resolution, grid, 0.5).stages]
    for i in range(1, 5):
        assert half[i] == pytest.approx((grid[i] * float(table.sigmas[i])) ** 0.5)


@pytest.mark.parametrize("end", [0.0, 0.9])
def test_sigmas_that_would_cross_stay_in_order(end: float) -> None:
    grid = [10.0, 9.9, 1.0, end]
    table = made_up("ddim", [10.0, 1.001, 0.95, end], learned_sigmas=True)
    made = scaled(resolve([table], grid), grid, 2.0)
    sigmas = [*(stage.sigma for stage in made.stages), made.stages[-1].sigma_next]
    assert sigmas == sorted(sigmas, reverse=True) and len(set(sigmas)) == 4


def test_without_a_table_there_is_nothing_to_scale() -> None:
    resolution = resolve([], karras(5))
    assert scaled(resolution, karras(5).tolist(), 0.3) is resolution
