"""Where tables live, whichever the host: beside their checkpoint, or in a folder of their own.

``model.safetensors`` has its tables in ``model.dode.json``. Models without a checkpoint file, and
checkpoints in read-only folders, have theirs in the host's own folder for tables, named by the
model's fingerprint. Presets are only read.
"""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from ..errors import DodeError, TableError
from .files import SUFFIX
from .identity import Identity, marks
from .names import cut, fits, inside
from .presets import load_preset, read_index
from .table import LambdaTable, load_tables, save_tables

PRESETS = Path(__file__).parents[2] / "lambdas"  # comes with the repository


@dataclass(frozen=True)
class Stored:
    """A table and the file it is in."""

    table: LambdaTable
    file: Path


def sidecar(checkpoint: Path) -> Path:
    """The table file of a checkpoint."""
    return checkpoint.with_name(checkpoint.stem + SUFFIX)  # never ends in .safetensors


@dataclass(frozen=True)
class Library:
    """The folders of one host that hold table files.

    roots: (name for menus, folder) of every folder that is looked through. own: the folder for
    tables that do not lie beside a checkpoint. own_name, refresh: what messages call it, and how a
    user sees new files.
    """

    roots: tuple[tuple[str, str], ...]
    own: Path
    own_name: str
    refresh: str = "refresh the list"

    def listing(self) -> dict[str, Path]:
        """Every table file by its name for menus: root/path inside it. Fast: hosts ask often."""
        found: dict[str, Path] = {}
        for name, root in self.roots:
            for file in preset_files(root) if root == os.fspath(PRESETS) else table_files(root):
                found.setdefault(f"{name}/{Path(file).relative_to(root).as_posix()}", Path(file))
        return found

    def shown(self, file: Path) -> str:
        """A file's name as in the menus, or its path where it is in none of the folders."""
        for name, root in self.roots:
            if file.is_relative_to(root):
                return f"{name}/{file.relative_to(root).as_posix()}"
        return str(file)

    def find_file(self, name: str) -> Path:
        """The file behind a name of :meth:`listing`; nothing outside those folders has one."""
        files = self.listing()
        if name not in files:
            raise TableError(
                f"There is no table file {name!r}; {self.refresh}, or distill one first."
            )
        return files[name]

    def fallback_file(self, identity: Identity) -> Path:
        """The table file of a model that cannot have one beside it."""
        known = marks(identity.fingerprint)
        mark = (known.get("weights") or known.get("file", ""))[:8]
        return self.own / f"{plain_stem(identity)}-{mark}{SUFFIX}"

    def home(self, identity: Identity) -> Path:
        """Where a model's tables go: beside its checkpoint, where that name is not too long."""
        beside = sidecar(identity.path) if identity.path else None
        return beside if beside and fits(beside.name) else self.fallback_file(identity)

    def target(self, identity: Identity | None, name: str = "") -> Path:
        """Where a new table goes; ``name`` is a user's own choice of a file in the own folder.

        Raises :class:`TableError` when the name is not a plain file name, or when the file is
        there already and is not a valid table file: before the work, not after it.
        """
        if name.strip().removesuffix(SUFFIX):
            file = inside(self.own, name)
        elif identity is None:
            raise TableError("A table of no known model needs a file name; give one.")
        else:
            file = self.home(identity)
        tables_in(file)
        return file

    def save(
        self, tables: Sequence[LambdaTable], identity: Identity | None, file: Path
    ) -> tuple[Path, str]:
        """Add tables to ``file``, or to the own folder if that can't be written; (where, note)."""
        fallback = self.fallback_file(identity) if identity else file
        return self.keep(lambda path: save_tables(path, tables), file, fallback)

    def keep(self, write: Callable[[Path], None], file: Path, fallback: Path) -> tuple[Path, str]:
        """``write(file)``, or ``write(fallback)`` where that can't be written; (where, note)."""
        try:
            write(file)
            return file, ""
        except (TableError, OSError) as error:
            unwritable = isinstance(error, OSError) or isinstance(error.__cause__, OSError)
            if not unwritable or fallback == file:
                raise
            write(fallback)
            reason = getattr(error.__cause__ or error, "strerror", None) or str(error)
            note = f"{file.parent} cannot be written ({reason}), so {self.own_name} was used"
            return fallback, note

    def find(self, identity: Identity) -> list[Stored]:
        """The tables for a model, newest last: its sidecar's, and all with its fingerprint.

        A file that is not valid is named in the log and does not keep others from being found.
        """
        own = sidecar(identity.path) if identity.path else None
        files = [own] if own else []
        found = []
        for file in dict.fromkeys([*files, *self.listing().values()]):
            if not may_serve(file, identity):
                continue
            try:
                tables = tables_in(file)
            except DodeError as error:
                if file == own or file.parent == self.own:
                    logging.warning("D-ODE: %s It is left out.", error)
                continue
            found += [
                Stored(table, file)
                for table in tables
                if file == own or identity.same_model(table.model_fingerprint)
            ]
        return found


