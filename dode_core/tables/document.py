"""The text of a table file: fields from bytes, strictly, and bytes from tables, exactly.

See docs/table-format.md. Files are shared on the internet: sizes, types, finiteness and names are
checked, and nothing is executed.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

from ..errors import DodeError, TableError
from ..solve.directions import columns_and_gain
from ..solve.stages import MAX_CHANNELS, LookAhead
from ..version import PROGRAM
from . import strict_json
from .strict_json import MAX_BYTES

FORMAT, VERSION = "dode-lambda-tables", 1
MAX_TABLES = 1000
MAX_ROWS = 30_000  # of lambdas in all tables of a file; each becomes a stage of about 1 KiB
MAX_WIDTH = 8  # lambdas a stage
_OPTIONAL = {"look_ahead", "directions", "asked_sigmas", "peer_errors"}
Built = TypeVar("Built")
Build = Callable[[str, Mapping[str, Any]], Built]


def parse_document(raw: bytes, name: str, build: Build[Built]) -> list[Built]:
    """``build(output, fields)`` of every table in the bytes of a file, in their order.

    Knows what a file looks like, not what a table is: ``fields`` are :class:`LambdaTable`'s, the
    errors as a tuple of four. Raises :class:`TableError` that starts with ``name``.
    """
    return strict_json.parse_json(raw, name, lambda document: _document(document, build))


def dump_document(tables: Sequence[Any]) -> bytes:
    """The bytes of a file with these tables: readable, one number row a line, exact floats."""
    entries = ",\n".join(_pretty(_entry(table)) for table in tables)
    head = f'{{\n"format": "{FORMAT}",\n"version": {VERSION},\n"tables": [\n'
    raw = f"{head}{entries}\n]\n}}\n".encode("ascii")
    if len(raw) > MAX_BYTES:
        raise TableError(f"The tables take {len(raw)} bytes; a file holds at most {MAX_BYTES}.")
    return raw


def _entry(table: Any) -> dict[str, Any]:
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
        **({"asked_sigmas": list(table.asked_sigmas)} if table.asked_sigmas else {}),
        **_look_ahead(table),
        "gain": table.gain,
        **({"directions": list(table.directions)} if table.directions else {}),
        "lambdas": table.lambdas.tolist(),
        "zeroed": list(table.zeroed),
        "errors": errors,
        **({"peer_errors": dict(table.peer_errors)} if table.peer_errors else {}),
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


def _look_ahead(table: Any) -> dict[str, Any]:
    ahead = table.look_ahead
    return {"look_ahead": {"sigma": ahead.sigma, "mean": list(ahead.mean)}} if ahead else {}


def _pretty(entry: Mapping[str, Any]) -> str:
    lines = [f"  {json.dumps(key)}: {json.dumps(value)}" for key, value in entry.items()]
    return " {\n" + ",\n".join(lines) + "\n }"


def _document(document: Any, build: Build[Built]) -> list[Built]:
    if not isinstance(document, dict) or document.get("format") != FORMAT:
        raise TableError(f'it is no table file (its "format" is not "{FORMAT}").')
    version = document.get("version")
    if type(version) is not int or version != VERSION:
        known = isinstance(version, int | float | str)
        shown = ascii(str(version) if known else type(version).__name__)[1:-1][:20]
        raise TableError(
            f"its version is {shown}, this program reads {VERSION}; update the program."
        )
    strict_json.keys(document, {"format", "version", "tables"}, "the file")
    entries = document["tables"]
    if not isinstance(entries, list) or len(entries) > MAX_TABLES:
        raise TableError(f'"tables" must be a list of at most {MAX_TABLES}.')
    rows = sum(_size(entry) for entry in entries)
    if rows > MAX_ROWS:
        raise TableError(
            f"its tables have {rows} steps in all, at most {MAX_ROWS} are read; split the file."
        )
    return [_table(entry, f"table {i}", build) for i, entry in enumerate(entries)]


def _size(entry: Any) -> int:
    """Steps or rows that building this table would take, before anything is known to be valid."""
    lists = (entry.get("sigmas"), entry.get("lambdas")) if isinstance(entry, dict) else ()
    return max((len(value) for value in lists if isinstance(value, list)), default=0)


def _table(entry: Any, where: str, build: Build[Built]) -> Built:
    if not isinstance(entry, dict):
        raise TableError(f"{where} is not an object.")
    known = set(_FIELDS) | {"errors", "model", "samples"} | (_OPTIONAL & set(entry))
    strict_json.keys(entry, known, where)
    try:
        fields = {key: read(entry[key]) for key, read in _FIELDS.items()}
        if "look_ahead" in entry:
            fields["look_ahead"] = _read_look_ahead(entry["look_ahead"])
        if "asked_sigmas" in entry:
            fields["asked_sigmas"] = tuple(_FIELDS["sigmas"](entry["asked_sigmas"]))
        if "peer_errors" in entry:
            fields["peer_errors"] = _read_peers(entry["peer_errors"])
        if "directions" in entry:
            fields["directions"] = _read_directions(entry["directions"])
        strict_json.keys(entry["model"], {"name", "fingerprint"}, "model")
        samples = entry["samples"]
        dropped = {"dropped"} if isinstance(samples, dict) and "dropped" in samples else set()
        fields["errors"] = _read_errors(entry["errors"])
        strict_json.keys(samples, {"fit", "holdout"} | dropped, "samples")
        fields |= {
            "model_name": strict_json.text(entry["model"]["name"]),
            "model_fingerprint": strict_json.text(entry["model"]["fingerprint"]),
            "samples_fit": strict_json.count(samples["fit"]),
            "samples_holdout": strict_json.count(samples["holdout"]),
            "dropped": strict_json.count(samples.get("dropped", 0)),
        }
        return build(fields.pop("output"), fields)
    except DodeError as error:
        raise TableError(f"{where}: {error}") from error


def _read_look_ahead(ahead: Any) -> LookAhead:
    strict_json.keys(ahead, {"sigma", "mean"}, "look_ahead")
    mean = strict_json.listed(strict_json.number, MAX_CHANNELS)(ahead["mean"])
    return LookAhead(strict_json.number(ahead["sigma"]), tuple(mean))


def _read_directions(names: Any) -> tuple[str, ...]:
    found = strict_json.listed(strict_json.text, MAX_WIDTH)(names)
    if columns_and_gain(found) is not None:
        raise TableError('its "directions" say what the columns and "gain" say; leave them out.')
    return tuple(found)


def _read_errors(errors: Any) -> tuple[float | None, ...] | None:
    """(plain fit, distilled fit, plain held out, distilled held out)."""
    if errors is None:
        return None
    strict_json.keys(errors, {"plain", "distilled"}, "errors")
    for row in errors.values():
        strict_json.keys(row, {"fit", "holdout"}, "errors")
    pairs = errors["plain"], errors["distilled"]
    fit = [strict_json.number(pair["fit"]) for pair in pairs]
    held_out = [strict_json.optional(strict_json.number)(pair["holdout"]) for pair in pairs]
    return *fit, *held_out


def _read_peers(errors: Any) -> dict[str, float]:
    if not isinstance(errors, dict) or not errors:
        raise TableError('"peer_errors" is no object with errors by name; leave it out.')
    return {strict_json.text(name): strict_json.number(value) for name, value in errors.items()}


def _rows(value: Any) -> list[list[float]]:
    rows = strict_json.listed(strict_json.listed(strict_json.number, MAX_WIDTH), 10_000)(value)
    if len({len(row) for row in rows}) > 1:
        raise TableError("the rows of lambdas differ in length.")
    return rows


_FIELDS: Mapping[str, Callable[[Any], Any]] = {
    "solver": strict_json.text,
    "output": strict_json.text,
    "parametrization": strict_json.text,
    "sigmas": strict_json.listed(strict_json.number, 4096),
    "learned_sigmas": strict_json.flag,
    "gain": strict_json.flag,
    "lambdas": _rows,
    "zeroed": lambda value: tuple(strict_json.listed(strict_json.count, 10_000)(value)),
    "cfg": strict_json.optional(strict_json.number),
    "latent_shape": lambda value: tuple(strict_json.listed(strict_json.count, 8)(value)),
    "teacher": strict_json.text,
    "evaluations": strict_json.number,
    "seed": strict_json.optional(strict_json.seed),
    "program": strict_json.text,
}
