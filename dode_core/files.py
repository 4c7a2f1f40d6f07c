"""Table files, ``*.dode.json``: a strict reader and an atomic writer. See docs/table-format.md.

Files are shared on the internet: sizes, types, finiteness and names are checked, nothing is
executed, and a file that is not valid is never changed.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
import os
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .errors import DodeError, TableError
from .version import PROGRAM

if TYPE_CHECKING:
    from .table import LambdaTable

FORMAT, VERSION = "dode-lambda-tables", 1
SUFFIX = ".dode.json"
MAX_BYTES = 4 * 1024 * 1024
MAX_TABLES = 1000
MAX_TEXT = 300
_LOCK_SECONDS = 30.0


def load_tables(path: str | Path) -> list[LambdaTable]:
    """Every table of a file, in file order. Raises :class:`TableError` with the reason."""
    path = Path(path)
    try:
        with path.open("rb") as file:
            raw = file.read(MAX_BYTES + 1)
    except OSError as error:
        raise TableError(f"{path.name} cannot be read: {error.strerror or error}.") from error
    if len(raw) > MAX_BYTES:
        raise TableError(f"{path.name} is larger than {MAX_BYTES} bytes; it is no table file.")
    return parse_tables(raw, path.name)


def parse_tables(raw: bytes, name: str = "table file") -> list[LambdaTable]:
    """Tables from the bytes of a file. Raises :class:`TableError` that starts with ``name``."""
    try:
        document = json.loads(
            raw.decode("utf-8"),
            object_pairs_hook=_no_duplicates,
            parse_constant=_no_constant,
        )
        return _document(document)
    except TableError as error:
        raise TableError(f"{name}: {error}") from error
    except RecursionError as error:
        raise TableError(f"{name} is nested too deeply; it is no table file.") from error
    except ValueError as error:  # json, unicode, integers of thousands of digits, DodeError
        detail = str(error) if isinstance(error, DodeError) else f"not valid JSON ({error})."
        raise TableError(f"{name}: {detail}") from error


def save_tables(path: str | Path, tables: Sequence[LambdaTable]) -> None:
    """Add tables to a file, replacing those with equal keys; atomic, one writer at a time."""
    path = Path(path)
    with _lock(path):
        merged = {table.key(): table for table in (load_tables(path) if path.exists() else [])}
        for table in tables:
            merged.pop(table.key(), None)  # the newest goes last
            merged[table.key()] = table
        if len(merged) > MAX_TABLES:
            raise TableError(f"{path.name} would hold {len(merged)} tables; {MAX_TABLES} is most.")
        raw = dump_tables(list(merged.values()))
        parse_tables(raw, path.name)  # what cannot be read back is refused before it is written
        write_atomically(path, raw)


def dump_tables(tables: Sequence[LambdaTable]) -> bytes:
    """The bytes of a file with these tables: readable, one number row a line, exact floats."""
    entries = ",\n".join(_pretty(_entry(table)) for table in tables)
    head = f'{{\n"format": "{FORMAT}",\n"version": {VERSION},\n"tables": [\n'
    raw = f"{head}{entries}\n]\n}}\n".encode("ascii")
    if len(raw) > MAX_BYTES:
        raise TableError(f"The tables take {len(raw)} bytes; a file holds at most {MAX_BYTES}.")
    return raw


def write_atomically(path: Path, raw: bytes) -> None:
    """Write beside the target, flush to the disk, rename: never a half-written file."""
    path = Path(os.path.realpath(path))  # a link stays a link
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(prefix=".dode-", suffix=".tmp", dir=path.parent)
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(raw)
                file.flush()
                os.fsync(file.fileno())
            os.chmod(temporary, 0o644)
            os.replace(temporary, path)
        except BaseException:
            with contextlib.suppress(OSError):
                os.unlink(temporary)
            raise
    except OSError as error:
        raise TableError(
            f"{path} cannot be written ({error.strerror or error}); choose another folder."
        ) from error


@contextlib.contextmanager
def _lock(path: Path) -> Iterator[None]:
    """One writer per file across processes, by a lock file in the temporary folder."""
    digest = hashlib.sha256(os.path.normcase(os.path.realpath(path)).encode()).hexdigest()[:16]
    lock = Path(tempfile.gettempdir()) / f"dode-{digest}.lock"
    try:
        handle = os.open(lock, os.O_RDWR | os.O_CREAT, 0o666)
    except OSError as error:
        raise TableError(
            f"{path.name} cannot be locked for writing ({lock}: {error.strerror or error}); make "
            "the temporary folder writable."
        ) from error
    try:
        deadline = time.monotonic() + _LOCK_SECONDS
        while not _try_lock(handle):
            if time.monotonic() > deadline:
                raise TableError(f"{path.name} is being written by another program; try again.")
            time.sleep(0.02)
        yield
    finally:
        os.close(handle)  # which releases the lock


def _try_lock(handle: int) -> bool:
    try:
        if os.name == "nt":
            import msvcrt

            msvcrt.locking(handle, msvcrt.LK_NBLCK, 1)  # type: ignore[attr-defined]
        else:
            import fcntl

            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True


def _entry(table: LambdaTable) -> dict[str, Any]:
    errors = None
    if table.errors:
        e = table.errors
        errors = {
            "plain": {"fit": e.plain_fit, "holdout": e.plain_holdout},
            "distilled": {"fit": e.distilled_fit, "holdout": e.distilled_holdout},
        }
    return {
        "solver": table.solver,
        "output": table.stages[0].output if table.stages else "eps",
        "parametrization": table.parametrization,
        "sigmas": table.sigmas.tolist(),
        "learned_sigmas": table.learned_sigmas,
        "gain": table.gain,
        "lambdas": table.lambdas.tolist(),
        "zeroed": list(table.zeroed),
        "errors": errors,
        "model": {"name": table.model_name, "fingerprint": table.model_fingerprint},
        "cfg": table.cfg,
        "latent_shape": list(table.latent_shape),
        "teacher": table.teacher,
        "samples": {"fit": table.samples_fit, "holdout": table.samples_holdout},
        "evaluations": table.evaluations,
        "seed": table.seed,
        "program": table.program or PROGRAM,
    }


def _pretty(entry: Mapping[str, Any]) -> str:
    lines = [f"  {json.dumps(key)}: {json.dumps(value)}" for key, value in entry.items()]
    return " {\n" + ",\n".join(lines) + "\n }"


def _no_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in pairs:
        if key in found:
            raise TableError(f"the key {key[:40]!r} occurs twice; keep one.")
        found[key] = value
    return found


def _no_constant(name: str) -> float:
    raise TableError(f"{name} is not a number a table may hold.")


def _document(document: Any) -> list[LambdaTable]:
    if not isinstance(document, dict) or document.get("format") != FORMAT:
        raise TableError(f'it is no table file (its "format" is not "{FORMAT}").')
    version = document.get("version")
    if type(version) is not int or version != VERSION:
        shown = version if isinstance(version, int | float | str) else type(version).__name__
        raise TableError(
            f"its version is {str(shown)[:20]}, this program reads {VERSION}; update the program."
        )
    _keys(document, {"format", "version", "tables"}, "the file")
    entries = document["tables"]
    if not isinstance(entries, list) or len(entries) > MAX_TABLES:
        raise TableError(f'"tables" must be a list of at most {MAX_TABLES}.')
    return [_table(entry, i) for i, entry in enumerate(entries)]


def _table(entry: Any, index: int) -> LambdaTable:
    from .table import Errors, LambdaTable

    where = f"table {index}"
    if not isinstance(entry, dict):
        raise TableError(f"{where} is not an object.")
    known = set(_FIELDS) | {"errors", "model", "samples"}
    _keys(entry, known, where)
    try:
        value = {key: read(entry[key]) for key, read in _FIELDS.items()}
        errors = entry["errors"]
        if errors is not None:
            _keys(errors, {"plain", "distilled"}, "errors")
            for row in errors.values():
                _keys(row, {"fit", "holdout"}, "errors")
            errors = Errors(
                _number(errors["plain"]["fit"]),
                _number(errors["distilled"]["fit"]),
                _optional(_number)(errors["plain"]["holdout"]),
                _optional(_number)(errors["distilled"]["holdout"]),
            )
        _keys(entry["model"], {"name", "fingerprint"}, "model")
        _keys(entry["samples"], {"fit", "holdout"}, "samples")
        output = value.pop("output")
        table = LambdaTable(
            **value,
            errors=errors,
            model_name=_text(entry["model"]["name"]),
            model_fingerprint=_text(entry["model"]["fingerprint"]),
            samples_fit=_count(entry["samples"]["fit"]),
            samples_holdout=_count(entry["samples"]["holdout"]),
        )
    except DodeError as error:
        raise TableError(f"{where}: {error}") from error
    expected = table.stages[0].output if table.stages else "eps"
    if output != expected:
        raise TableError(f'{where}: output is "{output}", but {table.solver} uses "{expected}".')
    if any(i >= len(table.stages) for i in table.zeroed):
        raise TableError(f"{where}: zeroed names a stage beyond {len(table.stages) - 1}.")
    return table


def _keys(value: Any, wanted: set[str], where: str) -> None:
    if not isinstance(value, dict) or set(value) != wanted:
        found = set(value) if isinstance(value, dict) else set()
        wrong = sorted(found ^ wanted)[:3]
        shown = ", ".join(repr(key[:40]) for key in wrong) or type(value).__name__
        raise TableError(f"{where} lacks or does not know {shown}.")


def _number(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TableError(f"a {type(value).__name__} stands where a number belongs.")
    if not abs(value) < 1e300 or not math.isfinite(value):
        raise TableError("a number is not finite.")
    return float(value)


def _count(value: Any) -> int:
    if type(value) is not int or not 0 <= value < 2**63:
        raise TableError("a count is not a whole number from 0 up.")
    return value


def _seed(value: Any) -> int:
    if type(value) is not int or not 0 <= value < 2**64:
        raise TableError("the seed is not a whole number from 0 up.")
    return value


def _flag(value: Any) -> bool:
    if not isinstance(value, bool):
        raise TableError("a flag is neither true nor false.")
    return value


def _text(value: Any) -> str:
    if not isinstance(value, str) or len(value) > MAX_TEXT or not value.isprintable():
        raise TableError(f"a text is not printable or longer than {MAX_TEXT} characters.")
    return value


def _list(read: Callable[[Any], Any], most: int) -> Callable[[Any], list[Any]]:
    def read_list(value: Any) -> list[Any]:
        if not isinstance(value, list) or len(value) > most:
            raise TableError(f"a list of at most {most} entries was expected.")
        return [read(item) for item in value]

    return read_list


def _optional(read: Callable[[Any], Any]) -> Callable[[Any], Any]:
    return lambda value: None if value is None else read(value)


def _rows(value: Any) -> list[list[float]]:
    rows = _list(_list(_number, 8), 10_000)(value)
    if len({len(row) for row in rows}) > 1:
        raise TableError("the rows of lambdas differ in length.")
    return rows


_FIELDS: Mapping[str, Callable[[Any], Any]] = {
    "solver": _text,
    "output": _text,
    "parametrization": _text,
    "sigmas": _list(_number, 4096),
    "learned_sigmas": _flag,
    "gain": _flag,
    "lambdas": _rows,
    "zeroed": lambda value: tuple(_list(_count, 10_000)(value)),
    "cfg": _optional(_number),
    "latent_shape": lambda value: tuple(_list(_count, 8)(value)),
    "teacher": _text,
    "evaluations": _number,
    "seed": _optional(_seed),
    "program": _text,
}
