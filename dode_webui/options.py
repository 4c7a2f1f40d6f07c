"""What the accordion, the API and the grid choose for one run: which table, and how much of it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from dode_core.errors import DodeError, TableError
from dode_core.match.scale import MAX_SCALE
from dode_core.solve.solvers import get_solver
from dode_core.tables.identity import marks
from dode_core.tables.ids import table_id
from dode_core.tables.library import Library, Stored, tables_in
from dode_core.tables.table import LambdaTable

from . import host

AUTOMATIC, NONE = "Automatic", "None"
KEEP_LABEL = "Keep the schedule"
INSTEAD = f"{AUTOMATIC} instead of "  # and the table of a pasted infotext that is not here
ON_RUN = "dode_options"  # where a run carries its options
ON_GRID = "dode_grid"  # and what a grid cell sets, which comes first


@dataclass(frozen=True)
class Options:
    """table: ``Automatic``, ``None``, or a table's id or menu entry. scale: 0 plain, 1 table.
    keep_schedule: the run stays on the host's sigmas, whatever table serves it.

    ``given`` are tables to choose from instead of those in files. ``missing``: the table that was
    asked for by a pasted infotext and is not here. ``problem``: what was left out of a request.
    """

    table: str = AUTOMATIC
    scale: float = 1.0
    missing: str = ""
    problem: str = ""
    given: tuple[LambdaTable, ...] | None = None
    keep_schedule: bool = False


def read(
    table: Any = AUTOMATIC, scale: Any = 1.0, keep_schedule: Any = False
) -> tuple[Options, str]:
    """Options from widgets or a request, and what was wrong with them."""
    problems, missing = [], ""
    if not isinstance(table, str) or not table or len(table) > 1000:
        problems.append(f"the table is {str(table)[:40]!r}, not a text; {AUTOMATIC} is used")
        table = AUTOMATIC
    if table.startswith(INSTEAD):
        table, missing = AUTOMATIC, table.removeprefix(INSTEAD)
    valid = isinstance(scale, int | float) and not isinstance(scale, bool)
    if not valid or not 0 <= scale <= MAX_SCALE:
        problems.append(
            f"the lambda scale is {str(scale)[:40]}, not from 0 to {MAX_SCALE:g}; 1 is used"
        )
        scale = 1.0
    if not isinstance(keep_schedule, bool):
        problems.append(
            f"{KEEP_LABEL} is {str(keep_schedule)[:40]!r}, not true or false; it is off"
        )
        keep_schedule = False
    problem = "; ".join(problems)
    return Options(table, float(scale), missing, problem, keep_schedule=keep_schedule), problem


def of_run(p: Any) -> Options:
    """The options of a processing object, with what a grid cell set on top."""
    options = getattr(p, ON_RUN, None)
    options = options if isinstance(options, Options) else Options()
    return replace(options, **getattr(p, ON_GRID, {}))


def purpose(table: LambdaTable) -> str:
    """What a table is for: steps, cfg, and the shift or distilled cfg where the model has one."""
    parts = [f"{table.steps} steps"]
    if table.cfg is not None:
        parts.append(f"cfg {table.cfg:g}")
    made_with = marks(table.model_fingerprint)
    for name in ("shift", "distilled_cfg"):
        if name in made_with:
            parts.append(f"{name.replace('_', ' ')} {made_with[name]}")
    if "patches" in made_with:
        parts.append("with LoRAs")
    return ", ".join(parts)


def entry(library: Library, stored: Stored, own: bool) -> str:
    """A table's line in the menus: what tells it from the others first, its id last."""
    table = stored.table
    made = get_solver(table.solver).label + (", own sigmas" if table.learned_sigmas else "")
    where = "" if own else f" ({library.shown(stored.file)})"
    return f"{purpose(table)}: {made}{where} [{table_id(table)}]"


def menu() -> list[str]:
    """What the table dropdown offers: for the loaded checkpoint, then the own folder."""
    library = host.library()
    own = library.find(host.identity(upcoming=True))
    lines = [entry(library, each, True) for each in own]
    lines += [entry(library, each, False) for each in others(library, own)]
    return [AUTOMATIC, NONE, *dict.fromkeys(lines)]


def others(library: Library, own: Sequence[Stored]) -> list[Stored]:
    """Tables that belong to no checkpoint's folder. Presets are for the models that they name."""
    files = {each.file for each in own}
    found: list[Stored] = []
    for name, file in library.listing().items():
        if file not in files and not name.startswith(("checkpoints/", "presets/")):
            found += [Stored(table, file) for table in readable(file)]
    return found


def everything(library: Library) -> list[Stored]:
    """Every table of every file that can be read."""
    files = library.listing().values()
    return [Stored(table, file) for file in files for table in readable(file)]


def readable(file: Any) -> Sequence[LambdaTable]:
    """The tables of a file; none of one that is not valid, which the log names elsewhere."""
    try:
        return tables_in(file)
    except DodeError:
        return ()


def chosen(table: str, library: Library) -> Stored:
    """The table behind a menu entry or an id. Raises :class:`TableError`."""
    wanted = wanted_id(table)
    for stored in everything(library):
        if table_id(stored.table) == wanted:
            return stored
    raise TableError(
        f"Table {table[-60:]!r} is not among the table files here; put its file beside the "
        f"checkpoint or into {library.own_name}, or choose {AUTOMATIC}."
    )


def wanted_id(table: str) -> str:
    """The id in a menu entry, in an infotext's "file id", or on its own."""
    return table.strip().rstrip("]").rsplit("[", 1)[-1].rsplit(" ", 1)[-1].lower()


def number(text: Any, default: float) -> float:
    """A finite number from an infotext."""
    try:
        value = float(text)
    except (TypeError, ValueError):
        return default
    return value if math.isfinite(value) else default
