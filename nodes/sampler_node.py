"""D-ODE Sampler and D-ODE Scheduler: a table as SAMPLER and SIGMAS for the stock custom nodes."""

from __future__ import annotations

from typing import Any

import comfy.samplers
import torch
from comfy_api.latest import io

from ..dode_core.errors import DodeError
from ..dode_core.solve.solvers import SOLVERS, get_solver
from ..dode_core.tables.table import LambdaTable
from . import store
from .common import CATEGORY, SOLVER_HELP, Table
from .sampling import sample_dode

AUTO = "auto"


class Sampler(io.ComfyNode):
    """A SAMPLER that runs a given table, or finds one as the menu entry ``dode`` does."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="DODE_Sampler",
            display_name="D-ODE Sampler",
            category=CATEGORY,
            description="Samples with a distilled table. Without one it looks for the tables of "
            "the checkpoint, as the sampler name 'dode' of the stock KSampler does.",
            inputs=[
                Table.Input(
                    "table",
                    optional=True,
                    tooltip="From D-ODE Distill or D-ODE Load Table. Runs over its own sigmas, a "
                    "part of them, or interpolated to others.",
                ),
                io.Combo.Input(
                    "solver",
                    options=[AUTO, *SOLVERS],
                    default=AUTO,
                    optional=True,
                    tooltip=f"{AUTO}: the table's own, or the best that the checkpoint has.\n"
                    + SOLVER_HELP,
                ),
            ],
            outputs=[io.Sampler.Output(display_name="SAMPLER", tooltip="For SamplerCustom.")],
        )

    @classmethod
    def fingerprint_inputs(cls, **kwargs: Any) -> str:
        """Sampling runs again when there are other tables to be found."""
        return repr(store.state())

    @classmethod
    def execute(cls, table: LambdaTable | None = None, solver: str = AUTO) -> io.NodeOutput:
        if solver != AUTO:
            get_solver(solver)
            if table is not None and table.solver != solver:
                raise DodeError(
                    f"The table is for {table.solver}, but {solver} was chosen; choose {AUTO}."
                )
        options = {"table": table, "solver": None if solver == AUTO else solver}
        return io.NodeOutput(comfy.samplers.KSAMPLER(sample_dode, options))


class Scheduler(io.ComfyNode):
    """A table's own sigmas, or the end of them for image to image."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="DODE_Scheduler",
            display_name="D-ODE Scheduler",
            category=CATEGORY,
            description="The noise levels that a table was made for, as SIGMAS for SamplerCustom: "
            "sampling over them uses the table exactly.",
            inputs=[
                Table.Input("table", tooltip="From D-ODE Distill or D-ODE Load Table."),
                io.Float.Input(
                    "denoise",
                    default=1.0,
                    min=0.0,
                    max=1.0,
                    step=0.01,
                    optional=True,
                    tooltip="Image to image: that share of the table's steps, from its end. Of 8 "
                    "steps, 0.5 leaves the last 4.",
                ),
            ],
            outputs=[io.Sigmas.Output(display_name="SIGMAS", tooltip="For SamplerCustom.")],
        )

    @classmethod
    def execute(cls, table: LambdaTable, denoise: float = 1.0) -> io.NodeOutput:
        steps = round(table.steps * min(max(denoise, 0.0), 1.0))
        if denoise > 0:
            steps = max(steps, 1)
        return io.NodeOutput(table.sigmas.to(torch.float32)[table.steps - steps :])


NODES = [Sampler, Scheduler]
