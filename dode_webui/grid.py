"""Axes for the X/Y/Z plot: which table, how much of it, and whether the schedule is kept."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from . import options

TABLE, SCALE, KEEP = "D-ODE table", "D-ODE lambda scale", "D-ODE keep the schedule"
YES_NO = {"Yes": True, "No": False}


def add_axes() -> None:
    """Append the axes to the grid script, wherever this host keeps it; once."""
    from modules import scripts

    for data in scripts.scripts_data:
        module = data.module
        known = getattr(module, "axis_options", None)
        if not isinstance(known, list) or not hasattr(module, "AxisOption"):
            continue
        if TABLE in [each.label for each in known]:
            continue
        known += [
            module.AxisOption(
                TABLE,
                str,
                setter("table"),
                format_value=short,
                confirm=confirm_tables,
                choices=options.menu,
            ),
            module.AxisOption(SCALE, float, setter("scale"), confirm=confirm_scales),
            module.AxisOption(
                KEEP,
                str,
                setter("keep_schedule", YES_NO),
                confirm=confirm_yes_no,
                choices=lambda: list(YES_NO),
            ),
        ]


def setter(name: str, meaning: Mapping[str, Any] | None = None) -> Any:
    """A cell's value, or what it means, goes where it comes before the accordion's."""

    def apply(p: Any, value: Any, _: Any) -> None:
        value = value if meaning is None else meaning[value]
        chosen = {**getattr(p, options.ON_GRID, {}), name: value}
        setattr(p, options.ON_GRID, chosen)

    return apply


def short(p: Any, option: Any, value: str) -> str:
    """A label that fits: the id of a table."""
    plain = value in (options.AUTOMATIC, options.NONE)
    return f"{option.label}: {value if plain else options.wanted_id(value)}"


def confirm_tables(p: Any, values: list[str]) -> None:
    """Refuse a grid with a table that is not there, before any image is made."""
    from . import host

    library = host.library()
    for value in values:
        if value not in (options.AUTOMATIC, options.NONE):
            options.chosen(value, library)


def confirm_scales(p: Any, values: list[float]) -> None:
    """Refuse scales that nobody can run."""
    for value in values:
        problem = options.read(options.AUTOMATIC, value)[1]
        if problem:
            raise ValueError(f"D-ODE: {problem}.")


def confirm_yes_no(p: Any, values: list[str]) -> None:
    """Refuse a word that is neither."""
    for value in values:
        if value not in YES_NO:
            raise ValueError(f"D-ODE: {KEEP} is {value[:40]!r}; write {' or '.join(YES_NO)}.")
