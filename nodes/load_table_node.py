"""D-ODE Load Table: a table of a file."""

from __future__ import annotations

from typing import Any

import torch
from comfy_api.latest import io

from ..dode_core.errors import DodeError, TableError
from ..dode_core.solve.solvers import SOLVERS, get_solver
from ..dode_core.tables.table import LambdaTable
from .host import store
from .host.common import CATEGORY, SOLVER_HELP, Table, advanced
from .host.telling import report

ANY = "any"
NO_FILES = "(no table files yet)"


class LoadTable(io.ComfyNode):
    """A table of a file beside a checkpoint, or in models/dode."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        files = list(store.listing()) or [NO_FILES]
        return io.Schema(
            node_id="DODE_LoadTable",
            display_name="D-ODE Load Table",
            category=CATEGORY,
            description="Loads a distilled table from a .dode.json file beside a checkpoint or in "
            "models/dode.",
            inputs=[
                io.Combo.Input(
                    "file",
                    options=files,
                    default=files[0],
                    tooltip="Table files beside checkpoints and diffusion models, and in "
                    "models/dode. Press R to see new ones.",
                ),
                io.Combo.Input(
                    "solver",
                    options=[ANY, *SOLVERS],
                    default=ANY,
                    optional=True,
                    tooltip=f"Which tables of the file to choose from.\n{SOLVER_HELP}",
                ),
                io.Int.Input(
                    "steps",
                    default=0,
                    min=0,
                    max=1000,
                    optional=True,
                    tooltip="Which tables of the file to choose from; 0 is any number of steps.",
                ),
                advanced(
                    io.Int.Input(
                        "number",
                        default=1,
                        min=1,
                        max=1000,
                        optional=True,
                        tooltip="Which of those that are left: 1 is the newest, 2 the one before.",
                    )
                ),
            ],
            outputs=[
                Table.Output(display_name="TABLE", tooltip="For D-ODE Sampler."),
                io.Sigmas.Output(display_name="SIGMAS", tooltip="The table's own sigmas."),
            ],
        )

    @classmethod
    def validate_inputs(cls, file: str | None = None) -> bool | str:
        if file is None:  # comes from another node: known only when that has run
            return True
        try:
            tables = store.tables_in(store.find_file(file))
        except DodeError as error:
            return str(error)
        return bool(tables) or f"{file} holds no table; distil one first."

    @classmethod
    def fingerprint_inputs(cls, file: str, **kwargs: Any) -> str:
        return repr((store.version(store.find_file(file)), kwargs))

    @classmethod
    def execute(
        cls, file: str, solver: str = ANY, steps: int = 0, number: int = 1
    ) -> io.NodeOutput:
        table = select(file, solver, steps, number)
        made_for = f"\nmade for {table.model_name}" if table.model_name else ""
        said = report(table.describe() + made_for)
        return io.NodeOutput(table, table.sigmas.to(torch.float32), ui=said)


def select(file: str, solver: str, steps: int, number: int) -> LambdaTable:
    """The ``number``-th newest table of a file with that solver and so many steps."""
    tables = store.tables_in(store.find_file(file))
    if solver != ANY:
        get_solver(solver)
    left = [
        table
        for table in reversed(tables)
        if solver in (ANY, table.solver) and steps in (0, table.steps)
    ]
    if number > len(left):
        wanted = f"number {number} of solver {solver}, {steps or ANY} steps"
        there = "; ".join(table.describe() for table in reversed(tables)) or "no table"
        raise TableError(f"{file} has no {wanted}; it holds: {there}.")
    return left[number - 1]


NODES = [LoadTable]