def plain_stem(identity: Identity) -> str:
    """A model's name as the beginning of a file's."""
    stem = identity.path.stem if identity.path else identity.name
    return cut(re.sub(r"[^\w.+-]", "_", stem), 100)


def preset_files(root: str) -> list[str]:
    """The presets that the index lists and that are there."""
    try:
        files = [os.path.join(root, preset.file) for preset in read_index(root)]
    except DodeError as error:
        logging.warning("D-ODE: presets are left out: %s", error)
        return []
    return [file for file in files if os.path.isfile(file)]


def may_serve(file: Path, identity: Identity) -> bool:
    """False for presets that the index knows to be for other checkpoints: they are not opened."""
    if file.parent != PRESETS:
        return True
    known = [preset for preset in read_index(PRESETS) if preset.file == file.name]
    return any(preset.serves(identity.fingerprint) for preset in known)


def table_files(root: str, suffix: str = SUFFIX) -> list[str]:
    """The files of a kind below a folder, links followed; a folder is read when it has changed."""
    files: list[str] = []
    todo, seen = [root], set()
    while todo:
        folder = todo.pop()
        try:
            stat = os.stat(folder)
            if (stat.st_dev, stat.st_ino) in seen and stat.st_ino:
                continue  # a link that leads back
            seen.add((stat.st_dev, stat.st_ino))
            here, below = _scan(folder, stat.st_mtime_ns, suffix)
        except OSError:
            continue  # not there, or not ours to read
        files += here
        todo += below
    return sorted(files)


@lru_cache(maxsize=4096)
def _scan(folder: str, _mtime: int, suffix: str) -> tuple[list[str], list[str]]:
    """(files of that kind, folders) in one folder."""
    with os.scandir(folder) as entries:
        visible = [entry for entry in entries if not entry.name.startswith(".")]
    files = [entry.path for entry in visible if entry.name.endswith(suffix) and entry.is_file()]
    return files, [entry.path for entry in visible if entry.is_dir()]


def version(file: Path) -> tuple[str, int, int]:
    """What changes when a file does: its path, time and size. Raises OSError."""
    stat = file.stat()
    return os.fspath(file), stat.st_mtime_ns, stat.st_size


def tables_in(file: Path) -> list[LambdaTable]:
    """The tables of a file, none if it is not there. Raises :class:`TableError` for a bad one."""
    try:
        return list(_load(*version(file)))
    except OSError:
        return []


@lru_cache(maxsize=64)
def _load(path: str, _mtime: int, _size: int) -> tuple[LambdaTable, ...]:
    file = Path(path)
    if file.parent == PRESETS:
        for preset in read_index(PRESETS):
            if preset.file == file.name:
                return tuple(load_preset(PRESETS, preset))
    return tuple(load_tables(file))
