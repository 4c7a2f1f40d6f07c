"""Correction directions are data: a new one is an entry of a table, and everything knows it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from problems import gaussian, grid_for, karras, mixture, randn, start
from tables import document, same

import dode_core as dode
from dode_core.match.resolve import resolve
from dode_core.solve.directions import DIRECTIONS, Direction, columns_and_gain, direction_names
from dode_core.solve.scheme import Scheme
from dode_core.solve.stages import Row, Stage

SHAPE = (2, 3, 3)
BOTH = pytest.mark.parametrize("parametrization", ["ve", "flow"])


def older_output(stage: Stage, available: int) -> Row:
    """b_0 m_{k-1}: the output before the newest."""
    return (0.0, stage.b[0]) if available >= 2 else ()


@pytest.fixture
def older() -> Iterator[str]:
    """The direction is known while a test runs."""
    DIRECTIONS["older_output"] = Direction(older_output, balanced=False)
    yield "older_output"
    del DIRECTIONS["older_output"]


@BOTH
def test_a_new_direction_is_fitted_saved_and_run(
    parametrization: str, older: str, tmp_path: Path
) -> None:
    """With the gain it spans what gain and difference span: the same states come out."""
    sigmas, model = grid_for(parametrization, 5), mixture(parametrization, SHAPE)
    x = start(parametrization, sigmas, 12, *SHAPE, seed=1)
    how = {"parametrization": parametrization, "holdout": 0.0}
    table = dode.distill(model, x, sigmas, directions=(older, "gain"), **how)
    assert table.lambdas.shape == (5, 2) and (table.lambdas[1:-1] != 0).all()
    assert table.stages[2].c == ((0.0, table.stages[2].b[0]), (table.stages[2].b[0],))
    spanned = dode.distill(model, x, sigmas, directions=("difference_1", "gain"), **how)
    options = {"disable": True, "parametrization": parametrization}
    found, other = (dode.sample(model, x, sigmas, table=t, **options) for t in (table, spanned))
    torch.testing.assert_close(found, other, rtol=1e-6, atol=1e-6)
    assert table.errors is not None and table.errors.distilled_fit < table.errors.plain_fit

    table.save(tmp_path / "older.dode.json")
    back = dode.LambdaTable.load(tmp_path / "older.dode.json")
    assert same(back, table) and back.scheme.directions == (older, "gain")
    assert list(back.column_names) == ["older output", "gain"]
    assert "2 numbers a step" in back.describe()
    used = resolve([back], sigmas.tolist(), parametrization=parametrization)
    assert used.kind == "exact" and used.stages == table.stages


def test_a_new_direction_takes_part_in_learning_sigmas(older: str) -> None:
    model, x = gaussian(shape=SHAPE), randn(12, *SHAPE) * 15
    how = {"directions": ("correction", older), "learn_sigmas": True, "budget": 160}
    table = dode.distill(model, x, karras(4), **how)
    assert table.lambdas.shape[1] == 2 and table.directions == ("correction", older)
    assert table.errors is not None and table.errors.ratio is not None and table.errors.ratio < 1


def test_a_table_of_a_direction_that_is_not_known_is_refused(older: str, tmp_path: Path) -> None:
    sigmas = karras(4)
    scheme = Scheme("ddim", "ve", ("correction", older))
    dode.LambdaTable.of(scheme, sigmas.tolist(), randn(4, 2)).save(tmp_path / "older.dode.json")
    del DIRECTIONS[older]
    with pytest.raises(dode.TableError, match=f"'{older}' is unknown; use one of correction"):
        dode.LambdaTable.load(tmp_path / "older.dode.json")
    DIRECTIONS[older] = Direction(older_output, balanced=False)


def test_an_unbalanced_row_must_be_declared() -> None:
    DIRECTIONS["older_output"] = Direction(older_output)
    try:
        with pytest.raises(dode.DodeError, match="inconsistent"):
            Scheme("ddim", "ve", ("older_output",)).stages(karras(4).tolist())
    finally:
        del DIRECTIONS["older_output"]


@pytest.mark.parametrize("columns", [1, 2, 3])
@pytest.mark.parametrize("gain", [False, True])
def test_columns_and_gain_are_names_of_directions(columns: int, gain: bool) -> None:
    """What the arguments and the file say, and the names: there and back, the same stages."""
    names = direction_names(columns, gain)
    assert columns_and_gain(names) == (columns, gain)
    for solver in dode.SOLVERS:
        ours = Scheme(solver, "ve", names).stages(karras(6).tolist())
        assert ours == dode.SOLVERS[solver].stages(karras(6), columns=columns, gain=gain)
    table = dode.LambdaTable.of(
        Scheme("ddim", "ve", names), karras(4).tolist(), randn(4, len(names))
    )
    assert (table.columns, table.gain, table.directions) == (columns, gain, None)
    assert "directions" not in document(table)["tables"][0]


def test_facts_of_solvers_are_those_of_their_stages() -> None:
    for solver in dode.SOLVERS.values():
        stages = solver.stages(karras(7))
        values = [stage.adams_bashforth is not None for stage in stages]
        assert values == [solver.first_order] * len(stages)
        steps = [stage.step for stage in stages]
        assert max(steps.count(step) for step in steps) == solver.stages_a_step
        assert all(solver.steps_for(solver.evaluations(n)) == n for n in range(1, 12))
