"""D-ODE Distill: makes a table for a model, shows it, saves it beside the checkpoint."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import comfy.samplers
from comfy_api.latest import io
from torch import Tensor

from ..dode_core.fit.teacher import Teacher
from ..dode_core.methods import default_method
from .host import calibrate, models, store
from .host.common import CATEGORY
from .host.distill_inputs import TEACHER, outputs, sockets, widgets
from .host.distill_report import show
from .host.live import Live
from .host.making import Work, make_all
from .host.schema import ALIASES, schema
from .host.telling import Teller


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
            outputs=outputs(),
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
        guider = calibrate.chosen_guider(guider, model, positive, negative, cfg)
        patcher = guider.model_patcher
        settings = calibrate.DistillSettings(
            solver=solver,
            teacher=Teacher(teacher, teacher_steps),
            samples=samples,
            holdout=holdout,
            seed=seed,
            batch_size=batch_size,
            cfg=models.guidance(guider),
            method=method,
        )
        grids = calibrate.grids(patcher, sigmas, scheduler, steps)
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
        return show(tables, text, cls)


NODES = [Distill]
