"""Where ComfyUI's tables live: beside their checkpoint, or in its models/dode folder.

How they are found, named and kept is :mod:`dode_core.tables.library`'s.
"""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

import folder_paths

from ...dode_core import shelf
from ...dode_core.errors import TableError
from ...dode_core.response.profile import SUFFIX as PROFILE_SUFFIX
from ...dode_core.response.profile import Profile
from ...dode_core.solve.solvers import get_solver
from ...dode_core.tables.files import SUFFIX
from ...dode_core.tables.identity import Identity
from ...dode_core.tables.ids import table_id
from ...dode_core.tables.library import (
    PRESETS,
    Library,
    Stored,
    sidecar,
    table_files,
    tables_in,
    version,
)
from ...dode_core.tables.names import file_name, inside
from ...dode_core.tables.table import LambdaTable

__all__ = ["Stored", "sidecar", "tables_in", "version"]

FOLDER = "dode"
ANY = "any"  # solver, number of steps
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


def find_any(name: str) -> Path:
    """The table file or profile behind a name of the two listings. Raises :class:`TableError`."""
    return profile_listing().get(name) or find_file(name)


def says(table: LambdaTable, words: str) -> bool:
    """Whether a table says all of some things: "own noise levels, cfg 7"; its id is one of them."""
    line = f"{table.title}, {table.worth}, {table.model_name}, [{table_id(table)}]"
    said = [each.strip() for each in line.lower().split(",")]
    wanted = [each.strip() for each in words.lower().split(",")]
    return all(each in said for each in wanted if each)


def select(file: str, solver: str, steps: int, number: int, words: str = "") -> LambdaTable:
    """The ``number``-th newest table of a file with that solver, so many steps and those words."""
    tables = tables_in(find_file(file))
    if solver != ANY:
        get_solver(solver)
    left = [
        table
        for table in reversed(tables)
        if solver in (ANY, table.solver) and steps in (0, table.steps) and says(table, words)
    ]
    if number > len(left):
        wanted = f"number {number} of solver {solver}, {steps or ANY} steps"
        wanted += f", that says {words!r}" if words.strip() else ""
        there = "; ".join(table.describe() for table in reversed(tables)) or "no table"
        raise TableError(f"{file} has no {wanted}; it holds: {there}.")
    return left[number - 1]


def find(identity: Identity) -> list[Stored]:
    """The tables for a model, newest last."""
    return library().find(identity)


def profile_listing() -> dict[str, Path]:
    """Every profile by its name for menus, as :func:`listing` names tables."""
    found: dict[str, Path] = {}
    for _, root in library().roots:
        for file in table_files(root, PROFILE_SUFFIX):
            found.setdefault(shown(Path(file)), Path(file))
    return found


def load_profile(file: Path) -> Profile:
    """A profile, checked in every number; kept while its file stays the same."""
    return shelf.load_profile(file)


def find_profiles(identity: Identity) -> list[shelf.StoredProfile]:
    """The profiles for a model."""
    return shelf.find_profiles(library(), identity)


def profile_target(name: str) -> Path | None:
    """The file in models/dode that a user named for a profile; None for no name."""
    stem = check_name(name)
    return inside(library().own, stem, PROFILE_SUFFIX) if stem else None


def save_profile(
    profile: Profile, identity: Identity, cfg: float | None, seed: int, file: Path | None = None
) -> tuple[Profile, Path, str]:
    """Keep a profile in ``file``, beside the checkpoint or in models/dode; (it, where, a note)."""
    made = shelf.stamped_profile(profile, identity, cfg, seed)
    return made, *shelf.save_profile(library(), made, identity, file)


def copy_profile(profile: Profile, identity: Identity | None, name: str) -> tuple[Path, str]:
    """Keep a profile as it is under a user's name in models/dode, or beside a checkpoint."""
    file = profile_target(name)
    if file is not None:
        where, note = library().keep(profile.save, file, file)
    elif identity is not None:
        where, note = shelf.save_profile(library(), profile, identity)
    else:
        raise TableError("A profile of no known model needs a file name; give one.")
    return where, f"; {note}" if note else ""


def state() -> list[tuple[str, int, int]]:
    """What changes when any table or profile file does."""
    roots = [root for _, root in library().roots]
    profiles = [Path(file) for root in roots for file in table_files(root, PROFILE_SUFFIX)]
    versions = []
    for file in (*listing().values(), *profiles):
        with suppress(OSError):  # gone since it was listed
            versions.append(version(file))
    return versions
