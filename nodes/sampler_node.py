"""D-ODE Sampler: a table as SAMPLER for the stock custom nodes."""

from __future__ import annotations

from typing import Any

import comfy.samplers
from comfy_api.latest import io

from ..dode_core.errors import DodeError
from ..dode_core.solve.solvers import SOLVERS, get_solver
from .host import store
from .host.common import CATEGORY, SOLVER_HELP, Table, Tables, as_list
from .host.run_inputs import keep_schedule_widget
from .host.sampling import sample_dode
from .host.schema import ALIASES, schema

AUTO = "auto"


class Sampler(io.ComfyNode):
    """A SAMPLER that runs a given table, or finds one as the menu entry ``dode`` does."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            node_id="DODE_Sampler",
            display_name="D-ODE Sampler",
            category=CATEGORY,
            description="Samples with a distilled table. Without one it looks for the tables of "
            "the checkpoint, as the sampler name 'dode' of the stock KSampler does.",
            search_aliases=ALIASES,
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
                keep_schedule_widget(),
            ],
            outputs=[io.Sampler.Output(display_name="SAMPLER", tooltip="For SamplerCustom.")],
        )

    @classmethod
    def fingerprint_inputs(cls, **kwargs: Any) -> str:
        """Sampling runs again when there are other tables to be found."""
        return repr(store.state())

    @classmethod
    def execute(
        cls, table: Tables | None = None, solver: str = AUTO, keep_schedule: bool = False
    ) -> io.NodeOutput:
        if solver != AUTO:
            get_solver(solver)
            made = {each.solver for each in as_list(table)} if table is not None else {solver}
            if solver not in made:
                own = ", ".join(sorted(made))
                raise DodeError(f"The table is for {own}, but {solver} was chosen; choose {AUTO}.")
        own = None if solver == AUTO else solver
        options = {"table": table, "solver": own, "keep_schedule": keep_schedule}
        return io.NodeOutput(comfy.samplers.KSAMPLER(sample_dode, options))


NODES = [Sampler]
