"""Where ComfyUI's tables live: beside their checkpoint, or in its models/dode folder.

How they are found, named and kept is :mod:`dode_core.tables.library`'s.
"""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

import folder_paths

from ...dode_core.tables.files import SUFFIX
from ...dode_core.tables.identity import Identity
from ...dode_core.tables.library import PRESETS, Library, Stored, sidecar, tables_in, version
from ...dode_core.tables.names import file_name
from ...dode_core.tables.table import LambdaTable

__all__ = ["Stored", "sidecar", "tables_in", "version"]

FOLDER = "dode"
BESIDE = ("checkpoints", "diffusion_models")


def register_folder() -> None:
    """Make models/dode a folder of ComfyUI's, which extra_model_paths.yaml may have done before."""
    folder_paths.add_model_folder_path(FOLDER, os.path.join(folder_paths.models_dir, FOLDER))


def library() -> Library:
    """The folders as they are now: other packs add to them at any time."""
    known = [(name, root) for name in (*BESIDE, FOLDER) for root in paths_of(name)]
    roots = (*known, ("presets", os.fspath(PRESETS)))
    return Library(
        roots, Path(paths_of(FOLDER)[0]), f"models/{FOLDER}", "press R to refresh the list"
    )


def paths_of(folder: str) -> list[str]:
    """Where ComfyUI keeps a kind of model."""
    return folder_paths.get_folder_paths(folder)


def check_name(name: str) -> str:
    """A user's own name for a file in models/dode, without its ending; "" for none.

    Raises :class:`TableError` when it is not a plain file name.
    """
    stem = name.strip().removesuffix(SUFFIX)
    return file_name(stem).removesuffix(SUFFIX) if stem else ""


def target(identity: Identity | None, name: str = "") -> Path:
    """Where a new table goes: see :meth:`Library.target`."""
    return library().target(identity, name)


def save(
    tables: LambdaTable | list[LambdaTable], identity: Identity | None, file: Path
) -> tuple[Path, str]:
    """Add to ``file``, or to models/dode when that cannot be written; (where, a note)."""
    added = tables if isinstance(tables, list) else [tables]
    where, note = library().save(added, identity, file)
    return where, f"; {note}" if note else ""


def listing() -> dict[str, Path]:
    """Every table file by its name for menus: folder/path inside it."""
    return library().listing()


def shown(file: Path) -> str:
    """A file's name as in the menus, or its path where it is in none of the folders."""
    return library().shown(file)


def find_file(name: str) -> Path:
    """The file behind a name of :func:`listing`; nothing outside those folders has one."""
    return library().find_file(name)


def find(identity: Identity) -> list[Stored]:
    """The tables for a model, newest last."""
    return library().find(identity)


def state() -> list[tuple[str, int, int]]:
    """What changes when any table file does."""
    versions = []
    for file in listing().values():
        with suppress(OSError):  # gone since it was listed
            versions.append(version(file))
    return versions
