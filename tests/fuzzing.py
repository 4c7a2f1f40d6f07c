"""Hostile input by number: case n of a target is always the same bytes, whatever ran before.

``python tests/fuzzing.py TARGET N`` runs one case again and shows what it was.
"""

from __future__ import annotations

import io
import json
import math
import random
import sys
from collections.abc import Callable, Mapping
from copy import deepcopy
from pathlib import Path
from typing import Any

for folder in (Path(__file__).parent, Path(__file__).parent.parent):
    if str(folder) not in sys.path:
        sys.path.insert(0, str(folder))

from problems import karras  # noqa: E402
from tables import document, made_up, same  # noqa: E402

import dode_core as dode  # noqa: E402
from dode_core.match.resolve import resolve  # noqa: E402
from dode_core.solve.stages import LookAhead  # noqa: E402
from dode_core.tables import names, presets, safetensors_header  # noqa: E402
from dode_core.tables.table import dump_tables, parse_tables  # noqa: E402

NUMBERS: list[Any] = [
    *(
        0,
        1,
        -1,
        2,
        7,
        1000,
        4096,
        4097,
        2**31,
        2**53 + 1,
        2**63,
        2**64,
        10**30,
        10**310,
        -(10**310),
    ),
    *(0.0, -0.0, 1e-320, 1e-300, 1e-16, 1e-15, 2e-15, 1e-4, 0.5, 0.9999, 0.99995, 1.0, 1.0001),
    *(
        14.6,
        80.0,
        999999.0,
        1e6,
        1.1e6,
        1e300,
        1.7e308,
        1e4,
        1.0001e4,
        math.nan,
        math.inf,
        -math.inf,
    ),
]
TEXTS: list[Any] = [
    *("", " ", "ddim", "heun", "deis", "dpmpp_2m", "ve", "flow", "eps", "denoised", "NaN", "null"),
    *("\x00", "a\nb", "\ud800", "\u202e", "\U0001f600", "é" * 300, "x" * 301, "../../x", "CON"),
]
OTHERS: list[Any] = [None, True, False, [], {}, [[]], [None], {"": 0}, [[0.1]], [[[0.1]]]]
SPELLINGS = [
    b"NaN",
    b"nan",
    b"-NaN",
    b"Infinity",
    b"-Infinity",
    b"1e999",
    b"-1e999",
    b"0x10",
    b"01",
]
SPELLINGS += [
    b"1_000",
    b"+1",
    b".5",
    b"1.",
    b"1e",
    b"--1",
    b"'1'",
    b"\xff",
    b"\\ud800",
    b'"\\ud800"',
]
SOUP = b'[]{}:,"0123456789.eE+-\\ \n\t\x00\xffnulltruefalse'


def _corpus() -> list[str]:
    """Valid files of every solver and shape."""
    files = []
    for i, solver in enumerate(dode.SOLVERS):
        kind = "flow" if i % 2 else "ve"
        top = 1.0 if kind == "flow" else 14.6
        columns, gain = 1 + i % 3, bool(i % 2)
        grid = karras(3 + i % 3, 0.03, top)
        one = made_up(solver, grid, parametrization=kind, columns=columns, gain=gain, draw=i)
        other = made_up(solver, karras(6, 0.03, top), parametrization=kind, cfg=7.0, draw=i + 9)
        looks = {"learned_sigmas": True, "look_ahead": LookAhead(0.9 * top, (0.5, -0.1))}
        third = made_up(solver, karras(5, 0.03, top), parametrization=kind, draw=i + 18, **looks)
        files.append(json.dumps(document(one, other, third)))
    return files


CORPUS = _corpus()
POOL = [table for file in CORPUS for table in parse_tables(file.encode())]


def _any(rng: random.Random) -> Any:
    return deepcopy(rng.choice(rng.choice((NUMBERS, NUMBERS, TEXTS, OTHERS))))


def _sigma(rng: random.Random) -> float:
    kind = rng.random()
    if kind < 0.7:
        return math.exp(rng.uniform(-8, 5))
    return float(rng.choice([0.0, 1e-15, 1e-9, 0.5, 1.0, 1 - 1e-9, 14.6, 1e6, 1e5]))


