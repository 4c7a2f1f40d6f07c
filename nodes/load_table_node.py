"""D-ODE Load Table: a table of a file."""

from __future__ import annotations

from typing import Any

import torch
from comfy_api.latest import io

from ..dode_core.errors import DodeError
from ..dode_core.shelf import StoredProfile
from .host import store
from .host.common import CATEGORY, AnySteps, Table
from .host.load_inputs import STEPS, is_profile, load_inputs
from .host.profile_report import summary
from .host.telling import report


class LoadTable(io.ComfyNode):
    """A table of a file beside a checkpoint, or in models/dode."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="DODE_LoadTable",
            display_name="D-ODE Load Table",
            category=CATEGORY,
            description="Loads a distilled table from a .dode.json file, or a profile, which "
            "serves any steps, beside a checkpoint or in models/dode.",
            inputs=load_inputs(),
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
            found = store.find_any(file)
            holds = store.load_profile(found) if is_profile(found) else store.tables_in(found)
        except DodeError as error:
            return str(error)
        return bool(holds) or f"{file} holds no table; distill one first."

    @classmethod
    def fingerprint_inputs(cls, file: str, **kwargs: Any) -> str:
        return repr((store.version(store.find_any(file)), kwargs))

    @classmethod
    def execute(
        cls, file: str, solver: str = store.ANY, steps: int = 0, number: int = 1, table: str = ""
    ) -> io.NodeOutput:
        found = store.find_any(file)
        if is_profile(found):
            profile = store.load_profile(found)
            made = profile.table(steps or STEPS)
            carried = AnySteps([made], StoredProfile(profile, found))
            said = report(summary(profile))
            return io.NodeOutput(carried, made.sigmas.to(torch.float32), ui=said)
        made = store.select(file, solver, steps, number, table)
        made_for = f"\nmade for {made.model_name}" if made.model_name else ""
        said = report(made.describe() + made_for)
        return io.NodeOutput(made, made.sigmas.to(torch.float32), ui=said)


NODES = [LoadTable]
