"""The list of tables in the tab: what each is for, its gain; delete, and export as a preset."""

from __future__ import annotations

import html
from typing import Any

from dode_core.errors import DodeError
from dode_core.shelf import StoredProfile, find_profiles
from dode_core.solve.solvers import get_solver
from dode_core.tables.library import Stored
from dode_core.tables.presets import EXPORTS, export_table
from dode_core.tables.removal import remove_tables

from . import host, options
from .request import Request

ENOUGH = Request.samples  # as the tab begins with: a quarter of them is held out


def stored() -> list[Stored]:
    """The tables that the menu offers."""
    library = host.library()
    own = library.find(host.identity(upcoming=True))
    return [*own, *options.others(library, own)]


def overview() -> str:
    """A row a table, as HTML."""
    library, rows = host.library(), []
    for each in stored():
        table = each.table
        cells = (
            options.purpose(table),
            get_solver(table.solver).label + (", own sigmas" if table.learned_sigmas else ""),
            gain(each),
            library.shown(each.file),
            options.table_id(table),
        )
        rows.append("".join(f"<td>{html.escape(cell)}</td>" for cell in cells))
    for each in profiles():
        cells = (profile_line(each), "any", "by each run", library.shown(each.file), "profile")
        rows.append("".join(f"<td>{html.escape(cell)}</td>" for cell in cells))
    if not rows:
        return "<p>No tables for this checkpoint yet.</p>"
    head = "".join(f"<th>{name}</th>" for name in ("for", "solver", "measured", "file", "id"))
    body = "".join(f"<tr>{row}</tr>" for row in rows)
    return f"<table class='dode-tables'><tr>{head}</tr>{body}</table>"


def gain(each: Stored) -> str:
    """What held-out samples say of a table, in the words of the report after its distillation."""
    if not each.table.helps:
        return "no better than plain"
    return each.table.worth or "not measured"


def profiles() -> list[StoredProfile]:
    """The loaded checkpoint's profiles."""
    return find_profiles(host.library(), host.identity(upcoming=True))


def profile_line(stored: StoredProfile) -> str:
    """What a profile is for, as :func:`options.purpose` says it of a table."""
    cfg = stored.profile.cfg
    return "any steps" + ("" if cfg is None else f", cfg {cfg:g}")


def entry(stored: StoredProfile) -> str:
    """A profile's line in the menu of this list."""
    return f"{profile_line(stored)}: {stored.file.name}"


def lines() -> list[str]:
    """What this list's menu offers: what can be deleted, presets are not."""
    tables = [line for line in options.menu() if line not in (options.AUTOMATIC, options.NONE)]
    return [*map(entry, profiles()), *tables]


def chosen_profile(line: str) -> StoredProfile | None:
    """The profile of a line, one of those that are listed."""
    return next((each for each in profiles() if entry(each) == line), None)


def delete(line: str) -> str:
    """Take a table out of its file, or a profile's file away; what happened, in one line."""
    profile = chosen_profile(line)
    try:
        if profile is not None:
            profile.file.unlink(missing_ok=True)
            return f"Deleted: {line}."
        chosen = options.chosen(line, host.library())
        if host.library().shown(chosen.file).startswith("presets/"):
            return "Presets come with D-ODE and are not deleted."
        remove_tables(chosen.file, [chosen.table])
    except (DodeError, OSError) as error:
        return str(error)
    return f"Deleted: {options.purpose(chosen.table)} [{options.table_id(chosen.table)}]."


def export(line: str) -> str:
    """Write a table as a preset that can be published; where, in one line."""
    profile = chosen_profile(line)
    if profile is not None:
        return f"A profile is a file of its own: copy {host.library().shown(profile.file)}."
    try:
        chosen = options.chosen(line, host.library())
        made = export_table(host.own_folder().with_name(EXPORTS), chosen.file, chosen.table)
    except DodeError as error:
        few = "held out" in str(error)
        return f"{error} Distill it again with {ENOUGH} samples." if few else str(error)
    return f"Exported to {made}, listed in its index.json."


def choices(gr: Any) -> Any:
    """The menu of this list anew."""
    return gr.update(choices=lines(), value=None)
