"""Which table serves a run: the exact grid, a part of it, another density, or none."""

from __future__ import annotations

import math
from collections.abc import Sequence

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from problems import flow_grid, grid_for, karras, mixture, randn, start
from tables import made_up

import dode_core as dode
from dode_core.resolve import natural, resolve

EVERY = pytest.mark.parametrize("solver", dode.SOLVERS)
BOTH = pytest.mark.parametrize("parametrization", ["ve", "flow"])
WIDTHS = pytest.mark.parametrize(("columns", "gain"), [(1, False), (3, False), (2, True)])
EPS = [name for name, solver in dode.SOLVERS.items() if solver.output == "eps"]


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


# Slices


@EVERY
@BOTH
@pytest.mark.parametrize(("first", "last"), [(4, 12), (0, 7), (3, 9), (11, 12), (0, 1), (1, 12)])
def test_slice(solver: str, parametrization: str, first: int, last: int) -> None:
    """Image to image runs the tail, start and end steps a window: never by step number."""
    sigmas = grid_for(parametrization, 12)
    table = made_up(solver, sigmas, parametrization=parametrization)
    part = float32_schedule(sigmas)[first : last + 1]
    found = resolve([table], part, parametrization=parametrization)
    assert found.kind == "slice" and found.table is table
    assert [stage.sigma for stage in found.stages if stage.role != "corrector"] == part[:-1]
    used = 0
    for k, stage in enumerate(found.stages):
        own = same_stage(table, stage)
        kept = own is not None and found.lambdas[k] == tuple(table.lambdas[own].tolist())
        assert kept or is_natural(found, k)
        used += kept
    if solver in EPS and first:
        assert found.lambdas[0] == (0.0,), "no history yet, and no pure noise either"
    # What a solver's history or its grouping of nodes cannot spoil is used.
    if solver in ("ddim", "ddim_x0", "heun", "dpmpp_2m"):
        lost = 0 if not first else {"heun": 1, "dpmpp_2m": 1}.get(solver, 1)
        assert used >= len(found.stages) - lost
    if not first and not solver.startswith("dpm_solver"):
        assert used == len(found.stages)


def same_stage(table: dode.LambdaTable, stage: dode.Stage) -> int | None:
    """The table's stage between the same three sigmas, whatever its number."""
    for i, own in enumerate(table.stages):
        pairs = [(own.sigma_start, stage.sigma_start), (own.sigma, stage.sigma)]
        pairs.append((own.sigma_next, stage.sigma_next))
        if own.role == stage.role and all(math.isclose(a, b, rel_tol=1e-4) for a, b in pairs):
            return i
    return None


def test_slice_of_ddim_by_hand() -> None:
    table = made_up(sigmas=karras(8))
    found = resolve([table], karras(8)[3:])
    assert found.lambdas == [(0.0,), *map(tuple, table.lambdas[4:].tolist())]


@pytest.mark.parametrize(("solver", "order"), [("ipndm", 4), ("deis", 3)])
def test_multistep_slices_restart_their_history(solver: str, order: int) -> None:
    """Until the base row is the table's again, a lambda fitted for it would mean nothing."""
    sigmas = grid_for("ve", 12, zero=False)
    table = made_up(solver, sigmas)
    found = resolve([table], sigmas[4:])
    assert found.lambdas[: order - 1] == [(0.0,)] * (order - 1)
    assert torch.equal(rows(found)[order:], table.lambdas[4 + order :])


@EVERY
@pytest.mark.parametrize(("columns", "gain"), [(2, False), (3, True)])
def test_slices_of_wide_tables(solver: str, columns: int, gain: bool) -> None:
    """Directions that reach back before the slice are not used."""
    sigmas = grid_for("ve", 12)
    table = made_up(solver, sigmas, columns=columns, gain=gain)
    found = resolve([table], sigmas[4:])
    assert found.kind == "slice"
    for k, stage in enumerate(found.stages):
        available = k + 1
        for value, row in zip(found.lambdas[k], stage.c, strict=True):
            assert value == 0 or len(row) <= available or is_natural(found, k)
    assert any(any(row) for row in found.lambdas)


