"""Taking tables out of a file."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from . import files
from .table import LambdaTable, dump_tables, parse_tables


def remove_tables(path: str | Path, tables: Sequence[LambdaTable]) -> None:
    """Take tables out of a file, which stays, if need be without any; atomic, as a save is."""
    gone = {table.key() for table in tables}

    def without(name: str, raw: bytes | None) -> bytes:
        found = [] if raw is None else parse_tables(raw, name)
        return dump_tables([table for table in found if table.key() not in gone])

    files.rewrite(path, without)
