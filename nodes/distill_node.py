"""D-ODE Distill: makes a table for a model, shows it, saves it beside the checkpoint."""

from __future__ import annotations

import logging
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import comfy.samplers
import torch
from comfy_api.latest import io, ui
from torch import Tensor

from ..dode_core.errors import CalibrationError
from ..dode_core.solvers import get_solver
from ..dode_core.table import LambdaTable
from ..dode_core.teacher import Teacher
from . import calibrate, models, store
from .common import CATEGORY, Table, show_text
from .distill_inputs import REUSE, TEACHER, widgets
from .distill_report import plot, summary
from .reuse import find_same


class Distill(io.ComfyNode):
    """Calibration through the host's own guider; the table goes beside the checkpoint."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="DODE_Distill",
            display_name="D-ODE Distill",
            category=CATEGORY,
            description="Learns a few numbers that make a solver follow this model's own fine "
            "trajectory in few steps, and saves them beside the checkpoint. Then sample with "
            "D-ODE Sampler, or with 'dode' in the stock KSampler.",
            inputs=[
                io.Model.Input("model", tooltip="The model, with its LoRAs, that you will use."),
                io.Conditioning.Input("positive", tooltip="A prompt like those you will use."),
                io.Latent.Input("latent", tooltip="An empty latent of the size that you will use."),
                io.Conditioning.Input("negative", optional=True, tooltip="Needed unless cfg is 1."),
                io.Sigmas.Input("sigmas", optional=True, tooltip="Instead of steps and scheduler."),
                *widgets(),
            ],
            outputs=[
                Table.Output(display_name="TABLE", tooltip="For D-ODE Sampler."),
                io.Sigmas.Output(display_name="SIGMAS", tooltip="What the table was made for."),
                io.String.Output(display_name="report", tooltip="What the node shows, as text."),
            ],
            hidden=[io.Hidden.unique_id, io.Hidden.prompt],
            is_output_node=True,
        )

    @classmethod
    def execute(
        cls,
        model: Any,
        positive: Any,
        latent: dict[str, Any],
        solver: str,
        steps: int,
        cfg: float,
        negative: Any = None,
        sigmas: Tensor | None = None,
        method: str = next(iter(calibrate.METHODS)),
        scheduler: str = comfy.samplers.SCHEDULER_NAMES[0],
        samples: int = 16,
        seed: int = 0,
        teacher: str = TEACHER.solver,
        teacher_steps: int = TEACHER.substeps,
        holdout: float = 0.25,
        batch_size: int = 4,
        existing: str = REUSE,
        filename: str = "",
    ) -> io.NodeOutput:
        began = time.monotonic()
        get_solver(solver)
        substeps = Teacher(teacher, teacher_steps)
        settings = calibrate.Settings(
            solver, substeps, samples, holdout, seed, batch_size, cfg, method
        )
        if negative is None and cfg != 1:
            raise CalibrationError(
                f"cfg is {cfg:g}, which needs a negative; connect one, or use cfg 1."
            )
        if sigmas is None:
            sigmas = calibrate.schedule(model, scheduler, steps)
        identity = models.identify(model, cls.hidden.prompt, cls.hidden.unique_id)
        file = store.target(identity, filename)
        content = calibrate.prepare_latent(model, latent)

        found = None
        if existing == REUSE:
            kind = models.parametrization(model)
            there = [store.Stored(table, file) for table in store.tables_in(file)]
            there = there if filename else store.find(identity)
            found = find_same(there, identity, settings, sigmas, kind, content)
        if found is not None:
            table, where = found.table, f"found in {store.shown(found.file)}, nothing to do"
        else:
            show_text(f"distilling {get_solver(solver).label} ...", cls.hidden.unique_id)
            conditions = positive, positive if negative is None else negative
            guider = calibrate.make_guider(model, *conditions, cfg, batch_size)
            table = calibrate.calibrate(guider, content, sigmas, settings)
            table, where = keep(table, identity, settings, file)
            where = f"{time.monotonic() - began:.1f} s, {where}"
        return cls.result(table, f"{summary(table)}\n{where}")

    @classmethod
    def result(cls, table: LambdaTable, text: str) -> io.NodeOutput:
        """The outputs, with text and plot in the node's body."""
        logging.info("D-ODE: %s", text.replace("\n", "; "))
        image, problem = plot(table)
        text += f"\n{problem}" if problem else ""
        show_text(text, cls.hidden.unique_id)
        picture = None if image is None else ui.PreviewImage(image, cls=cls)
        return io.NodeOutput(table, table.sigmas.to(torch.float32), text, ui=picture)


def keep(
    table: LambdaTable, identity: models.Identity, settings: calibrate.Settings, file: Path
) -> tuple[LambdaTable, str]:
    """Save the table with what it was made for; (that table, where it went)."""
    table = replace(
        table,
        model_name=identity.name,
        model_fingerprint=identity.fingerprint,
        cfg=settings.cfg,
        seed=settings.seed,
    )
    file, note = store.save(table, identity, file)
    return table, f"saved in {store.shown(file)}" + (f"; {note}" if note else "")


NODES = [Distill]
