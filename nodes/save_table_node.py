"""D-ODE Save Table: a table into a file of one's own choice."""

from __future__ import annotations

from typing import Any

from comfy_api.latest import io

from ..dode_core.errors import DodeError, TableError
from .host import models, store
from .host.common import CATEGORY, AnySteps, Table, Tables, as_list
from .host.profile_report import summary
from .host.telling import report


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
    def execute(cls, table: Tables, filename: str = "", model: Any = None) -> io.NodeOutput:
        if model is None and not filename.strip():
            raise TableError(
                "There is neither a file name nor a model; give a name, or connect a model to save "
                "beside its checkpoint."
            )
        identity = None
        if model is not None:
            identity = models.identify(model, cls.hidden.prompt, cls.hidden.unique_id)
        if isinstance(table, AnySteps):
            file, note = store.copy_profile(table.stored.profile, identity, filename)
            said = summary(table.stored.profile)
        else:
            file, note = store.save(table, identity, store.target(identity, filename))
            said = "\n".join(each.describe() for each in as_list(table))
        first = as_list(table)[0]
        known = first.model_fingerprint
        if identity and known and not identity.same_model(known):
            note += f"; it was made for {first.model_name or 'another model'}"
        text = f"{said}\nsaved in {store.shown(file)}" + note
        return io.NodeOutput(str(file), ui=report(text))


NODES = [SaveTable]