@pytest.mark.parametrize("solver", ["ddim", "ddim_x0", "heun", "dpmpp_2m"])
def test_a_slice_continues_the_run(solver: str) -> None:
    """Stages after the first few are those of the whole run: only where they start differs."""
    sigmas = karras(8)
    table = made_up(solver, sigmas)
    whole, part = resolve([table], sigmas), resolve([table], sigmas[3:])
    tail = len(part.stages) - 3
    assert part.lambdas[-tail:] == whole.lambdas[-tail:]
    assert [s.b for s in part.stages[-tail:]] == [s.b for s in whole.stages[-tail:]]


# Interpolation


@pytest.mark.parametrize(("solver", "steps"), [("ddim", 6), ("ddim", 12), ("ddim_x0", 9)])
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
@WIDTHS
def test_interpolation_is_between_the_tables_values(
    solver: str, parametrization: str, columns: int, gain: bool
) -> None:
    table = made_up(
        solver,
        grid_for(parametrization, 8),
        parametrization=parametrization,
        columns=columns,
        gain=gain,
    )
    grid = grid_for(parametrization, 10)
    found = resolve([table], grid, parametrization=parametrization)
    assert found.kind == "interpolated"
    assert len(found.lambdas) == len(found.stages)
    assert found.lambdas[0] == tuple(table.lambdas[0].tolist())  # both start from pure noise
    assert rows(found).isfinite().all()
    if solver not in ("ddim", "ddim_x0"):  # no natural lambda: values, not ratios
        low, high = table.lambdas.min(0).values, table.lambdas.max(0).values
        inner = rows(found)[1:-1]
        assert bool(((inner >= low - 1e-12) & (inner <= high + 1e-12) | (inner == 0)).all())


def test_first_and_last_stage_mean_something_else() -> None:
    """Noise guess and last step: kept from the same noise level, natural elsewhere."""
    table = made_up(sigmas=karras(8))
    same = resolve([table], karras(9))
    assert same.lambdas[0] == tuple(table.lambdas[0].tolist())
    assert same.lambdas[-1] == tuple(table.lambdas[-1].tolist())
    lower = resolve([table], karras(6, high=5.0))
    assert lower.kind == "interpolated" and lower.lambdas[0] == (0.0,)
    above = resolve([table], karras(8, 0.5, zero=False))
    assert above.kind == "interpolated" and above.lambdas[-1] != tuple(table.lambdas[-1].tolist())


@pytest.mark.parametrize(
    ("steps", "kind"),
    [(3, "uncalibrated"), (5, "interpolated"), (16, "interpolated"), (24, "uncalibrated")],
)
def test_density_limits(steps: int, kind: str) -> None:
    """From half to twice the table's density, no farther."""
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
    assert "distil a table for 5 steps" in found.message


def test_uncalibrated_solver() -> None:
    """DPM++ 2M, unless the only tables at hand name another."""
    assert resolve([], karras(5)).solver == "dpmpp_2m"
    far = karras(40)
    assert resolve([made_up("deis")], far).solver == "deis"
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


def test_the_tail_of_a_table_helps() -> None:
    """Image to image on the mixture: a slice is nearer to the teacher than plain DDIM."""
    from dode_core.teacher import Teacher

    model, sigmas = mixture(std=0.6), karras(12)
    table = dode.distill(model, start("ve", sigmas, 16, 2, 3, 3), sigmas)
    tail = sigmas[5:]
    clean = model.means[randn(24, seed=4).argsort() % 5].reshape(24, 2, 3, 3)
    x = clean + randn(24, 2, 3, 3, seed=5) * tail[0]
    goal = Teacher().states(model, x, tail.tolist())[-1]
    error = {
        name: float((dode.sample(model, x, tail, disable=True, **options) - goal).norm())
        for name, options in {"plain": {}, "slice": {"table": table}}.items()
    }
    assert error["slice"] < 0.8 * error["plain"]
