"""D-ODE Sampler: a table as SAMPLER for the stock custom nodes."""

from __future__ import annotations

from typing import Any

import comfy.samplers
from comfy_api.latest import io

from ..dode_core.errors import DodeError
from ..dode_core.solve.solvers import SOLVERS, get_solver
from ..dode_core.tables.table import LambdaTable
from .host import store
from .host.common import CATEGORY, SOLVER_HELP, Table
from .host.sampling import sample_dode

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


NODES = [Sampler]
