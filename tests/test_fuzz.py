"""Hostile input, 20,000 cases by number and the worst files by design; see benchmarks/fuzz.py."""

from __future__ import annotations

import ast
import json
import os
import random
import struct
import tracemalloc
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import fuzzing
import pytest
import torch
from safetensors.torch import save_file

import dode_core as dode
from dode_core.tables import identity, names, safetensors_header, strict_json
from dode_core.tables.files import read_bytes
from dode_core.tables.table import dump_tables, load_tables, parse_tables

CASES = 20_000
MEMORY = 64 * 1024 * 1024


@pytest.mark.parametrize("target", fuzzing.TARGETS)
def test_every_case_is_valid_or_refused(target: str) -> None:
    """Nothing but our own error leaves the readers, and what they accept is usable."""
    outcomes: Counter[str] = Counter()
    for number in range(round(CASES * fuzzing.SHARES[target])):
        try:
            outcomes[fuzzing.run_case(target, number)] += 1
        except Exception as error:
            pytest.fail(f"python tests/fuzzing.py {target} {number}: {error!r}")
    total = sum(outcomes.values())
    assert 0.3 * total < outcomes["refused"] < 0.95 * total, outcomes  # both ways are walked


def test_cases_depend_on_their_number_alone() -> None:
    for target in fuzzing.TARGETS:
        first = [repr(fuzzing.case(target, n)) for n in range(20)]
        random.seed(7)
        assert [repr(fuzzing.case(target, n)) for n in reversed(range(20))] == first[::-1]
        assert len(set(first)) > 10


# Memory


