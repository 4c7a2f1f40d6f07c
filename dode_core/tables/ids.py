"""What a table is called where several are alike: by what is in it."""

from __future__ import annotations

import hashlib
from functools import lru_cache

from .table import LambdaTable, dump_tables


@lru_cache(maxsize=4096)
def table_id(table: LambdaTable) -> str:
    """Eight hexadecimal digits that name a table by what is in it."""
    return hashlib.sha256(dump_tables([table])).hexdigest()[:8]
