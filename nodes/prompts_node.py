"""D-ODE Prompts: several prompts for one distillation."""

from __future__ import annotations

from typing import Any

from comfy_api.latest import io

from .host.common import CATEGORY
from .host.prompts import marked

MOST = 6


class Prompts(io.ComfyNode):
    """Up to six CONDITIONINGs that D-ODE Distill takes in turn, sample by sample."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        more = [
            io.Conditioning.Input(f"prompt_{i}", optional=True, tooltip="Another prompt.")
            for i in range(2, MOST + 1)
        ]
        return io.Schema(
            node_id="DODE_Prompts",
            display_name="D-ODE Prompts",
            category=CATEGORY,
            description="Several prompts for D-ODE Distill: its samples take them in turn, so that "
            "the table suits them all. Connect it to positive. Chain two for more than six.",
            inputs=[
                io.Conditioning.Input("prompt_1", tooltip="A prompt like those you will use."),
                *more,
            ],
            outputs=[io.Conditioning.Output(display_name="positive", tooltip="For D-ODE Distill.")],
        )

    @classmethod
    def execute(cls, **prompts: Any) -> io.NodeOutput:
        given = [prompts[name] for name in sorted(prompts) if prompts[name] is not None]
        return io.NodeOutput(marked(given))


NODES = [Prompts]
