"""D-ODE Distill: makes a table for a model, shows it, saves it beside the checkpoint."""

from __future__ import annotations

import logging
from dataclasses import replace
from typing import Any

import comfy.samplers
import torch
from comfy_api.latest import io
from torch import Tensor

from ..dode_core.errors import CalibrationError
from ..dode_core.fit.teacher import Teacher
from ..dode_core.methods import default_method
from ..dode_core.step_counts import step_counts
from ..dode_core.tables.table import LambdaTable
from .host import calibrate, models, store
from .host.common import CATEGORY, Table
from .host.distill_inputs import TEACHER, sockets, widgets
from .host.distill_report import plot, summary, to_tensor
from .host.live import Live
from .host.making import Work, find_or_make
from .host.schema import ALIASES, schema
from .host.telling import Teller, report


class Distill(io.ComfyNode):
    """Calibration through the host's own guider; the table goes beside the checkpoint."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            node_id="DODE_Distill",
            display_name="D-ODE Distill",
            category=CATEGORY,
            description="Learns a few numbers that make a solver follow this model's own fine "
            "trajectory in few steps, and saves them beside the checkpoint. Then sample with "
            "D-ODE Sampler, or with 'dode' in the stock KSampler.",
            search_aliases=ALIASES,
            inputs=[*sockets(), *widgets()],
            outputs=[
                Table.Output(
                    display_name="TABLE",
                    tooltip="For D-ODE Sampler; of several step counts all tables, from which "
                    "samplers take theirs.",
                ),
                io.Sigmas.Output(
                    display_name="SIGMAS",
                    tooltip="What the table was made for; of several step counts the first.",
                ),
                io.String.Output(display_name="report", tooltip="What the node shows, as text."),
            ],
            hidden=[io.Hidden.unique_id, io.Hidden.prompt],
            is_output_node=True,
        )

    @classmethod
    def execute(
        cls,
        latent: dict[str, Any],
        solver: str,
        steps: str | int,
        cfg: float,
        model: Any = None,
        positive: Any = None,
        negative: Any = None,
        guider: Any = None,
        sigmas: Tensor | None = None,
        method: str = default_method(),
        scheduler: str = comfy.samplers.SCHEDULER_NAMES[0],
        samples: int = 16,
        seed: int = 0,
        teacher: str = TEACHER.solver,
        teacher_steps: int = TEACHER.substeps,
        holdout: float = 0.25,
        batch_size: int = 4,
        re_distill: bool = False,
        filename: str = "",
    ) -> io.NodeOutput:
        substeps = Teacher(teacher, teacher_steps)
        guider = chosen_guider(guider, model, positive, negative, cfg)
        patcher, cfg_used = guider.model_patcher, models.guidance(guider)
        settings = calibrate.DistillSettings(
            solver, substeps, samples, holdout, seed, batch_size, cfg_used, method
        )
        if sigmas is None:
            grids = [calibrate.schedule(patcher, scheduler, n) for n in step_counts(steps)]
        else:
            grids = [sigmas]
        identity = models.identify(patcher, cls.hidden.prompt, cls.hidden.unique_id, guider)
        first = Work(
            guider,
            calibrate.prepare_latent(patcher, latent),
            grids[0],
            settings,
            identity,
            store.target(identity, filename),
            named=bool(filename.strip()),
        )
        live = Live(patcher, Teller(cls.hidden.unique_id))
        tables, text = make_all([replace(first, sigmas=grid) for grid in grids], live, re_distill)
        picture, problem = plot(tables[-1])
        text += f"\n{problem}" if problem else ""
        shown = report(text, None if picture is None else to_tensor(picture), cls)
        table = tables if len(tables) > 1 else tables[0]
        return io.NodeOutput(table, tables[0].sigmas.to(torch.float32), text, ui=shown)


def make_all(works: list[Work], live: Live, again: bool) -> tuple[list[LambdaTable], str]:
    """A table each, and what to say of them; each is saved as soon as it is made."""
    tables, said = [], []
    for i, work in enumerate(works):
        table, where = find_or_make(work, live, reuse=not again, left=len(works) - i)
        text = f"{summary(table)}\n{where}"
        logging.info("D-ODE: %s", text.replace("\n", "; "))
        tables.append(table)
        said.append(text if len(works) == 1 else f"{table.describe()}; {where}")
    return tables, "\n".join(said)


def chosen_guider(guider: Any, model: Any, positive: Any, negative: Any, cfg: float) -> Any:
    """The guider that is connected, or the host's own around what is connected instead."""
    if guider is None:
        if model is None or positive is None:
            missing = "a model" if model is None else "positive"
            raise CalibrationError(
                f"{missing} is not connected; connect model, positive and negative, or a GUIDER."
            )
        return calibrate.make_guider(model, positive, negative, cfg)
    if not (model is None and positive is None and negative is None):
        raise CalibrationError(
            "A GUIDER is connected, and a model or conditioning as well; disconnect one of the "
            "two, so that it is clear what is distilled."
        )
    return guider


NODES = [Distill]
