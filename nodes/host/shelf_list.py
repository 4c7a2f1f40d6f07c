"""Every table and profile there is, as the manager lists them, and what can be done to one.

Nothing here takes a path: an entry is named by its id, which is looked up in the list.
"""

from __future__ import annotations

import hashlib
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ...dode_core.errors import DodeError, TableError
from ...dode_core.match.best import Choice
from ...dode_core.response.profile import SUFFIX as PROFILE_SUFFIX
from ...dode_core.response.profile import Profile
from ...dode_core.tables.files import SUFFIX
from ...dode_core.tables.ids import table_id
from ...dode_core.tables.library import version
from ...dode_core.tables.likeness import compare
from ...dode_core.tables.names import file_name, inside
from ...dode_core.tables.presets import EXPORTS, export_table
from ...dode_core.tables.removal import remove_tables
from ...dode_core.tables.table import LambdaTable
from ...dode_core.worth import measured_worth
from . import store


@dataclass(frozen=True)
class Entry:
    """One line of the manager: what it is, for which model, where."""

    id: str
    kind: str  # "table" or "profile"
    title: str
    worth: str
    model: str
    file: str
    fixed: bool  # a preset, or damaged: not to be changed here
    note: str = ""
    words: str = ""  # what D-ODE Load Table finds it by


@dataclass(frozen=True)
class Found:
    """An entry with what it is of."""

    entry: Entry
    path: Path
    table: LambdaTable | None = None
    profile: Profile | None = None


class LastRun:
    """What the last run that asked for a table asked, and what it got."""

    query: Any = None
    identity: Any = None
    choice: Choice | None = None


def listing() -> list[Found]:
    """Everything there is, files in their order; a damaged file is an entry that says so."""
    found: list[Found] = []
    for name, path in store.listing().items():
        try:
            tables = store.tables_in(path)
        except DodeError as error:
            found.append(_damaged(name, path, str(error)))
            continue
        titles = [table.title for table in tables]
        for table in tables:
            alone = titles.count(table.title) == 1
            words = table.title if alone else f"[{table_id(table)}]"
            found.append(_of_table(name, path, table, words))
    for name, path in store.profile_listing().items():
        try:
            found.append(_of_profile(name, path, store.load_profile(path)))
        except (DodeError, OSError) as error:
            found.append(_damaged(name, path, str(error)))
    return found


def _of_table(name: str, path: Path, table: LambdaTable, words: str) -> Found:
    key = _key(name, table_id(table))
    fixed = name.startswith("presets/")
    what = table.title, table.worth, table.model_name, name, fixed
    return Found(Entry(key, "table", *what, words=words), path, table)


def _of_profile(name: str, path: Path, profile: Profile) -> Found:
    cfg = "" if profile.cfg is None else f", cfg {profile.cfg:g}"
    entry = Entry(
        _key(name, repr(version(path)[1:])),
        "profile",
        f"any steps{cfg}",
        measured_worth(profile),
        profile.model_name,
        name,
        name.startswith("presets/"),
    )
    return Found(entry, path, profile=profile)


def _damaged(name: str, path: Path, why: str) -> Found:
    entry = Entry(_key(name, why), "damaged", "cannot be read", "", "", name, True, why[:300])
    return Found(entry, path)


def _key(name: str, what: str) -> str:
    return hashlib.sha256(f"{name}\0{what}".encode("utf-8", "surrogatepass")).hexdigest()[:16]


def overview() -> list[dict[str, Any]]:
    """The entries as data, each with how it serves the last run; "" where it does not."""
    return [{**asdict(each.entry), "serves": serves(each)} for each in listing()]


def serves(found: Found) -> str:
    """How an entry would serve the last run: "used", or a kind of match; "" for not at all."""
    run = LastRun
    if run.query is None or run.identity is None:
        return ""
    made = found.profile or found.table
    if made is None:
        return ""
    likeness = compare(run.identity.fingerprint, made.model_fingerprint)
    if likeness.kind == "refused" or not likeness.same_weights:
        return ""
    if found.table is None:
        used = run.choice is not None and run.choice.file == found.path
        return "used" if used else "any steps"
    resolution = run.query.pick([found.table])
    if resolution.table is None:
        return ""
    used = run.choice is not None and run.choice.resolution.table is found.table
    return "used" if used else resolution.kind


def get(key: object) -> Found:
    """The entry with that id. Raises :class:`TableError`."""
    for each in listing():
        if each.entry.id == key:
            return each
    raise TableError("That table is not there any more; refresh the list.")


def own(key: object) -> Found:
    """The entry with that id, where a user may change it. Raises :class:`TableError`."""
    found = get(key)
    if found.entry.fixed:
        raise TableError(
            f"{found.entry.file} is not changed here: presets come with D-ODE, and damaged files "
            "are left as they are."
        )
    return found


def delete(key: object) -> str:
    """Take a table out of its file, or remove a profile's; what happened."""
    found = own(key)
    try:
        if found.table is not None:
            remove_tables(found.path, [found.table])
        else:
            found.path.unlink()
    except OSError as error:
        raise TableError(f"{found.entry.file} cannot be changed: {error.strerror}.") from error
    return f"Deleted: {found.entry.title}, from {found.entry.file}."


def rename(key: object, name: object) -> str:
    """Give an entry's file another name in its folder; where it is now."""
    found = own(key)
    suffix = PROFILE_SUFFIX if found.profile is not None else SUFFIX
    if found.table is not None and not found.entry.file.startswith(f"{store.FOLDER}/"):
        raise TableError(
            f"{found.entry.file} is named after its checkpoint, by which it is found; keep a copy "
            "under another name with D-ODE Save Table."
        )
    target = inside(found.path.parent, file_name(name, suffix), suffix)
    if target.exists():
        raise TableError(f"There is a file {target.name} already; choose another name.")
    try:
        found.path.rename(target)
    except OSError as error:
        raise TableError(f"{found.entry.file} cannot be renamed: {error.strerror}.") from error
    return f"Renamed: {found.entry.file} is {store.shown(target)} now."


def export(key: object) -> str:
    """Write a table as a preset that can be published; where it is."""
    found = get(key)
    if found.table is None:
        raise TableError(f"A profile is shared as it is: the file {found.path.name}.")
    folder = Path(store.paths_of(store.FOLDER)[0]).with_name(EXPORTS)
    made = export_table(folder, found.path, found.table)
    return f"Exported to {made}, listed in its index.json."
