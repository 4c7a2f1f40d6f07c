"""What the node files share: the table's type, advanced widgets."""

from __future__ import annotations

from typing import Any, TypeVar

import comfy.samplers
from comfy_api.latest import io

from ...dode_core.errors import TableError
from ...dode_core.shelf import StoredProfile
from ...dode_core.solve.solvers import SOLVERS
from ...dode_core.tables.table import LambdaTable

CATEGORY = "sampling/D-ODE"
Table = io.Custom("DODE_TABLE")
SOLVER_HELP = "\n".join(
    f"{name}: {solver.label}, {solver.summary}" for name, solver in SOLVERS.items()
)
Tables = LambdaTable | list[LambdaTable]  # what a TABLE socket carries
AnyInput = TypeVar("AnyInput", bound=io.Input)


def advanced(widget: AnyInput) -> AnyInput:
    """The same input, shown only under the node's advanced inputs."""
    # Not `advanced=True`, which ComfyUI 0.3.75 does not know; what is in here is passed on.
    widget.extra_dict = {**(widget.extra_dict or {}), "advanced": True}
    return widget


def steps_widget(tooltip: str) -> io.Input:
    return io.Int.Input("steps", default=8, min=1, max=1000, tooltip=tooltip)


def cfg_widget(tooltip: str = "Guidance. 1 leaves the negative out.") -> io.Input:
    return io.Float.Input(
        "cfg", default=4.0, min=0.0, max=100.0, step=0.1, round=0.01, tooltip=tooltip
    )


def scheduler_widget(tooltip: str) -> io.Input:
    """The host's schedulers, its own first."""
    options = list(comfy.samplers.SCHEDULER_NAMES)
    return advanced(
        io.Combo.Input(
            "scheduler", options=options, default=options[0], optional=True, tooltip=tooltip
        )
    )


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


def as_list(tables: Tables) -> list[LambdaTable]:
    """What a TABLE socket carries, one table or those of several step counts."""
    return tables if isinstance(tables, list) else [tables]


def only(tables: Tables) -> LambdaTable:
    """The one table that a node needs. Raises :class:`TableError` for several."""
    first, *more = as_list(tables)
    if more:
        steps = ", ".join(str(each.steps) for each in (first, *more))
        raise TableError(
            f"Tables for {steps} steps are connected, and this node takes one; choose it with "
            "D-ODE Load Table, or distill one step count."
        )
    return first
