"""Where tables live: beside their checkpoint, or in ComfyUI's models/dode folder.

``model.safetensors`` has its tables in ``model.dode.json``. Models without a checkpoint file, and
checkpoints in read-only folders, have theirs in ``models/dode``, named by the model's fingerprint.
"""

from __future__ import annotations

import logging
import os
import re
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import folder_paths

from ..dode_core.errors import DodeError, TableError
from ..dode_core.files import SUFFIX, load_tables, save_tables
from ..dode_core.table import LambdaTable
from .models import Identity, marks

FOLDER = "dode"
BESIDE = ("checkpoints", "diffusion_models")
PRESETS = Path(__file__).parent.parent / "lambdas"  # comes with the pack; only read
NAME = re.compile(r"[\w+-][\w .+-]{0,99}")


@dataclass(frozen=True)
class Stored:
    """A table and the file it is in."""

    table: LambdaTable
    file: Path


def register_folder() -> None:
    """Make models/dode a folder of ComfyUI's, which extra_model_paths.yaml may have done before."""
    folder_paths.add_model_folder_path(FOLDER, os.path.join(folder_paths.models_dir, FOLDER))


def own_folder() -> Path:
    """The folder for tables that do not lie beside a checkpoint."""
    return Path(paths_of(FOLDER)[0])


def sidecar(checkpoint: Path) -> Path:
    """The table file of a checkpoint."""
    return checkpoint.with_name(checkpoint.stem + SUFFIX)  # never ends in .safetensors


def fallback_file(identity: Identity) -> Path:
    """The table file of a model that cannot have one beside it."""
    stem = re.sub(r"[^\w.+-]", "_", identity.path.stem if identity.path else identity.name)
    mark = marks(identity.fingerprint).get("weights", "")[:8]
    return own_folder() / f"{stem[:100]}-{mark}{SUFFIX}"


def check_name(name: str) -> str:
    """A user's own name for a file in models/dode, without its ending; "" for none.

    Raises :class:`TableError` when it is not a plain file name.
    """
    stem = name.strip().removesuffix(SUFFIX)
    if stem and not NAME.fullmatch(stem):
        raise TableError(
            f"File name {stem!r} is not usable; use letters, digits, spaces and . _ + - only: the "
            "file goes to the folder models/dode."
        )
    return stem


def target(identity: Identity | None, name: str = "") -> Path:
    """Where a new table goes; ``name`` is a user's own choice of a file in models/dode.

    Raises :class:`TableError` when the name is not a plain file name, or when the file is there
    already and is not a valid table file: before the work, not after it.
    """
    stem = check_name(name)
    if stem:
        file = own_folder() / f"{stem}{SUFFIX}"
    elif identity is None:
        raise TableError("A table of no known model needs a file name; give one.")
    else:
        file = sidecar(identity.path) if identity.path else fallback_file(identity)
    tables_in(file)
    return file


def save(table: LambdaTable, identity: Identity | None, file: Path) -> tuple[Path, str]:
    """Add a table to ``file``, or to models/dode when that cannot be written; (where, a note)."""
    try:
        save_tables(file, [table])
        return file, ""
    except (TableError, OSError) as error:
        fallback = fallback_file(identity) if identity else file
        unwritable = isinstance(error, OSError) or isinstance(error.__cause__, OSError)
        if not unwritable or fallback == file:
            raise
        save_tables(fallback, [table])
        reason = getattr(error.__cause__ or error, "strerror", None) or str(error)
        return fallback, f"; {file.parent} cannot be written ({reason}), so models/dode was used"


def listing() -> dict[str, Path]:
    """Every table file by its name for menus: folder/path inside it. Fast: ComfyUI asks often."""
    found: dict[str, Path] = {}
    for folder, root in roots():
        for file in table_files(root):
            found.setdefault(f"{folder}/{Path(file).relative_to(root).as_posix()}", Path(file))
    return found


def roots() -> list[tuple[str, str]]:
    """(name for menus, folder) of every folder that table files are looked for in."""
    known = [(name, root) for name in (*BESIDE, FOLDER) for root in paths_of(name)]
    return [*known, ("presets", os.fspath(PRESETS))]


def paths_of(folder: str) -> list[str]:
    """Where ComfyUI keeps a kind of model."""
    return folder_paths.get_folder_paths(folder)


def shown(file: Path) -> str:
    """A file's name as in the menus, or its path where it is in none of the folders."""
    for name, root in roots():
        if file.is_relative_to(root):
            return f"{name}/{file.relative_to(root).as_posix()}"
    return str(file)


def table_files(root: str) -> list[str]:
    """The table files below a folder, links followed; each folder is read when it has changed."""
    files: list[str] = []
    todo, seen = [root], set()
    while todo:
        folder = todo.pop()
        try:
            stat = os.stat(folder)
            if (stat.st_dev, stat.st_ino) in seen and stat.st_ino:
                continue  # a link that leads back
            seen.add((stat.st_dev, stat.st_ino))
            here, below = _scan(folder, stat.st_mtime_ns)
        except OSError:
            continue  # not there, or not ours to read
        files += here
        todo += below
    return sorted(files)


@lru_cache(maxsize=4096)
def _scan(folder: str, _mtime: int) -> tuple[list[str], list[str]]:
    """(table files, folders) in one folder."""
    with os.scandir(folder) as entries:
        visible = [entry for entry in entries if not entry.name.startswith(".")]
    files = [entry.path for entry in visible if entry.name.endswith(SUFFIX) and entry.is_file()]
    return files, [entry.path for entry in visible if entry.is_dir()]


def find_file(name: str) -> Path:
    """The file behind a name of :func:`listing`; nothing outside those folders has one."""
    files = listing()
    if name not in files:
        raise TableError(
            f"There is no table file {name!r}; press R to refresh the list, or distil one first."
        )
    return files[name]


def version(file: Path) -> tuple[str, int, int]:
    """What changes when a file does: its path, time and size. Raises OSError."""
    stat = file.stat()
    return os.fspath(file), stat.st_mtime_ns, stat.st_size


def state() -> list[tuple[str, int, int]]:
    """What changes when any table file does."""
    versions = []
    for file in listing().values():
        with suppress(OSError):  # gone since it was listed
            versions.append(version(file))
    return versions


def tables_in(file: Path) -> list[LambdaTable]:
    """The tables of a file, none if it is not there. Raises :class:`TableError` for a bad one."""
    try:
        return list(_load(*version(file)))
    except OSError:
        return []


@lru_cache(maxsize=64)
def _load(path: str, _mtime: int, _size: int) -> tuple[LambdaTable, ...]:
    return tuple(load_tables(path))


def find(identity: Identity) -> list[Stored]:
    """The tables for a model, newest last: its sidecar's, and all with its fingerprint elsewhere.

    A file that is not valid is named in the log and does not keep others from being found.
    """
    own = sidecar(identity.path) if identity.path else None
    found = []
    for file in dict.fromkeys([*([own] if own else []), *listing().values()]):
        try:
            tables = tables_in(file)
        except DodeError as error:
            if file == own or file.parent == own_folder():
                logging.warning("D-ODE: %s It is left out.", error)
            continue
        found += [
            Stored(table, file)
            for table in tables
            if file == own or identity.same_model(table.model_fingerprint)
        ]
    return found
