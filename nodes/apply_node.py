"""D-ODE Apply to Model: a table that rides on the MODEL."""

from __future__ import annotations

from typing import Any

from comfy_api.latest import io

from .host.common import CATEGORY, Table, Tables
from .host.sampling import RIDING


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
    def execute(cls, model: Any, table: Tables) -> io.NodeOutput:
        patcher = model.clone()
        patcher.model_options.setdefault("transformer_options", {})[RIDING] = table
        return io.NodeOutput(patcher)


NODES = [ApplyToModel]
