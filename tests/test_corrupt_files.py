"""The strict reader: every way to spoil a file gives one sentence and leaves the file alone."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tables import document, made_up

import dode_core as dode
from dode_core.tables.files import MAX_BYTES
from dode_core.tables.table import dump_tables, parse_tables

VALID = document(made_up(cfg=7.5, draw=3), made_up("heun", columns=2))
RAW = dump_tables([made_up()])


def assert_refused(path: Path, words: str) -> None:
    """Loading and saving over it raise one useful sentence; the bytes stay."""
    before = path.read_bytes() if path.is_file() else None
    for attempt in (lambda: dode.load_tables(path), lambda: made_up().save(path)):
        with pytest.raises(dode.TableError, match=words) as caught:
            attempt()
        message = str(caught.value)
        assert message.startswith(path.name), message
        assert message.endswith(".") and "\n" not in message and len(message) < 300, message
    assert before is None or path.read_bytes() == before
    assert [entry.name for entry in path.parent.iterdir()] == [path.name]


# Bytes

RAW_CASES: dict[str, tuple[bytes, str]] = {
    "empty": (b"", "not valid JSON"),
    "spaces": (b" \n ", "not valid JSON"),
    "binary": (bytes(range(256)) * 4, "not valid JSON"),
    "zeros": (bytes(1000), "not valid JSON"),
    "not UTF-8": (RAW.replace(b"ddim", b"\xff"), "not valid JSON"),
    "UTF-16": (RAW.decode().encode("utf-16"), "not valid JSON"),
    "two byte order marks": (b"\xef\xbb\xbf" * 2 + RAW, "not valid JSON"),
    "truncated": (RAW[: len(RAW) // 2], "not valid JSON"),
    "trailing": (RAW + b"{}", "not valid JSON"),
    "not JSON": (b"lambda = 1", "not valid JSON"),
    "comment": (b"// made by hand\n" + RAW, "not valid JSON"),
    "null": (b"null", "no table file"),
    "number": (b"1", "no table file"),
    "list": (b"[]", "no table file"),
    "object": (b"{}", "no table file"),
    "another program's": (b'{"format": "safetensors"}', "no table file"),
    "NaN": (RAW.replace(b'"evaluations": 0.0', b'"evaluations": NaN'), "NaN is not a number"),
    "Infinity": (RAW.replace(b'"cfg": null', b'"cfg": Infinity'), "Infinity is not"),
    "-Infinity": (RAW.replace(b'"cfg": null', b'"cfg": -Infinity'), "-Infinity is not"),
    "1e999": (RAW.replace(b'"cfg": null', b'"cfg": 1e999'), "not finite"),
    "-1e999": (RAW.replace(b'"cfg": null', b'"cfg": -1e999'), "not finite"),
    "-nan": (RAW.replace(b'"cfg": null', b'"cfg": -nan'), "not valid JSON"),
    "nan(1)": (RAW.replace(b'"cfg": null', b'"cfg": nan(1)'), "not valid JSON"),
    "1.#QNAN": (RAW.replace(b'"cfg": null', b'"cfg": 1.#QNAN'), "not valid JSON"),
    "NAN": (RAW.replace(b'"cfg": null', b'"cfg": NAN'), "not valid JSON"),
    "0x1p3": (RAW.replace(b'"cfg": null', b'"cfg": 0x1p3'), "not valid JSON"),
    "text NaN": (RAW.replace(b'"cfg": null', b'"cfg": "NaN"'), "a str stands"),
    "a surrogate": (RAW.replace(b'"name": ""', b'"name": "\\ud800"'), "not printable"),
    "surrogate bytes": (RAW.replace(b'"name": ""', b'"name": "\xed\xa0\x80"'), "not valid JSON"),
    "400 digits": (RAW.replace(b'"cfg": null', b'"cfg": 1' + b"0" * 400), "not finite"),
    "5000 digits": (RAW.replace(b'"cfg": null', b'"cfg": 1' + b"0" * 5000), "not valid JSON"),
    "nested lists": (b"[" * 49_000, "nested too deeply"),
    "nested objects": (b'{"a":' * 49_000, "nested too deeply"),
    "nested in a table": (RAW.replace(b'"cfg": null', b'"cfg": ' + b"[" * 40_000), "too deeply"),
    "a million lists": (b"[" + b"[]," * 10**6 + b"[]]", "it holds 1000002 lists"),
    "a million numbers": (b"[" + b"1," * 10**6 + b"1]", "and 1000000 values"),
    "more digits than Python reads": (b'{"version": ' + b"9" * 10**6 + b"}", "1000000 digits"),
    "oversized": (RAW + b" " * MAX_BYTES, "larger than"),
    "key twice": (RAW.replace(b'"version": 1', b'"version": 1, "version": 1'), "occurs twice"),
    "key twice in a table": (
        RAW.replace(b'"gain": false', b'"gain": false, "gain": false'),
        "'gain' occurs twice",
    ),
    "key twice in the model": (RAW.replace(b'"name": ""', b'"name": "", "name": ""'), "twice"),
}


@pytest.mark.parametrize("case", RAW_CASES)
def test_bytes(case: str, tmp_path: Path) -> None:
    raw, words = RAW_CASES[case]
    assert raw != RAW
    path = tmp_path / "bad.dode.json"
    path.write_bytes(raw)
    assert_refused(path, words)


def test_a_byte_order_mark_is_read(tmp_path: Path) -> None:
    """What some Windows editors put before the text."""
    path = tmp_path / "marked.dode.json"
    path.write_bytes(b"\xef\xbb\xbf" + RAW)
    assert [table.describe() for table in dode.load_tables(path)] == [made_up().describe()]


def test_directory(tmp_path: Path) -> None:
    (tmp_path / "folder.dode.json").mkdir()
    assert_refused(tmp_path / "folder.dode.json", "cannot be read")


def test_missing_file(tmp_path: Path) -> None:
    with pytest.raises(dode.TableError, match="missing.dode.json cannot be read: No such file"):
        dode.load_tables(tmp_path / "missing.dode.json")


# Values

Edit = tuple[str, Any, str]
DELETE = object()
EDITS: list[Edit] = [
    ("version", 2, "version is 2, this program reads 1; update"),
    ("version", 0, "version is 0"),
    ("version", "1", "version is 1"),
    ("version", 1.0, "version is 1.0"),
    ("version", True, "version is True"),
    ("version", None, "version is NoneType"),
    ("version", DELETE, "version is"),
    ("format", "dode", "no table file"),
    ("format", ["dode-lambda-tables"], "no table file"),
    ("extra", 1, "'extra'"),
    ("tables", DELETE, "'tables'"),
    ("tables", {}, "must be a list"),
    ("tables", [None], "table 0 is not an object"),
    ("tables", [{}] * 1001, "at most 1000"),
    ("tables.1", "heun", "table 1 is not an object"),
    ("tables.1.extra", 1, "table 1 lacks or does not know 'extra'"),
    ("tables.1.solver", "euler", "table 1: Solver 'euler' is unknown"),
    ("tables.0.solver", None, "text"),
    ("tables.0.solver", ["ddim"], "text"),
    ("tables.0.output", "denoised", 'output is "denoised"'),
    ("tables.0.parametrization", "vp", "'vp' is unknown"),
    ("tables.0.parametrization", 3, "text"),
    ("tables.0.sigmas", [], "0 sigmas"),
    ("tables.0.sigmas", "14.6", "list"),
    ("tables.0.sigmas", {"0": 14.6}, "list"),
    ("tables.0.sigmas", [1.0] * 4097, "4096"),
    ("tables.0.sigmas", [15.0, 1.0], "4 rows of lambdas, but ddim makes 1"),
    ("tables.0.sigmas.0", "15", "a str stands where a number"),
    ("tables.0.sigmas.0", None, "a NoneType stands"),
    ("tables.0.sigmas.0", True, "a bool stands"),
    ("tables.0.sigmas.0", [15.0], "a list stands"),
    ("tables.0.sigmas.0", -15.0, "sigma -15.0 at position 0"),
    ("tables.0.sigmas.0", 1e7, "position 0"),
    ("tables.0.sigmas.1", 0.0, "sigma 0 at position 1"),
    ("tables.0.gain", 0, "flag"),
    ("tables.0.gain", "false", "flag"),
    ("tables.0.gain", True, "shape"),
    ("tables.0.lambdas", [], "shape"),
    ("tables.0.lambdas", [[0.1]] * 3, "3 rows"),
    ("tables.0.lambdas", [[0.1] * 9] * 4, "at most 8"),
    ("tables.0.lambdas", [[0.1] * 4] * 4, "shape"),
    ("tables.0.lambdas", [0.1] * 4, "list"),
    ("tables.0.lambdas.2", [], "differ in length"),
    ("tables.0.lambdas.2", [0.1, 0.2], "differ in length"),
    ("tables.0.lambdas.2.0", "0.5", "a str stands"),
    ("tables.0.lambdas.2.0", False, "a bool stands"),
    ("tables.0.lambdas.2.0", 10**30, "A lambda is 1e\\+30"),
    ("tables.0.lambdas.2.0", 10**310, "not finite"),
    ("tables.0.lambdas.2.0", 10001, "A lambda is 10001"),
    ("tables.0.zeroed", [4], "zeroed names a stage beyond 3"),
    ("tables.0.zeroed", [-1], "count"),
    ("tables.0.zeroed", [1.0], "count"),
    ("tables.0.zeroed", [True], "count"),
    ("tables.0.errors", [], "errors"),
    ("tables.0.errors", {}, "errors"),
    ("tables.0.errors.plain", None, "errors"),
    ("tables.0.errors.plain.fit", None, "a NoneType stands"),
    ("tables.0.errors.plain.fit", -0.1, "must be a number from 0"),
    ("tables.0.errors.distilled.holdout", "0", "a str stands"),
    ("tables.0.errors.distilled.holdout", DELETE, "'holdout'"),
    ("tables.0.cfg", "7", "a str stands"),
    ("tables.0.cfg", True, "a bool stands"),
    ("tables.0.model", None, "model lacks"),
    ("tables.0.model.fingerprint", DELETE, "'fingerprint'"),
    ("tables.0.model.sha", "", "'sha'"),
    ("tables.0.model.name", "x" * 301, "text"),
    ("tables.0.model.name", "a\nb", "text"),
    ("tables.0.model.name", "\x1b[31m", "text"),
    ("tables.0.model.name", "\u202egnp.exe", "text"),
    ("tables.0.latent_shape", [1] * 9, "list"),
    ("tables.0.latent_shape", [-4], "count"),
    ("tables.0.latent_shape", [4.0], "count"),
    ("tables.0.teacher", None, "text"),
    ("tables.0.samples", 4, "samples lacks"),
    ("tables.0.samples.fit", True, "count"),
    ("tables.0.samples.fit", 2**63, "count"),
    ("tables.0.evaluations", "5", "a str stands"),
    ("tables.0.seed", -1, "seed"),
    ("tables.0.seed", 2**64, "seed"),
    ("tables.0.seed", 1.0, "seed"),
    ("tables.0.program", 1, "text"),
]
EDITS += [
    (f"tables.0.{key}", DELETE, f"table 0 lacks or does not know '{key}'")
    for key in VALID["tables"][0]
]


def edited(where: str, value: Any) -> Any:
    changed = copy.deepcopy(VALID)
    *path, last = (int(part) if part.isdigit() else part for part in where.split("."))
    owner: Any = changed
    for part in path:
        owner = owner[part]
    if value is DELETE:
        del owner[last]
    else:
        owner[last] = value
    return changed


@pytest.mark.parametrize(
    ("where", "value", "words"), EDITS, ids=[f"{edit[0]}-{i}" for i, edit in enumerate(EDITS)]
)
def test_values(where: str, value: Any, words: str, tmp_path: Path) -> None:
    path = tmp_path / "bad.dode.json"
    path.write_text(json.dumps(edited(where, value)))
    assert_refused(path, words)


def leaves(value: Any, path: str = "") -> list[str]:
    items = value.items() if isinstance(value, dict) else enumerate(value)
    found = [path] if path else []
    if isinstance(value, dict | list):
        for key, child in items:
            name = f"{path}.{key}" if path else str(key)
            found += leaves(child, name) if isinstance(child, dict | list) else [name]
    return found


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3)
    ),
    max_leaves=5,
)


@settings(max_examples=150)
@given(where=st.sampled_from(leaves(VALID)), value=JSON)
def test_any_value_anywhere_is_read_or_refused(where: str, value: Any) -> None:
    """Nothing but TableError ever leaves the reader."""
    raw = json.dumps(edited(where, value)).encode()
    try:
        assert len(parse_tables(raw, "a.dode.json")) <= 2
    except dode.TableError as error:
        assert str(error).startswith("a.dode.json")


@settings(max_examples=150)
@given(data=st.data())
def test_flipped_bytes_are_read_or_refused(data: st.DataObject) -> None:
    raw = bytearray(RAW)
    for _ in range(data.draw(st.integers(1, 4))):
        raw[data.draw(st.integers(0, len(raw) - 1))] = data.draw(st.integers(0, 255))
    try:
        parse_tables(bytes(raw))
    except dode.TableError as error:
        assert str(error)
