"""Learned sigmas and the dense teacher where there is little to learn, or little to spend."""

from __future__ import annotations

import pytest
from problems import grid_for, karras, mixture, start
from torch import Tensor

import dode_core as dode

SHAPE = (2, 3, 3)
BOTH = pytest.mark.parametrize("parametrization", ["ve", "flow"])
EVERY = pytest.mark.parametrize("solver", dode.SOLVERS)


@pytest.mark.parametrize("sigmas", [[15.0, 0.0], [15.0, 3.0], [15.0, 1.0, 0.0], [15.0, 3.0, 1.0]])
@EVERY
def test_few_nodes(solver: str, sigmas: list[float]) -> None:
    """No inner sigma, or one: a table all the same, with the given ends."""
    x = start("ve", karras(2), 8, *SHAPE)
    table = dode.distill(mixture(shape=SHAPE), x, sigmas, solver, learn_sigmas=True, budget=150)
    assert table.sigmas[[0, -1]].tolist() == pytest.approx([sigmas[0], sigmas[-1]], rel=1e-9)
    assert table.errors is not None and table.errors.ratio is not None
    assert table.errors.ratio <= 1


@BOTH
@pytest.mark.parametrize("learn", [False, True])
def test_grids_that_end_above_zero(parametrization: str, learn: bool) -> None:
    """Not every schedule ends at 0; the teacher's last state is what the run should reach."""
    grids = [grid_for(parametrization, steps, zero=False) for steps in (4, 6)]
    model, x = mixture(parametrization, SHAPE), start(parametrization, grids[0], 8, *SHAPE)
    tables = dode.distill_many(
        model, x, grids, parametrization=parametrization, learn_sigmas=learn, budget=240
    )
    assert len(tables) == 2
    for table, grid in zip(tables, grids, strict=True):
        assert float(table.sigmas[-1]) == float(grid[-1]) > 0
        assert table.errors is not None and table.errors.ratio is not None
        assert table.errors.ratio <= 1


@pytest.mark.parametrize("budget", [0, 20, 40, 80, 120, 200])
@pytest.mark.parametrize("solver", ["ddim", "heun"])
def test_budget_and_progress(solver: str, budget: int) -> None:
    """At most the budget, or a refusal that names it; and progress never passes its total.

    The micro-batches are uneven (8 and 1 to fit, 8 held out), so calls are not evaluations.
    """
    sigmas = karras(6)
    reports: list[tuple[int, int]] = []

    def progress(done: int, total: int, denoised: Tensor) -> None:
        reports.append((done, total))

    try:
        table = dode.distill(
            mixture(shape=SHAPE),
            start("ve", sigmas, 17, *SHAPE),
            sigmas,
            solver,
            holdout=8 / 17,
            progress=progress,
            learn_sigmas=True,
            budget=budget,
        )
    except dode.CalibrationError as error:
        assert "budget" in str(error) and budget < 100 and not reports
        return
    assert table.evaluations <= budget
    done, totals = zip(*reports, strict=True)
    assert len(set(totals)) == 1
    assert list(done) == sorted(done) and done[-1] == totals[0]


def test_ascending_grids_have_no_dense_teacher() -> None:
    """In words that say so."""
    x = start("ve", karras(2), 4, *SHAPE) / 30
    with pytest.raises(dode.CalibrationError, match="descending"):
        dode.distill_many(mixture(shape=SHAPE), x, [[0.5, 1.0, 2.0, 4.0]])
