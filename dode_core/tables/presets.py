"""Shared presets: table files in a folder with an index, and what may be added to it.

The index says which model every file is for, so that a host opens only those that matter, and the
SHA-256 of each, so that a file that was changed is not taken for the one that was reviewed.
"""

from __future__ import annotations

import hashlib
import json
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from ..errors import TableError
from . import names, strict_json
from .fields import OF_PROFILE
from .files import read_bytes, write_atomically
from .identity import marks
from .ids import table_id
from .locking import locked
from .table import LambdaTable, parse_tables, save_tables

INDEX = "index.json"
EXPORTS = "dode-presets"  # beside a host's own folder for tables, which is searched
FORMAT, VERSION = "dode-preset-index", 1
MAX_PRESETS = 2000
LEAST_HELD_OUT = 4  # samples; fewer say little
EXPECTED = "made from a profile, so what it is worth is expected, not measured"


@dataclass(frozen=True)
class Preset:
    """One file of the index. ``models`` are the fingerprints of the checkpoints it is for."""

    file: str
    sha256: str
    tables: int
    model: str
    models: tuple[str, ...]
    parametrization: str
    solvers: tuple[str, ...]
    steps: tuple[int, ...]
    cfgs: tuple[float, ...]
    note: str = ""

    def describe(self) -> str:
        """One line for lists."""
        cfgs = ", ".join(f"{cfg:g}" for cfg in self.cfgs)
        low, high = min(self.steps), max(self.steps)
        steps = f"{low} to {high}" if low < high else f"{low}"
        note = f"; {self.note}" if self.note else ""
        return (
            f"{self.file}: {self.tables} tables for {self.model}, {', '.join(self.solvers)}, "
            f"{steps} steps, cfg {cfgs}{note}"
        )

    def serves(self, fingerprint: str) -> bool:
        """Whether it is for the checkpoint with this fingerprint; LoRAs are left aside."""
        own = marks(fingerprint)
        for model in self.models:
            other = marks(model)
            if any(own.get(part, "") == other.get(part) for part in ("weights", "file")):
                return True
        return False


def read_index(folder: str | Path) -> list[Preset]:
    """The presets of a folder, none where it has no index. Raises :class:`TableError`."""
    path = Path(folder) / INDEX
    try:
        info = path.stat()
    except OSError:
        return []
    return list(_read(path, info.st_mtime_ns, info.st_size))


@lru_cache(maxsize=16)
def _read(path: Path, _mtime: int, _size: int) -> tuple[Preset, ...]:
    return tuple(parse_index(read_bytes(path), path.name))


def parse_index(raw: bytes, name: str = INDEX) -> list[Preset]:
    """The presets from the bytes of an index. Raises :class:`TableError`."""
    return strict_json.parse_json(raw, name, _document)


def _document(document: Any) -> list[Preset]:
    if not isinstance(document, dict) or document.get("format") != FORMAT:
        raise TableError(f'it is no preset index (its "format" is not "{FORMAT}").')
    strict_json.keys(document, {"format", "version", "presets"}, "the index")
    if type(document["version"]) is not int or document["version"] != VERSION:
        raise TableError(f"its version is not {VERSION}, which this program reads.")
    presets = strict_json.listed(_preset, MAX_PRESETS)(document["presets"])
    if len({preset.file.casefold() for preset in presets}) < len(presets):
        raise TableError("it lists a file twice; keep one.")
    return presets


def _preset(entry: Any) -> Preset:
    strict_json.keys(entry, set(Preset.__dataclass_fields__), "a preset")
    file, sha256 = strict_json.text(entry["file"]), strict_json.text(entry["sha256"])
    if names.file_name(file) != file:
        raise TableError(f"file {file!r} is no plain table file name.")
    if len(sha256) != 64 or set(sha256) - set("0123456789abcdef"):
        raise TableError(f"the sha256 of {file} is not 64 hex digits.")
    texts, counts = (
        strict_json.listed(strict_json.text, 100),
        strict_json.listed(strict_json.count, 1000),
    )
    lists = [tuple(texts(entry[key])) for key in ("models", "solvers")]
    steps, cfgs = (
        counts(entry["steps"]),
        strict_json.listed(strict_json.number, 1000)(entry["cfgs"]),
    )
    if not (steps and lists[0] and lists[1]):
        raise TableError(f"{file} names no model, solver or step count.")
    return Preset(
        file,
        sha256,
        strict_json.count(entry["tables"]),
        strict_json.text(entry["model"]),
        lists[0],
        strict_json.text(entry["parametrization"]),
        lists[1],
        tuple(steps),
        tuple(cfgs),
        strict_json.text(entry["note"]),
    )