def _grid(rng: random.Random) -> list[float]:
    """Mostly a usable grid: long steps, repeats, near repeats, either direction."""
    grid = sorted((_sigma(rng) for _ in range(rng.randint(1, 9))), reverse=rng.random() < 0.9)
    if rng.random() < 0.3:
        i = rng.randrange(len(grid))
        grid.insert(i, grid[i] * (1 + rng.choice([0.0, 1e-16, 1e-12, 1e-6])))
    if rng.random() < 0.2:
        rng.shuffle(grid)
    return grid + [0.0] * (rng.random() < 0.5)


def _other_grid(rng: random.Random, entry: dict[str, Any]) -> None:
    """A table on another grid, with the number of rows that its solver makes of it, or nearly."""
    grid = _grid(rng)
    try:
        rows = len(dode.SOLVERS[entry["solver"]].stages(grid, entry["parametrization"]))
    except (dode.DodeError, KeyError, TypeError):
        rows = len(grid) - 1
    width = rng.randint(1, 3) + bool(entry.get("gain"))
    rows += rng.choice([0] * 9 + [1])
    value = rng.choice([0.0, 1.0, -1.0, 1e4, rng.gauss(0, 1)])
    entry["sigmas"] = grid
    entry["lambdas"] = [[value * rng.random() for _ in range(width)] for _ in range(rows)]
    entry["zeroed"] = []


def _walk(rng: random.Random, root: Any) -> tuple[Any, Any]:
    """A random place: (its owner, its key)."""
    owner, key = {"": root}, ""
    while isinstance(owner[key], dict | list) and owner[key] and rng.random() < 0.85:
        owner = owner[key]
        key = rng.choice(list(owner)) if isinstance(owner, dict) else rng.randrange(len(owner))
    return owner, key


def _structured(rng: random.Random, root: dict[str, Any]) -> None:
    """One change of the tree."""
    owner, key = _walk(rng, root)
    change = rng.randrange(6)
    if change == 0:
        owner[key] = _any(rng)
    elif change == 1:
        del owner[key]
    elif change == 2 and isinstance(owner, dict):
        owner[rng.choice(["x", "solver", "Solver", "", "\ud800", "format"])] = _any(rng)
    elif change == 3 and isinstance(owner, list):
        owner[key:key] = [owner[key]] * rng.choice([1] * 20 + [2] * 20 + [1000])
    elif change == 4:
        other, place = _walk(rng, root)
        owner[key], other[place] = deepcopy(other[place]), deepcopy(owner[key])
    elif isinstance(root.get("tables"), list) and root["tables"]:
        entry = rng.choice(root["tables"])
        if isinstance(entry, dict):
            _other_grid(rng, entry)


def _bytes(rng: random.Random, raw: bytearray) -> None:
    """One change of the text."""
    at = rng.randrange(len(raw) + 1)
    length = min(len(raw) - at, int(rng.expovariate(0.1)))
    change = rng.randrange(8)
    if change == 0:
        raw[at : at + length] = bytes(rng.randrange(256) for _ in range(length))
    elif change == 1:
        raw[at : at + length] = bytes(rng.choice(SOUP) for _ in range(length + 1))
    elif change == 2:
        del raw[at : at + length]
    elif change == 3:
        raw[at:at] = raw[at : at + 30 * length]
    elif change == 4:
        del raw[at:]
    elif change == 5:
        raw[at:at] = rng.choice([b"[", b"{", b'{"a":', b" ", b"\n", b","]) * rng.choice(
            [1, 90, 3000]
        )
    else:
        numbers = [i for i, byte in enumerate(raw) if byte in b":,["]
        start = rng.choice(numbers) + 1 if numbers else at
        end = next((i for i in range(start, len(raw)) if raw[i] in b",]}"), len(raw))
        raw[start:end] = rng.choice(SPELLINGS)


