"""D-ODE Distill: makes a table for a model, shows it, saves it beside the checkpoint."""

from __future__ import annotations

from typing import Any

import comfy.samplers
from comfy_api.latest import io
from torch import Tensor

from ..dode_core.fit.teacher import Teacher
from ..dode_core.methods import EVERY_RUN
from .host import calibrate, models, store
from .host.common import CATEGORY
from .host.distill_inputs import TEACHER, outputs, sockets, widgets
from .host.distill_report import plot, show
from .host.live import Live
from .host.making import Work, make_all
from .host.profile_report import plot_profile, tables_of
from .host.profiling import ProfileWork, find_or_make_profile
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
        method: str = EVERY_RUN,
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
        grids = calibrate.grids(patcher, sigmas, scheduler, steps)
        identity = models.identify(patcher, cls.hidden.prompt, cls.hidden.unique_id, guider)
        content = calibrate.prepare_latent(patcher, latent)
        live = Live(patcher, Teller(cls.hidden.unique_id))
        amount = samples, holdout, seed, batch_size
        if method == EVERY_RUN:
            file = store.profile_target(filename)
            once = ProfileWork(guider, calibrate.emptied(content), identity, *amount, file)
            stored, where = find_or_make_profile(once, live, reuse=not re_distill)
            tables, text = tables_of(stored, grids, where)
            drawn = plot_profile(stored.profile, tables, grids)
        else:
            how = solver, Teacher(teacher, teacher_steps), *amount, models.guidance(guider), method
            settings, file = calibrate.DistillSettings(*how), store.target(identity, filename)
            works = [
                Work(guider, content, grid, settings, identity, file, named=bool(filename.strip()))
                for grid in grids
            ]
            tables, text = make_all(works, live, re_distill)
            drawn = plot(tables[-1])
        return show(tables, text, drawn, cls)


NODES = [Distill]
