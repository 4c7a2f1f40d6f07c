"""D-ODE Scheduler: a table's own sigmas as SIGMAS for the stock custom nodes."""

from __future__ import annotations

import torch
from comfy_api.latest import io

from .host.common import CATEGORY, Table, Tables, only


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
    def execute(cls, table: Tables, denoise: float = 1.0) -> io.NodeOutput:
        table = only(table)
        steps = round(table.steps * min(max(denoise, 0.0), 1.0))
        if denoise > 0:
            steps = max(steps, 1)
        return io.NodeOutput(table.sigmas.to(torch.float32)[table.steps - steps :])


NODES = [Scheduler]
