"""What the TABLE of a distillation for any number of steps carries. Known without any node."""

from __future__ import annotations

from typing import Any

from ...dode_core.shelf import StoredProfile
from ...dode_core.tables.table import LambdaTable


class AnySteps(list[LambdaTable]):
    """The tables of the steps that were asked for, and the profile that serves every other run."""

    def __init__(self, tables: list[LambdaTable], stored: StoredProfile) -> None:
        super().__init__(tables)
        self.stored = stored

    # The host copies what rides on a MODEL, lists by their own copy(), and nothing in this changes.
    def copy(self) -> AnySteps:
        return self

    def __deepcopy__(self, memo: dict[int, Any]) -> AnySteps:
        return self