def table_bytes(rng: random.Random) -> bytes:
    """A table file, changed a little, a lot, or made of noise."""
    kind = rng.random()
    if kind < 0.05:
        return bytes(rng.randrange(256) for _ in range(rng.randrange(400)))
    if kind < 0.1:
        return bytes(rng.choice(SOUP) for _ in range(rng.randrange(400)))
    root = json.loads(rng.choice(CORPUS))
    if kind < 0.45:
        _other_grid(rng, rng.choice(root["tables"]))
    for _ in range(rng.choice([0, 1, 1, 2, 4] if kind < 0.45 else [1, 1, 2, 4])):
        if not isinstance(root, dict):
            break
        _structured(rng, root)
    raw = bytearray(json.dumps(root, indent=1 if kind > 0.98 else None).encode("utf-8", "replace"))
    if kind > 0.75:
        for _ in range(rng.choice([1, 1, 2, 5])):
            _bytes(rng, raw)
    return bytes(raw)


def read_tables(raw: bytes) -> str:
    """Valid tables that survive a round trip and serve any run, or our own error."""
    try:
        tables = parse_tables(raw, "t.dode.json")
    except dode.TableError as error:
        _check_message(error, "t.dode.json")
        return "refused"
    again = parse_tables(dump_tables(tables))  # which fills in who wrote it, where nobody is named
    assert all(same(a, b) or not a.program for a, b in zip(tables, again, strict=True))
    for table in tables:
        table.describe(), table.key()
        for grid in (table.sigmas.tolist(), table.sigmas.tolist()[1:], [14.6, 3.0, 0.5, 0.0]):
            _run(tables, grid, None, None, table.parametrization)
    return "valid"


def _check_message(error: Exception, start: str = "") -> None:
    message = str(error)
    assert message.startswith(start) and "\n" not in message and len(message) < 600, message
    message.encode()  # can be printed


def _run(*args: Any) -> str:
    tables, grid, solver, cfg, parametrization = args
    try:
        found = resolve(tables, grid, solver=solver, cfg=cfg, parametrization=parametrization)
    except dode.DodeError as error:
        _check_message(error)
        return "refused"
    assert len(found.stages) == len(found.lambdas)
    for stage, row in zip(found.stages, found.lambdas, strict=True):
        values = [stage.start, stage.here, *stage.b, *row, *(v for c in stage.c for v in c)]
        assert all(map(math.isfinite, values)), (found.kind, stage, row)
    return found.kind


def resolver_input(rng: random.Random) -> tuple[Any, ...]:
    tables = rng.sample(POOL, rng.randint(0, 6))
    grid: Any = _grid(rng)
    if tables and rng.random() < 0.5:
        own = rng.choice(tables).sigmas.tolist()
        low = rng.randrange(len(own))
        grid = [
            s * (1 + rng.choice([0, 1e-6, 1e-3])) for s in own[low : rng.randint(low, len(own)) + 1]
        ]
    if rng.random() < 0.2:
        for _ in range(rng.randint(1, 3)):
            grid.insert(rng.randrange(len(grid) + 1), _any(rng))
    if rng.random() < 0.02:
        grid = _any(rng)
    solver = rng.choice([None] * 12 + [*dode.SOLVERS, _any(rng)])
    cfg = rng.choice([None, 1.0, 7.0, 7, 1e300])
    return tables, grid, solver, cfg, rng.choice(["ve"] * 12 + ["flow"] * 12 + ["vp"])


NAME_PARTS = [
    *(
        "a",
        "Preset",
        "..",
        ".",
        "/",
        "\\",
        "C:",
        "C:\\",
        "\\\\server\\share",
        "\x00",
        "\n",
        " ",
        "~",
    ),
    *(
        "con",
        "NUL",
        "com1",
        "LPT9",
        "aux.txt",
        ":stream",
        ".dode.json",
        "é",
        "\ud800",
        "\u202e",
        "%2e",
    ),
    *(
        "$HOME",
        "*",
        "?",
        "|",
        "<",
        ">",
        '"',
        "'",
        ";",
        "-",
        "_",
        "+",
        "(",
        ")",
        "x" * 90,
        "模型",
        "e\u0301",
    ),
]