def load_preset(folder: str | Path, preset: Preset) -> list[LambdaTable]:
    """The tables of a preset that is what the index says. Raises :class:`TableError`."""
    path = Path(folder) / preset.file
    if not names.is_inside(path, folder):
        raise TableError(f"{preset.file} is a link out of the preset folder; it is not read.")
    raw = read_bytes(path)
    if hashlib.sha256(raw).hexdigest() != preset.sha256:
        raise TableError(
            f"{preset.file} is not the file that the index describes; get both again, or run "
            "presets add."
        )
    return parse_tables(raw, preset.file)


def add_preset(folder: str | Path, file: str | Path, note: str = "") -> Preset:
    """Copy a table file into the folder and list it, in place of one of the same name.

    Raises :class:`TableError` for a file that is not fit to be shared: see :func:`problems`.
    """
    folder, file = Path(folder), Path(file)
    raw = read_bytes(file)
    tables = parse_tables(raw, file.name)
    refuse_unfit(file.name, tables)
    target = names.inside(folder, file.name)
    if any(table.teacher == OF_PROFILE for table in tables):
        note = "; ".join(filter(None, [note, EXPECTED]))
    preset = _describe(target.name, raw, tables, strict_json.text(note))
    index = folder.absolute() / INDEX
    with locked(index):
        others = [other for other in read_index(folder) if other.file != preset.file]
        entries = [asdict(each) for each in sorted([*others, preset], key=lambda each: each.file)]
        text = json.dumps({"format": FORMAT, "version": VERSION, "presets": entries}, indent=1)
        raw_index = (text + "\n").encode("ascii")
        parse_index(raw_index)
        write_atomically(target, raw)
        write_atomically(index, raw_index)
    return preset


def export_table(folder: Path, file: Path, table: LambdaTable) -> Path:
    """Write one table of ``file`` as a preset into ``folder``, which is made; where it is.

    Raises :class:`TableError` for what is not fit to be shared, and for a folder that cannot be
    written.
    """
    stem = file.stem.removesuffix(".dode")[:60]
    return folder / export_tables(folder, f"{stem}-{table_id(table)}", [table]).file


def export_tables(folder: Path, stem: str, tables: Sequence[LambdaTable], note: str = "") -> Preset:
    """The same of several tables, to a file that is called after ``stem``."""
    name = "".join(c if c.isalnum() or c in "._-" else "_" for c in stem)
    try:
        with tempfile.TemporaryDirectory() as alone:
            made = names.inside(alone, name)
            save_tables(made, tables)
            refuse_unfit(made.name, tables)  # before a folder is made, which would stay empty
            folder.mkdir(parents=True, exist_ok=True)
            return add_preset(folder, made, note)
    except OSError as error:
        raise TableError(f"{folder} cannot be written: {error.strerror}.") from error


def refuse_unfit(name: str, tables: Sequence[LambdaTable]) -> None:
    """Raise :class:`TableError` where tables are not fit to be shared: see :func:`problems`."""
    if found := problems(tables):
        raise TableError(f"{name} is not fit to be shared: {'; '.join(found[:5])}.")


def problems(tables: Sequence[LambdaTable]) -> list[str]:
    """What keeps tables from being shared: nobody could tell what they are for, or they lose."""
    found = [] if tables else ["it holds no table"]
    for i, table in enumerate(tables):
        lacking = {
            "the model's name": not table.model_name,
            "the model's fingerprint": not marks(table.model_fingerprint),
            "cfg": table.cfg is None,
            "the seed": table.seed is None,
            "the latent's shape": not table.latent_shape,
            f"{LEAST_HELD_OUT} samples held out": table.samples_holdout < LEAST_HELD_OUT,
        }
        found += [f"table {i} lacks {what}" for what, lacks in lacking.items() if lacks]
        if "patches" in marks(table.model_fingerprint):
            found.append(f"table {i} was made with a LoRA")
        ratio = _ratio(table)
        if ratio is None or ratio > 1:
            shown = "no held-out error" if ratio is None else f"error {ratio:.2f} of plain"
            found.append(f"table {i} has {shown}")
    if len({(table.model_name, table.parametrization) for table in tables}) > 1:
        found.append("its tables are for several models; give each its own file")
    return found


def _ratio(table: LambdaTable) -> float | None:
    """Its error over plain: on held-out samples, or as the profile that made it expects."""
    errors = table.errors
    if errors is None or table.teacher != OF_PROFILE:
        return errors.ratio if errors else None
    return errors.distilled_fit / errors.plain_fit if errors.plain_fit else None


def _describe(name: str, raw: bytes, tables: Sequence[LambdaTable], note: str) -> Preset:
    return Preset(
        name,
        hashlib.sha256(raw).hexdigest(),
        len(tables),
        tables[0].model_name,
        tuple(sorted({table.model_fingerprint for table in tables})),
        tables[0].parametrization,
        tuple(dict.fromkeys(table.solver for table in tables)),
        tuple(sorted({table.steps for table in tables})),
        tuple(sorted({table.cfg for table in tables if table.cfg is not None})),
        note,
    )
