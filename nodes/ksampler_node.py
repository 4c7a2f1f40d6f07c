"""KSampler (D-ODE): all in one. Finds the best table, or distils one, and samples."""

from __future__ import annotations

from typing import Any

import comfy.samplers
from comfy_api.latest import io

from ..dode_core.fit.teacher import Teacher
from ..dode_core.methods import default_method
from ..dode_core.tables.table import LambdaTable
from .host import calibrate, models, store
from .host.common import (
    CATEGORY,
    Table,
    Tables,
    advanced,
    cfg_widget,
    scheduler_widget,
    steps_widget,
)
from .host.live import Live
from .host.making import Work, find_or_make
from .host.running import Plan, sample
from .host.sampling import choose, riding_tables, sample_dode
from .host.schema import ALIASES, ESSENTIAL, schema
from .host.telling import Teller, report

PLAIN, DISTILL = "sample without one", "distil one now"
SOLVER, SAMPLES, BATCH = "ddim", 16, 4  # of a table that is made here


class KSampler(io.ComfyNode):
    """The stock KSampler with the search for a table, and its making, built in."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            node_id="DODE_KSampler",
            display_name="KSampler (D-ODE)",
            category=CATEGORY,
            description="Samples with the best distilled table that there is for this model, its "
            "noise levels and its cfg, and shows which. Where there is none it samples without, or "
            "distils one first.",
            search_aliases=ALIASES,
            essentials_category=ESSENTIAL,
            inputs=[
                io.Model.Input("model", tooltip="The model, with its LoRAs."),
                io.Conditioning.Input("positive", tooltip="What you want to see."),
                io.Latent.Input("latent_image", tooltip="Empty, or an image to start from."),
                io.Conditioning.Input(
                    "negative", optional=True, tooltip="What to avoid. Needed unless cfg is 1."
                ),
                Table.Input(
                    "table", optional=True, tooltip="This table instead of the best there is."
                ),
                io.Int.Input(
                    "seed",
                    default=0,
                    min=0,
                    max=0xFFFFFFFFFFFFFFFF,
                    control_after_generate=True,
                    tooltip="Of the noise.",
                ),
                steps_widget("Steps to sample in."),
                cfg_widget(),
                scheduler_widget(
                    "Where the noise levels are. A table serves the scheduler that it was made for."
                ),
                advanced(
                    io.Float.Input(
                        "denoise",
                        default=1.0,
                        min=0.0,
                        max=1.0,
                        step=0.01,
                        optional=True,
                        tooltip="How much of an image is made anew, as in the stock KSampler.",
                    )
                ),
                advanced(
                    io.Combo.Input(
                        "no_table",
                        options=[PLAIN, DISTILL],
                        default=PLAIN,
                        optional=True,
                        tooltip="When this model has no table for these steps: sample with plain "
                        "DPM-Solver++(2M), or distil a table first, once, and keep it.",
                    )
                ),
            ],
            outputs=[
                io.Latent.Output(display_name="LATENT", tooltip="The denoised latent."),
                io.String.Output(display_name="report", tooltip="Which table was used, and how."),
            ],
            hidden=[io.Hidden.unique_id, io.Hidden.prompt],
        )

    @classmethod
    def fingerprint_inputs(cls, **kwargs: Any) -> str:
        """Sampling runs again when there are other tables to be found."""
        return repr(store.state())

    @classmethod
    def execute(
        cls,
        model: Any,
        positive: Any,
        latent_image: dict[str, Any],
        seed: int,
        steps: int,
        cfg: float,
        negative: Any = None,
        table: Tables | None = None,
        scheduler: str = comfy.samplers.SCHEDULER_NAMES[0],
        denoise: float = 1.0,
        no_table: str = PLAIN,
    ) -> io.NodeOutput:
        guider = calibrate.make_guider(model, positive, negative, cfg)
        sigmas = calibrate.schedule(model, scheduler, steps, denoise)
        live, said = Live(model), []
        carried = table or riding_tables(model.model_options)
        if no_table == DISTILL and len(sigmas) > 1:
            resolution = choose(model, sigmas, cfg, carried).resolution
            if resolution.kind not in ("exact", "slice"):
                whole = calibrate.schedule(model, scheduler, max(steps, int(steps / denoise)))
                content = calibrate.prepare_latent(model, latent_image)
                table, where = cls.distill(guider, content, whole, len(whole) == len(sigmas))
                said.append(f"distilled now, {where}")
        options = {"table": table, "say": said.append}
        sampler = comfy.samplers.KSAMPLER(sample_dode, options)
        samples = sample(guider, sampler, sigmas, Plan(latent_image, seed), live)
        text = "\n".join(reversed(said))
        return io.NodeOutput(samples, text, ui=report(text))

    @classmethod
    def distill(cls, guider: Any, content: Any, sigmas: Any, full: bool) -> tuple[LambdaTable, str]:
        """A table for this model and schedule, kept where D-ODE Distill keeps it."""
        patcher = guider.model_patcher
        identity = models.identify(patcher, cls.hidden.prompt, cls.hidden.unique_id, guider)
        settings = calibrate.DistillSettings(
            SOLVER,
            Teacher(),
            SAMPLES,
            0.25,
            0,
            BATCH,
            guider.cfg,
            default_method(full),
        )
        content = calibrate.emptied(content)
        work = Work(guider, content, sigmas, settings, identity, store.target(identity))
        live = Live(patcher, Teller(cls.hidden.unique_id))
        found = find_or_make(work, live)
        live.end()
        return found


NODES = [KSampler]
