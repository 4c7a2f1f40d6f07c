"""Table files: exact round trips, one file for many tables, writing that loses nothing."""

from __future__ import annotations

import json
import math
import tempfile
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from problems import karras
from tables import document as content
from tables import made_up, same, tables

import dode_core as dode
from dode_core.tables import document
from dode_core.tables import table as files

ROOT = Path(__file__).resolve().parent.parent


# Round trips


@settings(max_examples=60)
@given(table=tables())
def test_round_trip_is_exact(table: dode.LambdaTable) -> None:
    raw = files.dump_tables([table])
    (read,) = files.parse_tables(raw)
    assert same(read, table)
    assert files.dump_tables([read]) == raw


@settings(max_examples=20)
@given(several=st.lists(tables(), max_size=4))
def test_a_file_keeps_every_table(several: list[dode.LambdaTable]) -> None:
    expected = {table.key(): table for table in several}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "a.dode.json"
        for table in several:
            table.save(path)
        found = dode.load_tables(path) if several else []
        assert {table.key() for table in found} == set(expected)
        assert all(same(table, expected[table.key()]) for table in found)


def test_a_fitted_table_survives(tmp_path: Path) -> None:
    from problems import mixture, start

    sigmas = karras(4)
    table = dode.distill(mixture(), start("ve", sigmas, 4, 2, 3, 3), sigmas, columns=2)
    table.save(tmp_path / "fitted.dode.json")
    assert same(dode.LambdaTable.load(tmp_path / "fitted.dode.json"), table)


def test_text_of_the_file(tmp_path: Path) -> None:
    """Plain JSON of known keys, for other programs (docs/table-format.md)."""
    made_up(model_name="modèle 模型", cfg=7.5).save(tmp_path / "t.dode.json")
    raw = (tmp_path / "t.dode.json").read_bytes()
    assert raw.isascii() and raw.endswith(b"\n")
    read = json.loads(raw)
    assert read["format"] == "dode-lambda-tables" and read["version"] == 1
    (entry,) = read["tables"]
    assert entry["model"]["name"] == "modèle 模型" and entry["cfg"] == 7.5
    assert entry["solver"] == "ddim" and entry["output"] == "eps"
    assert len(entry["sigmas"]) == 5 and len(entry["lambdas"]) == 4


# Many tables in one file


def test_equal_keys_replace_and_others_stay(tmp_path: Path) -> None:
    path = tmp_path / "several.dode.json"
    first = [
        made_up(),
        made_up("heun"),
        made_up(sigmas=karras(5)),
        made_up(columns=2),
        made_up(gain=True),
        made_up(cfg=7.5),
        made_up(sigmas=karras(4, 0.05, 0.9), parametrization="flow"),
    ]
    dode.save_tables(path, first)
    assert len(dode.load_tables(path)) == len(first)
    newer = made_up(draw=1)
    newer.save(path)
    found = dode.load_tables(path)
    assert len(found) == len(first) and same(found[-1], newer)
    assert all(any(same(a, b) for b in found) for a in first[1:])
    assert same(dode.LambdaTable.load(path), newer)


def test_float32_rounding_of_a_grid_is_the_same_key() -> None:
    assert made_up().key() == made_up(sigmas=karras(4).float()).key()
    assert made_up(cfg=7.0).key() != made_up(cfg=7.5).key() != made_up().key()


def test_load_of_a_file_without_tables(tmp_path: Path) -> None:
    path = tmp_path / "none.dode.json"
    dode.save_tables(path, [])
    assert dode.load_tables(path) == []
    with pytest.raises(dode.TableError, match="none.dode.json holds no table"):
        dode.LambdaTable.load(path)


def test_too_many_tables(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "many.dode.json"
    monkeypatch.setattr(files, "MAX_TABLES", 3)
    dode.save_tables(path, [made_up(cfg=float(cfg)) for cfg in range(3)])
    before = path.read_bytes()
    with pytest.raises(dode.TableError, match="4 tables; 3 is most"):
        made_up(cfg=3.0).save(path)
    monkeypatch.setattr(document, "MAX_BYTES", len(before))
    with pytest.raises(dode.TableError, match="bytes"):
        made_up(cfg=2.0, model_name="longer").save(path)
    assert path.read_bytes() == before


@pytest.mark.parametrize(
    "fields",
    [
        {"model_name": "x" * 301},
        {"model_name": "two\nlines"},
        {"model_name": "zero\u200bwidth"},
        {"model_fingerprint": "\ud800"},
        {"teacher": "tab\t"},
        {"program": "\x00"},
        {"seed": -1},
        {"seed": 2**64},
        {"evaluations": math.nan},
        {"evaluations": math.inf},
        {"samples_fit": -1},
        {"latent_shape": (1,) * 9},
        {"latent_shape": (-1, 3)},
        {"zeroed": (4,)},
        {"cfg": 1e301},
    ],
    ids=str,
)
def test_nothing_is_written_that_cannot_be_read(fields: dict[str, Any], tmp_path: Path) -> None:
    """Either the table is refused, or what was saved can be loaded."""
    path = tmp_path / "a.dode.json"
    made_up("heun").save(path)
    before = path.read_bytes()
    try:
        made_up(**fields).save(path)
    except dode.TableError:
        assert path.read_bytes() == before
    assert any(table.solver == "heun" for table in dode.load_tables(path))


# What a table itself refuses


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"lambdas": torch.full((4, 1), math.nan)}, "lambda is nan"),
        ({"lambdas": torch.full((4, 1), math.inf)}, "lambda is inf"),
        ({"lambdas": torch.full((4, 1), 2e4)}, "lambda is 20000"),
        ({"lambdas": torch.zeros(5, 1)}, "5 rows of lambdas, but ddim makes 4"),
        ({"lambdas": torch.zeros(4)}, "shape"),
        ({"lambdas": torch.zeros(4, 0)}, "shape"),
        ({"lambdas": torch.zeros(4, 4)}, "shape"),
        ({"lambdas": torch.zeros(4, 1), "gain": True}, "shape"),
        ({"parametrization": "vp"}, "'vp' is unknown"),
        ({"solver": "euler"}, "'euler' is unknown"),
        ({"sigmas": [1.0], "lambdas": torch.zeros(0, 1)}, "at least two"),
        ({"sigmas": [1.0, 0.0, 0.5, 0.2, 0.1]}, "sigma 0 at position 1"),
        ({"cfg": math.inf}, "cfg is inf"),
    ],
)
def test_absurd_tables(fields: dict[str, Any], words: str) -> None:
    whole = {"solver": "ddim", "sigmas": karras(4), "lambdas": torch.zeros(4, 1)} | fields
    with pytest.raises(dode.DodeError, match=words):
        dode.LambdaTable(**whole)


def test_document_is_what_the_reader_wants() -> None:
    """The corruptions in test_corrupt_files.py start from a document that is valid."""
    raw = json.dumps(content(made_up(), made_up("heun"))).encode()
    assert len(files.parse_tables(raw)) == 2


def test_tables_can_be_compared_and_hashed() -> None:
    """By identity or by value, but without an error from a tensor's truth."""
    table = made_up()
    assert table == table and isinstance(table == made_up(), bool)
    assert table != made_up(draw=1) and table in {table}
