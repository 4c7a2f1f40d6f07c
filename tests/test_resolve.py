"""Which table serves a run: the exact grid, a part of it, another density, or none."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from problems import flow_grid, grid_for, karras, mixture, randn
from tables import made_up

import dode_core as dode
from dode_core.match.best import Choice
from dode_core.match.lambdas import natural
from dode_core.match.resolve import resolve
from dode_core.match.scale import scaled

EVERY = pytest.mark.parametrize("solver", dode.SOLVERS)
BOTH = pytest.mark.parametrize("parametrization", ["ve", "flow"])
WIDTHS = pytest.mark.parametrize(("columns", "gain"), [(1, False), (3, False), (2, True)])


def rows(resolution: dode.Resolution) -> torch.Tensor:
    return torch.tensor(resolution.lambdas, dtype=torch.float64)


def is_natural(resolution: dode.Resolution, k: int) -> bool:
    return resolution.lambdas[k] == natural(resolution.stages[k])


def float32_schedule(sigmas: torch.Tensor) -> list[float]:
    """The same grid as another host computes it: float32, rounded the other way."""
    return (sigmas.float() * (1 + 4e-6)).tolist()


# Exact


@EVERY
@BOTH
@WIDTHS
def test_exact(solver: str, parametrization: str, columns: int, gain: bool) -> None:
    sigmas = grid_for(parametrization, 6)
    table = made_up(solver, sigmas, parametrization=parametrization, columns=columns, gain=gain)
    for grid in (sigmas, sigmas.tolist(), sigmas.float(), float32_schedule(sigmas)):
        found = resolve([table], grid, parametrization=parametrization)
        assert found.kind == "exact" and found.table is table and found.solver == solver
        assert torch.equal(rows(found), table.lambdas)
        assert found.stages[0].sigma == float(grid[0])
        assert found.message.startswith("exact")


def test_exact_beats_slice_and_interpolation() -> None:
    sigmas = karras(8)
    longer = torch.cat([torch.tensor([40.0, 25.0]).double(), sigmas])
    offered = [
        made_up(sigmas=karras(7), error=0.01),
        made_up(sigmas=longer, error=0.01),
        made_up(sigmas=sigmas, error=0.9),
    ]
    assert resolve(offered, sigmas).table is offered[2]
    found = resolve(offered[:2], sigmas)
    assert found.kind == "slice" and found.table is offered[1]
    found = resolve(offered[:1], sigmas)
    assert found.kind == "interpolated" and found.table is offered[0]


# Choosing


@pytest.mark.parametrize(("cfg", "expected"), [(1.0, 0), (3.0, 0), (5.0, 1), (7.5, 1), (30.0, 2)])
def test_the_nearest_cfg_serves(cfg: float, expected: int) -> None:
    offered = [made_up(cfg=value) for value in (2.0, 7.0, 12.0)]
    found = resolve(offered, karras(4), cfg=cfg)
    assert found.table is offered[expected]
    made_at = offered[expected].cfg
    assert f"made at cfg {made_at:g}, this run uses {cfg:g}" in found.message
    exact = resolve(offered, karras(4), cfg=made_at)
    assert exact.table is offered[expected] and "made at" not in exact.message


def test_a_known_cfg_beats_an_unknown_one() -> None:
    unknown, known = made_up(error=0.1), made_up(cfg=7.0, error=0.9)
    for offered in ([unknown, known], [known, unknown]):
        assert resolve(offered, karras(4), cfg=7.0).table is known


def test_the_lowest_error_serves_among_equals() -> None:
    offered = [made_up(error=None), made_up(error=0.8), made_up("ipndm", error=0.3)]
    assert resolve(offered, karras(4)).table is offered[2]
    assert resolve(offered, karras(4), solver="ddim").table is offered[1]


# No table


@EVERY
@BOTH
def test_uncalibrated(solver: str, parametrization: str) -> None:
    sigmas = grid_for(parametrization, 5)
    found = resolve([], sigmas, solver=solver, parametrization=parametrization)
    assert found.kind == "uncalibrated" and found.table is None and found.solver == solver
    assert all(is_natural(found, k) for k in range(len(found.stages)))
    assert "distill a table for 5 steps" in found.message


def test_uncalibrated_solver() -> None:
    """DPM++ 2M, unless the only tables at hand name another."""
    assert resolve([], karras(5)).solver == "dpmpp_2m"
    far = karras(40)
    assert resolve([made_up("deis")], far).solver == "dpmpp_2m"  # better than any other untaught
    assert resolve([made_up("deis"), made_up("heun")], far).solver == "dpmpp_2m"


def test_parametrisations_do_not_mix() -> None:
    sigmas = flow_grid(5)
    table = made_up(sigmas=sigmas, parametrization="flow")
    assert resolve([table], sigmas).kind == "uncalibrated"
    assert resolve([table], sigmas, parametrization="flow").kind == "exact"


def test_refusals() -> None:
    table = made_up("ipndm")
    with pytest.raises(dode.DodeError, match="table is for ipndm, but ddim was asked for"):
        resolve([table], karras(4), solver="ddim")
    with pytest.raises(dode.DodeError, match="'euler' is unknown"):
        resolve([table], karras(4), solver="euler")
    with pytest.raises(dode.DodeError, match="'vp' is unknown"):
        resolve([table], karras(4), parametrization="vp")
    with pytest.raises(dode.SigmasError, match="position 1"):
        resolve([table], [1.0, 0.0, 0.5])


# Any grid


@EVERY
def test_ascending_and_single(solver: str) -> None:
    """Unsampling and empty runs find no table in a descending one, and run all the same."""
    table = made_up(solver, karras(8))
    up = resolve([table], karras(8, zero=False).flip(0))
    assert up.kind == "uncalibrated" and rows(up).isfinite().all()
    one = resolve([table], [3.0])
    assert one.stages == [] and one.lambdas == [] and one.table is None
    made_for_it = made_up(solver, karras(8, zero=False).flip(0))
    assert resolve([made_for_it], karras(8, zero=False).flip(0)).kind == "exact"


LEVEL = st.floats(1e-3, 100.0)


def grids() -> st.SearchStrategy[list[float]]:
    free = st.lists(LEVEL, min_size=1, max_size=10)
    down = free.map(lambda sigmas: sorted(sigmas, reverse=True))
    usual = st.builds(
        lambda steps, low, high, zero: karras(steps, low, high, zero=zero).tolist(),
        st.integers(1, 24),
        st.floats(0.01, 1.0),
        st.floats(2.0, 80.0),
        st.booleans(),
    )
    part = st.builds(lambda grid, i: grid[min(i, len(grid) - 1) :], usual, st.integers(0, 24))
    grid = free | free.map(sorted) | down | down.map(lambda s: [*s, 0.0]) | usual | part
    return grid.filter(lambda sigmas: sigmas[0] > 0)


@EVERY
@settings(max_examples=25)
@given(grid=grids(), own=grids(), columns=st.integers(1, 3), gain=st.booleans())
def test_any_grid_runs(
    solver: str, grid: Sequence[float], own: Sequence[float], columns: int, gain: bool
) -> None:
    """Never an error, never a number that is not finite, always a message that names its kind."""
    stages = dode.SOLVERS[solver].stages(own)
    table = made_up(solver, own, columns=columns, gain=gain) if stages else None
    found = resolve([table] if table else [], grid, solver=solver)
    assert len(found.lambdas) == len(found.stages) and found.message.startswith(found.kind)
    assert rows(found).isfinite().all()
    for row, stage in zip(found.lambdas, found.stages, strict=True):
        assert len(row) == len(stage.c)
    x = randn(2, 2, 3, 3) * grid[0]
    assert dode.run_resolved(mixture(), x, found, disable=True).isfinite().all()


# Worth


def test_its_gain_is_claimed_for_the_run_that_measured_it_only() -> None:
    sigmas = karras(6).tolist()
    table = made_up(sigmas=sigmas, cfg=5.0)
    found = resolve([table], sigmas, cfg=5.0)
    assert "50% closer" in table.worth and found.worth == table.worth
    assert found.said == f"{found.message}, {table.worth}" and "closer" not in found.message
    learned = made_up(
        sigmas=[sigmas[0], *(0.9 * s for s in sigmas[1:-1]), sigmas[-1]], learned_sigmas=True
    )
    others = [
        resolve([table], sigmas, cfg=7.0),
        resolve([table, replace(table, cfg=9.0)], sigmas, cfg=7.0),
        resolve([table], sigmas[2:], cfg=5.0),
        resolve([table], karras(7), cfg=5.0),
        resolve([learned], sigmas),
        scaled(found, sigmas, 0.5),
    ]
    kinds = ["exact", "exact", "slice", "interpolated", "carried over", "exact"]
    assert [each.kind for each in others] == kinds
    assert all(each.worth == "" and "closer" not in each.said for each in others)
    assert "closer" in Choice(found).message
    doubted = Choice(found, doubts=("made with LoRAs, this run has none",)).message
    assert "closer" not in doubted and doubted.endswith("(made with LoRAs, this run has none)")