def full_file(solver: str, rows: int) -> bytes:
    """A valid file with as many rows as are allowed, three columns and a gain."""
    steps = 600 if solver == "heun" else 1000
    sigmas = [float(steps - i) for i in range(steps + 1)]
    count = len(dode.SOLVERS[solver].stages(sigmas))
    lambdas = torch.full((count, 4), 1.5)
    table = dode.LambdaTable(solver, torch.tensor(sigmas), lambdas, gain=True, program="x")
    return dump_tables([table] * (rows // (count + 1)))


def joined(item: Callable[[int], str], count: int, ends: str = "[]") -> bytes:
    return (ends[0] + ",".join(map(item, range(count))) + ends[1]).encode()


most = strict_json.MAX_SEPARATORS // 2 - 10
LARGE: dict[str, Callable[[], bytes]] = {
    "lists": lambda: joined(lambda i: "[]", strict_json.MAX_CONTAINERS - 1),
    "objects": lambda: joined(lambda i: f'{{"{i}":0,"b":1}}', strict_json.MAX_CONTAINERS - 1),
    "keys": lambda: joined(lambda i: f'"{i:06d}":0', most, "{}"),
    "wide keys": lambda: joined(lambda i: f'"\U0001f600{i:06d}":0', most, "{}"),
    "numbers": lambda: joined(lambda i: "1.5", 2 * most),
    "texts": lambda: joined(lambda i: f'"{i:017d}"', 2 * most),
    "one wide text": lambda: ('["\U0001f600' + "a" * (strict_json.MAX_BYTES - 20) + '"]').encode(),
    "escapes": lambda: b'["' + b"\\ud83d\\ude00" * (strict_json.MAX_BYTES // 13) + b'"]',
    "digits": lambda: b"[" + b"9" * (strict_json.MAX_BYTES - 2) + b"]",
    "decimals": lambda: b"[0." + b"9" * (strict_json.MAX_BYTES - 4) + b"]",
    "whitespace": lambda: b" " * strict_json.MAX_BYTES,
    "many tables": lambda: full_file("ipndm", 30_000),
    "many Heun tables": lambda: full_file("heun", 30_000),
    "too many tables": lambda: full_file("ddim", 60_000),
}


@pytest.mark.parametrize("case", LARGE)
def test_memory_is_bounded(case: str) -> None:
    raw = LARGE[case]()
    assert len(raw) <= strict_json.MAX_BYTES
    tracemalloc.start()
    try:
        found = parse_tables(raw)
    except dode.TableError:
        found = []
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak + len(raw) < MEMORY, f"{peak / 2**20:.0f} MiB"
    assert bool(found) == (case in ("many tables", "many Heun tables"))


def test_a_gigabyte_of_whitespace_is_not_read(tmp_path: Path) -> None:
    """A sparse file: no more than the limit ever comes into memory."""
    path = tmp_path / "big.dode.json"
    with path.open("wb") as file:
        file.truncate(2**30)
    tracemalloc.start()
    with pytest.raises(dode.TableError, match="larger than"):
        load_tables(path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 2.5 * strict_json.MAX_BYTES


@pytest.mark.skipif(os.name == "nt", reason="there are no pipes in folders on Windows")
def test_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.dode.json")
    with pytest.raises(dode.TableError, match="no regular file"):
        load_tables(tmp_path / "pipe.dode.json")
    with pytest.raises(dode.TableError, match="no regular file"):
        read_bytes("/dev/zero")


@pytest.mark.parametrize("name", ["a\0b", "\ud800", "x" * 5000], ids=ascii)
def test_paths_that_no_system_takes(name: str, tmp_path: Path) -> None:
    for attempt in (load_tables, lambda path: dode.save_tables(path, [])):
        with pytest.raises(dode.TableError):
            attempt(tmp_path / name)
    assert not list(tmp_path.iterdir())


# Names

BAD_NAMES = [
    *(
        "",
        " ",
        ".",
        "..",
        "../a",
        "a/b",
        "a\\b",
        "/etc/passwd",
        "C:",
        "C:\\a",
        "c:a",
        "\\\\host\\a",
    ),
    *(
        "con",
        "CON",
        "Nul.txt",
        "aux .x",
        "COM1",
        "lpt9",
        "com¹",
        "conin$",
        "a:stream",
        "a\0",
        "a\n",
    ),
    *(".hidden", "a.", "a*", "a?", "a|b", "<a>", 'a"', "\ud800", "\u202eabc", "x" * 101, "模" * 90),
    *(None, 1, ["a"], b"a", Path("a"), ".dode.json", "a/../.dode.json", "%2e%2e%2fa;", "~/a", "$a"),
]


@pytest.mark.parametrize("name", BAD_NAMES, ids=ascii)
def test_names_that_could_leave_the_folder(name: object, tmp_path: Path) -> None:
    with pytest.raises(dode.TableError, match="File name"):
        names.inside(tmp_path, name)


@pytest.mark.parametrize(
    "name", ["a", "My preset (v2).1", "SDXL_b-1+x", "模型", "a.dode.json", " a "]
)
def test_good_names(name: str, tmp_path: Path) -> None:
    path = names.inside(tmp_path, name)
    assert path.parent == tmp_path and path.name.count(".dode.json") == 1
    dode.save_tables(path, [])
    assert [entry.name for entry in tmp_path.iterdir()] == [path.name]


@pytest.mark.skipif(os.name == "nt", reason="links need rights on Windows")
def test_links_out_of_the_folder(tmp_path: Path) -> None:
    folder, outside = tmp_path / "dode", tmp_path / "secret.dode.json"
    folder.mkdir()
    dode.save_tables(outside, [])
    (folder / "link.dode.json").symlink_to(outside)
    (folder / "within.dode.json").symlink_to(folder / "real.dode.json")
    with pytest.raises(dode.TableError, match="outside"):
        names.inside(folder, "link")
    assert names.inside(folder, "within").name == "within.dode.json"
    (tmp_path / "linked").symlink_to(folder)  # a folder that is a link itself is the user's own
    assert names.inside(tmp_path / "linked", "real").name == "real.dode.json"


# Checkpoint headers


def safetensors_bytes(header: object, length: int | None = None, data: bytes = b"") -> bytes:
    raw = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(raw) if length is None else length) + raw + data


def test_header_of_a_real_file(tmp_path: Path) -> None:
    tensors = {
        "a": torch.zeros(2, 3),
        "b": torch.zeros(4, dtype=torch.bfloat16),
        "c": torch.ones(()),
    }
    save_file(tensors, tmp_path / "m.safetensors", metadata={"format": "pt"})
    header = safetensors_header.read_header(tmp_path / "m.safetensors")
    assert header.metadata == {"format": "pt"}
    assert header.tensors == {"a": ("F32", (2, 3)), "b": ("BF16", (4,)), "c": ("F32", ())}


A = {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}
BAD_HEADERS: dict[str, bytes] = {
    "empty": b"",
    "short": b"\x01\x00",
    "claims everything": safetensors_bytes({"a": A}, 2**64 - 1, bytes(4)),
    "claims a gigabyte": safetensors_bytes({"a": A}, 2**30, bytes(4)),
    "not JSON": safetensors_bytes(b"pickle.."),
    "a list": safetensors_bytes([A], data=bytes(4)),
    "nested": safetensors_bytes(b"[" * 100_000),
    "beyond the file": safetensors_bytes({"a": A}, data=bytes(3)),
    "negative": safetensors_bytes({"a": A | {"data_offsets": [-4, 0]}}, data=bytes(4)),
    "huge shape": safetensors_bytes({"a": A | {"shape": [2**62, 2**62]}}, data=bytes(4)),
    "wrong size": safetensors_bytes({"a": A | {"shape": [2]}}, data=bytes(4)),
    "unknown type": safetensors_bytes({"a": A | {"dtype": "object"}}, data=bytes(4)),
    "NaN": safetensors_bytes(b'{"a": NaN}'),
    "digits": safetensors_bytes(b'{"a": ' + b"9" * 100_000 + b"}"),
    "metadata": safetensors_bytes({"__metadata__": {"a": {}}}),
    "too many": safetensors_bytes(b"{" + b'"a":{},' * 200_001 + b'"b":{}}'),
}


@pytest.mark.parametrize("case", BAD_HEADERS)
def test_bad_headers(case: str, tmp_path: Path) -> None:
    path = tmp_path / "bad.safetensors"
    path.write_bytes(BAD_HEADERS[case])
    with pytest.raises(dode.TableError, match=r"^bad\.safetensors is no valid safetensors file"):
        safetensors_header.read_header(path)


def test_fingerprint_reads_little_of_a_large_file(tmp_path: Path) -> None:
    path = tmp_path / "large.safetensors"
    with path.open("wb") as file:
        file.write(b"head")
        file.truncate(2**34)
    mark = identity.file_fingerprint(path)
    with path.open("r+b") as file:
        file.seek(2**33 - 10)
        file.write(b"x")
    assert len(mark) == 16 and identity.file_fingerprint(path) != mark


def test_nothing_here_unpickles() -> None:
    """No pickle, torch.load or eval in what we ship; numpy is told not to unpickle."""
    root = Path(__file__).parent.parent
    parts = ("dode_core", "nodes", "scripts")
    shipped = [path for part in parts for path in root.glob(f"{part}/**/*.py")]
    assert len(shipped) > 30
    for path in [*shipped, *root.glob("*.py")]:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            modules = [a.name for a in node.names] if isinstance(node, ast.Import) else []
            modules += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            assert not {"pickle", "marshal", "shelve", "dill"} & set(modules), path
            if isinstance(node, ast.Call):
                call = ast.unparse(node.func)
                assert call not in ("torch.load", "eval", "exec", "os.system"), f"{path}: {call}"
                assert call != "np.load" or "allow_pickle=False" in ast.unparse(node), path
