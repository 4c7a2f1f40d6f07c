"""A table with learned sigmas answers for the schedule it was asked for; else it says so."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest
import torch
from problems import flow_grid, karras, mixture, start
from tables import document, made_up

import dode_core as dode
from dode_core.match.resolve import resolve
from dode_core.reuse import Recipe
from dode_core.tables.table import dump_tables, parse_tables

ASKED = tuple(karras(4).tolist())
OWN = [ASKED[0], 20.0, 4.0, 1.0, 0.0]
OTHER = [ASKED[0], 40.0, 10.0, 2.0, 0.0]
LEARNED = made_up("ddim", OWN, learned_sigmas=True, asked_sigmas=ASKED)
OLD = replace(LEARNED, asked_sigmas=None)


@pytest.mark.parametrize(
    ("table", "grid", "kind", "said"),
    [
        (LEARNED, ASKED, "exact", ""),
        (LEARNED, OWN, "exact", ""),
        (LEARNED, OTHER, "carried over", "made for another schedule"),
        (OLD, ASKED, "carried over", "does not say for which schedule"),
        (OLD, OWN, "exact", ""),
    ],
)
def test_which_runs_it_serves(table: dode.LambdaTable, grid: Any, kind: str, said: str) -> None:
    found = resolve([table], grid)
    assert found.kind == kind and said in found.message
    assert [stage.sigma for stage in found.stages] == OWN[:-1]
    assert ("noise levels replace" in found.message) == bool(said)


def test_a_table_of_the_schedule_goes_first() -> None:
    better = made_up("deis", OWN, learned_sigmas=True, asked_sigmas=OTHER, error=0.01)
    assert resolve([better, LEARNED], ASKED).table is LEARNED
    assert resolve([better, LEARNED], OTHER).table is better


def test_the_file_keeps_it() -> None:
    raw = dump_tables([LEARNED, OLD])
    again = parse_tables(raw)
    assert [table.asked_sigmas for table in again] == [ASKED, None]
    assert "asked_sigmas" not in json.loads(raw)["tables"][1]


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ([1.0], "must agree in both"),
        ([*ASKED[:-1], 0.5], "must agree in both"),
        (["1"] * 5, "a number belongs"),
        (None, "a list"),
        ([float("1e9"), 1, 1, 1, 0], "neither 0 nor between"),
        ([1.0] * 5000, "at most 4096"),
    ],
)
def test_a_bad_one_is_refused(value: Any, said: str) -> None:
    text = document(LEARNED)
    text["tables"][0]["asked_sigmas"] = value
    with pytest.raises(dode.TableError, match=said):
        parse_tables(json.dumps(text).encode())


def test_only_with_learned_sigmas() -> None:
    with pytest.raises(dode.TableError, match="go with learned"):
        made_up("ddim", ASKED, asked_sigmas=ASKED)


def test_distill_writes_what_it_was_asked_for() -> None:
    """And "nothing to do" is said for that schedule alone, as a flow model's shift changes it."""
    grid = flow_grid(4, shift=3.0)
    x = start("flow", grid, 6, 2, 3, 3)
    how: Any = {"columns": 2, "gain": True, "learn_sigmas": True, "budget": 120}
    table = dode.distill(mixture("flow"), x, grid, parametrization="flow", **how)
    if table.learned_sigmas:
        assert table.asked_sigmas == tuple(torch.as_tensor(grid).tolist())
    recipe = Recipe(table.scheme, list(map(float, grid)), True, 6, 0.25, None, None)
    assert recipe.made(table)
    other = list(map(float, flow_grid(4, shift=8.0)))
    assert not replace(recipe, grid=other).made(table)
    assert not replace(recipe, grid=[1.0, *other[1:]]).made(replace(table, asked_sigmas=None))


@pytest.mark.parametrize(
    ("grid", "said"),
    [
        ([80.0, 5.0, 1.0, 0.0], "distill a table for 3 steps"),
        ([1.9, 1.0, 0.5, 0.0], "this run starts at sigma 1.9: what serves it is a profile (method"),
        ([80.0, 5.0, 1.0], "this run ends at sigma 1: what serves it"),
        ([3.0, 1.0], "this run starts at sigma 3 and ends at sigma 1: what serves it"),
        ([0.1, 5.0, 80.0], "it runs backwards, from sigma 0.1 up"),
    ],
)
def test_what_would_serve(grid: list[float], said: str) -> None:
    """Where a run is a part of a schedule, a table of as many steps would not help."""
    message = resolve([], grid, highest=80.0).message
    assert said in message
    assert ("a table for" in message) == ("a table for 3 steps" in said)
    whole = made_up("ddim", karras(6), learned_sigmas=True)
    assert said in resolve([whole], grid).message