def name_input(rng: random.Random) -> Any:
    if rng.random() < 0.02:
        return _any(rng)
    return "".join(rng.choice(NAME_PARTS) for _ in range(rng.randint(0, 5)))


def use_name(name: Any) -> str:
    """A path directly in the folder, or our own error; nothing is created."""
    folder = Path("/nonexistent/models/dode")
    try:
        path = names.inside(folder, name)
    except dode.TableError as error:
        _check_message(error)
        return "refused"
    assert path.parent == folder and path.name.endswith(".dode.json")
    assert not set(path.name) & set('/\\:*?"<>|\x00\n') and path.name[0] != "."
    return "valid"


def header_input(rng: random.Random) -> bytes:
    """A safetensors file, changed."""
    size = rng.randint(0, 64)
    root: Any = {
        "__metadata__": {"format": "pt"},
        "a.weight": {"dtype": "F32", "shape": [size // 8, 2], "data_offsets": [0, size // 8 * 8]},
        "b": {"dtype": "F16", "shape": [], "data_offsets": [size // 8 * 8, size // 8 * 8 + 2]},
    }
    for _ in range(rng.choice([0, 1, 2])):
        if isinstance(root, dict):
            _structured(rng, root)
    raw = bytearray(json.dumps(root).encode("utf-8", "replace"))
    if rng.random() < 0.4:
        _bytes(rng, raw)
    length = rng.choice([len(raw)] * 6 + [0, 2**63, 2**64 - 1, len(raw) + 1, rng.randrange(2**40)])
    return length.to_bytes(8, "little")[: rng.choice([8] * 20 + [3])] + bytes(raw) + bytes(size + 2)


def read_header(raw: bytes) -> str:
    try:
        header = safetensors_header.parse_header(io.BytesIO(raw), len(raw))
    except dode.TableError as error:
        _check_message(error)
        return "refused"
    assert all(math.prod(shape) <= 8 * len(raw) for _, shape in header.tensors.values())
    return "valid"


def index_bytes(rng: random.Random) -> bytes:
    """A preset index, changed."""
    entry = {
        **{"file": "a.dode.json", "sha256": "0" * 64, "tables": 2, "model": "m", "note": ""},
        **{"models": ["file:0"], "parametrization": "ve", "solvers": ["ddim"]},
        **{"steps": [4, 5], "cfgs": [1.0, 7.0]},
    }
    other = entry | {"file": "b.dode.json"}
    root: Any = {"format": presets.FORMAT, "version": 1, "presets": [entry, other]}
    for _ in range(rng.choice([0, 1, 1, 2])):
        if isinstance(root, dict):
            _structured(rng, root)
    raw = bytearray(json.dumps(root).encode("utf-8", "replace"))
    if rng.random() < 0.3:
        _bytes(rng, raw)
    return bytes(raw)


def read_index(raw: bytes) -> str:
    """Presets with plain names, or our own error."""
    try:
        found = presets.parse_index(raw)
    except dode.TableError as error:
        _check_message(error, presets.INDEX)
        return "refused"
    for preset in found:
        assert names.file_name(preset.file) == preset.file and preset.describe()
        preset.serves("weights:1 file:0")
    return "valid"


Make, Use = Callable[[random.Random], Any], Callable[[Any], str]
TARGETS: Mapping[str, tuple[Make, Use]] = {
    "tables": (table_bytes, read_tables),
    "resolver": (resolver_input, lambda args: _run(*args)),
    "names": (name_input, use_name),
    "headers": (header_input, read_header),
    "index": (index_bytes, read_index),
}
SHARES = {"tables": 0.55, "resolver": 0.25, "names": 0.07, "headers": 0.06, "index": 0.07}


def case(target: str, number: int) -> Any:
    """The input of one case."""
    return TARGETS[target][0](random.Random(f"{target} {number}"))


def run_case(target: str, number: int) -> str:
    """Run one case: the word that says what became of it. Any exception is a finding."""
    return TARGETS[target][1](case(target, number))


if __name__ == "__main__":
    print(ascii(case(sys.argv[1], int(sys.argv[2]))))
    print(run_case(sys.argv[1], int(sys.argv[2])))
