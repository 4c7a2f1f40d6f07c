"""Parts of a schedule: image to image runs its tail, start and end steps a window of it."""

from __future__ import annotations

import math

import pytest
import torch
from problems import grid_for, karras, mixture, randn, start
from tables import made_up

import dode_core as dode
from dode_core.fit.teacher import Teacher
from dode_core.match.lambdas import natural
from dode_core.match.resolve import resolve

EVERY = pytest.mark.parametrize("solver", dode.SOLVERS)
BOTH = pytest.mark.parametrize("parametrization", ["ve", "flow"])
EPS = [name for name, solver in dode.SOLVERS.items() if solver.output == "eps"]


def rows(resolution: dode.Resolution) -> torch.Tensor:
    return torch.tensor(resolution.lambdas, dtype=torch.float64)


def is_natural(resolution: dode.Resolution, k: int) -> bool:
    return resolution.lambdas[k] == natural(resolution.stages[k])


def float32_schedule(sigmas: torch.Tensor) -> list[float]:
    """The same grid as another host computes it: float32, rounded the other way."""
    return (sigmas.float() * (1 + 4e-6)).tolist()


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
    assert found.lambdas[:order] == [(0.0,)] * order
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


def test_the_tail_of_a_table_helps() -> None:
    """Image to image on the mixture: a slice is nearer to the teacher than plain DDIM."""
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
