"""D-ODE Settings: steps, cfg and scheduler in one place, for all nodes that need them."""

from __future__ import annotations

import comfy.samplers
from comfy_api.latest import io

from .host.common import CATEGORY, cfg_widget, steps_widget
from .host.schema import ALIASES, schema


class Settings(io.ComfyNode):
    """What a table is made for and what is sampled with must be the same: here it is set once."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        names = list(comfy.samplers.SCHEDULER_NAMES)
        return schema(
            node_id="DODE_Settings",
            display_name="D-ODE Settings",
            category=CATEGORY,
            description="Steps, cfg and scheduler for D-ODE Distill, the samplers and D-ODE "
            "Compare at once: a table serves what it was made for, so they should be the same.",
            search_aliases=ALIASES,
            inputs=[
                steps_widget("Steps to sample in."),
                cfg_widget(),
                io.Combo.Input(
                    "scheduler",
                    options=names,
                    default=names[0],
                    tooltip="Where the noise levels are.",
                ),
            ],
            outputs=[
                io.Int.Output(display_name="steps", tooltip="For every node's steps."),
                io.Float.Output(display_name="cfg", tooltip="For every node's cfg."),
                # The stock nodes' menus and ours are of different types; this one fits both.
                io.AnyType.Output(display_name="scheduler", tooltip="For every node's scheduler."),
            ],
        )

    @classmethod
    def execute(cls, steps: int, cfg: float, scheduler: str) -> io.NodeOutput:
        return io.NodeOutput(steps, cfg, scheduler)


NODES = [Settings]
