"""D-ODE Load Table: a table of a file."""

from __future__ import annotations

from typing import Any

import torch
from comfy_api.latest import io

from ..dode_core.errors import DodeError
from ..dode_core.solve.solvers import SOLVERS
from .host import store
from .host.common import CATEGORY, SOLVER_HELP, Table, advanced
from .host.telling import report

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
                    options=[store.ANY, *SOLVERS],
                    default=store.ANY,
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
        return bool(tables) or f"{file} holds no table; distill one first."

    @classmethod
    def fingerprint_inputs(cls, file: str, **kwargs: Any) -> str:
        return repr((store.version(store.find_file(file)), kwargs))

    @classmethod
    def execute(
        cls, file: str, solver: str = store.ANY, steps: int = 0, number: int = 1
    ) -> io.NodeOutput:
        table = store.select(file, solver, steps, number)
        made_for = f"\nmade for {table.model_name}" if table.model_name else ""
        said = report(table.describe() + made_for)
        return io.NodeOutput(table, table.sigmas.to(torch.float32), ui=said)


NODES = [LoadTable]
