"""D-ODE Load Table, D-ODE Save Table and D-ODE Apply to Model."""

from __future__ import annotations

from typing import Any

import torch
from comfy_api.latest import io

from ..dode_core.errors import DodeError, TableError
from ..dode_core.solve.solvers import SOLVERS, get_solver
from ..dode_core.tables.table import LambdaTable
from . import models, store
from .common import CATEGORY, SOLVER_HELP, Table, advanced, show_text
from .sampling import RIDING

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
            hidden=[io.Hidden.unique_id],
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
        show_text(table.describe() + made_for, cls.hidden.unique_id)
        return io.NodeOutput(table, table.sigmas.to(torch.float32))


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


class SaveTable(io.ComfyNode):
    """A table into a file: under a name of one's own, or beside a model's checkpoint."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="DODE_SaveTable",
            display_name="D-ODE Save Table",
            category=CATEGORY,
            description="Adds a table to a .dode.json file: to keep it under a name of your own, "
            "to put it beside another checkpoint, or to share it. D-ODE Distill saves by itself.",
            inputs=[
                Table.Input("table", tooltip="From D-ODE Distill or D-ODE Load Table."),
                io.String.Input(
                    "filename",
                    default="",
                    optional=True,
                    tooltip="A name in models/dode. Empty: beside the checkpoint of the connected "
                    "model.",
                ),
                io.Model.Input(
                    "model",
                    optional=True,
                    tooltip="Whose checkpoint the table goes beside when there is no file name.",
                ),
            ],
            outputs=[io.String.Output(display_name="file", tooltip="Where the table is now.")],
            hidden=[io.Hidden.unique_id, io.Hidden.prompt],
            is_output_node=True,
        )

    @classmethod
    def validate_inputs(cls, filename: str | None = None) -> bool | str:
        try:
            store.check_name(filename or "")
        except DodeError as error:
            return str(error)
        return True

    @classmethod
    def execute(cls, table: LambdaTable, filename: str = "", model: Any = None) -> io.NodeOutput:
        if model is None and not filename.strip():
            raise TableError(
                "There is neither a file name nor a model; give a name, or connect a model to save "
                "beside its checkpoint."
            )
        identity = None
        if model is not None:
            identity = models.identify(model, cls.hidden.prompt, cls.hidden.unique_id)
        file, note = store.save(table, identity, store.target(identity, filename))
        known = table.model_fingerprint
        if identity and known and not identity.same_model(known):
            note += f"; it was made for {table.model_name or 'another model'}"
        text = f"{table.describe()}\nsaved in {store.shown(file)}" + note
        show_text(text, cls.hidden.unique_id)
        return io.NodeOutput(str(file))


class ApplyToModel(io.ComfyNode):
    """A MODEL that carries its table along."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="DODE_ApplyToModel",
            display_name="D-ODE Apply to Model",
            category=CATEGORY,
            description="Puts a table on the MODEL: any sampler node that is set to 'dode' then "
            "uses it, wherever the table came from.",
            inputs=[
                io.Model.Input("model", tooltip="The model to sample with."),
                Table.Input("table", tooltip="From D-ODE Distill or D-ODE Load Table."),
            ],
            outputs=[io.Model.Output(display_name="MODEL", tooltip="The model with its table.")],
        )

    @classmethod
    def execute(cls, model: Any, table: LambdaTable) -> io.NodeOutput:
        patcher = model.clone()
        patcher.model_options.setdefault("transformer_options", {})[RIDING] = table
        return io.NodeOutput(patcher)


NODES = [LoadTable, SaveTable, ApplyToModel]
