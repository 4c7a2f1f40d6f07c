"""The text of a table file: tables from bytes, strictly, and bytes from tables, exactly.

See docs/table-format.md. Files are shared on the internet: sizes, types, finiteness and names are
checked, and nothing is executed.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from . import strict
from .errors import DodeError, TableError
from .strict import MAX_BYTES
from .version import PROGRAM

if TYPE_CHECKING:
    from .table import LambdaTable

FORMAT, VERSION = "dode-lambda-tables", 1
MAX_TABLES = 1000
MAX_ROWS = 30_000  # of lambdas in all tables of a file; each becomes a stage of about 1 KiB


def parse_tables(raw: bytes, name: str = "table file") -> list[LambdaTable]:
    """Tables from the bytes of a file. Raises :class:`TableError` that starts with ``name``."""
    return strict.parse_json(raw, name, _document)


def dump_tables(tables: Sequence[LambdaTable]) -> bytes:
    """The bytes of a file with these tables: readable, one number row a line, exact floats."""
    entries = ",\n".join(_pretty(_entry(table)) for table in tables)
    head = f'{{\n"format": "{FORMAT}",\n"version": {VERSION},\n"tables": [\n'
    raw = f"{head}{entries}\n]\n}}\n".encode("ascii")
    if len(raw) > MAX_BYTES:
        raise TableError(f"The tables take {len(raw)} bytes; a file holds at most {MAX_BYTES}.")
    return raw


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
        **_look_ahead(table),
        "gain": table.gain,
        "lambdas": table.lambdas.tolist(),
        "zeroed": list(table.zeroed),
        "errors": errors,
        "model": {"name": table.model_name, "fingerprint": table.model_fingerprint},
        "cfg": table.cfg,
        "latent_shape": list(table.latent_shape),
        "teacher": table.teacher,
        "samples": {
            "fit": table.samples_fit,
            "holdout": table.samples_holdout,
            **({"dropped": table.dropped} if table.dropped else {}),
        },
        "evaluations": table.evaluations,
        "seed": table.seed,
        "program": table.program or PROGRAM,
    }


def _look_ahead(table: LambdaTable) -> dict[str, Any]:
    ahead = table.look_ahead
    return {"look_ahead": {"sigma": ahead.sigma, "mean": list(ahead.mean)}} if ahead else {}


def _pretty(entry: Mapping[str, Any]) -> str:
    lines = [f"  {json.dumps(key)}: {json.dumps(value)}" for key, value in entry.items()]
    return " {\n" + ",\n".join(lines) + "\n }"


def _document(document: Any) -> list[LambdaTable]:
    if not isinstance(document, dict) or document.get("format") != FORMAT:
        raise TableError(f'it is no table file (its "format" is not "{FORMAT}").')
    version = document.get("version")
    if type(version) is not int or version != VERSION:
        known = isinstance(version, int | float | str)
        shown = ascii(str(version) if known else type(version).__name__)[1:-1][:20]
        raise TableError(
            f"its version is {shown}, this program reads {VERSION}; update the program."
        )
    strict.keys(document, {"format", "version", "tables"}, "the file")
    entries = document["tables"]
    if not isinstance(entries, list) or len(entries) > MAX_TABLES:
        raise TableError(f'"tables" must be a list of at most {MAX_TABLES}.')
    rows = sum(_size(entry) for entry in entries)
    if rows > MAX_ROWS:
        raise TableError(
            f"its tables have {rows} steps in all, at most {MAX_ROWS} are read; split the file."
        )
    return [_table(entry, i) for i, entry in enumerate(entries)]


def _size(entry: Any) -> int:
    """Steps or rows that building this table would take, before anything is known to be valid."""
    lists = (entry.get("sigmas"), entry.get("lambdas")) if isinstance(entry, dict) else ()
    return max((len(value) for value in lists if isinstance(value, list)), default=0)


def _table(entry: Any, index: int) -> LambdaTable:
    from .solvers import LookAhead
    from .table import MAX_CHANNELS, Errors, LambdaTable

    where = f"table {index}"
    if not isinstance(entry, dict):
        raise TableError(f"{where} is not an object.")
    known = set(_FIELDS) | {"errors", "model", "samples"} | ({"look_ahead"} & set(entry))
    strict.keys(entry, known, where)
    try:
        value = {key: read(entry[key]) for key, read in _FIELDS.items()}
        if "look_ahead" in entry:
            ahead = entry["look_ahead"]
            strict.keys(ahead, {"sigma", "mean"}, "look_ahead")
            mean = strict.listed(strict.number, MAX_CHANNELS)(ahead["mean"])
            value["look_ahead"] = LookAhead(strict.number(ahead["sigma"]), tuple(mean))
        errors = entry["errors"]
        if errors is not None:
            strict.keys(errors, {"plain", "distilled"}, "errors")
            for row in errors.values():
                strict.keys(row, {"fit", "holdout"}, "errors")
            errors = Errors(
                strict.number(errors["plain"]["fit"]),
                strict.number(errors["distilled"]["fit"]),
                strict.optional(strict.number)(errors["plain"]["holdout"]),
                strict.optional(strict.number)(errors["distilled"]["holdout"]),
            )
        strict.keys(entry["model"], {"name", "fingerprint"}, "model")
        samples = entry["samples"]
        dropped = {"dropped"} if isinstance(samples, dict) and "dropped" in samples else set()
        strict.keys(samples, {"fit", "holdout"} | dropped, "samples")
        output = value.pop("output")
        table = LambdaTable(
            **value,
            errors=errors,
            model_name=strict.text(entry["model"]["name"]),
            model_fingerprint=strict.text(entry["model"]["fingerprint"]),
            samples_fit=strict.count(samples["fit"]),
            samples_holdout=strict.count(samples["holdout"]),
            dropped=strict.count(samples.get("dropped", 0)),
        )
    except DodeError as error:
        raise TableError(f"{where}: {error}") from error
    expected = table.stages[0].output if table.stages else "eps"
    if output != expected:
        raise TableError(f'{where}: output is "{output}", but {table.solver} uses "{expected}".')
    if any(i >= len(table.stages) for i in table.zeroed):
        raise TableError(f"{where}: zeroed names a stage beyond {len(table.stages) - 1}.")
    return table


def _rows(value: Any) -> list[list[float]]:
    rows = strict.listed(strict.listed(strict.number, 8), 10_000)(value)
    if len({len(row) for row in rows}) > 1:
        raise TableError("the rows of lambdas differ in length.")
    return rows


_FIELDS: Mapping[str, Callable[[Any], Any]] = {
    "solver": strict.text,
    "output": strict.text,
    "parametrization": strict.text,
    "sigmas": strict.listed(strict.number, 4096),
    "learned_sigmas": strict.flag,
    "gain": strict.flag,
    "lambdas": _rows,
    "zeroed": lambda value: tuple(strict.listed(strict.count, 10_000)(value)),
    "cfg": strict.optional(strict.number),
    "latent_shape": lambda value: tuple(strict.listed(strict.count, 8)(value)),
    "teacher": strict.text,
    "evaluations": strict.number,
    "seed": strict.optional(strict.seed),
    "program": strict.text,
}
