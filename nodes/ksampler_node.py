"""KSampler (D-ODE): all in one. Finds the best table, or distills one, and samples."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import comfy.samplers
from comfy_api.latest import io

from .host import calibrate, models, store
from .host.common import CATEGORY, Tables
from .host.live import Live
from .host.profiling import ProfileWork, find_or_make_profile
from .host.run_inputs import DISTILL, PLAIN, ksampler_inputs
from .host.running import SeededLatent, sample
from .host.sampling import choose, query_of, riding_tables, sample_dode
from .host.schema import ALIASES, ESSENTIAL, schema
from .host.telling import Teller, report


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
            "distills one first.",
            search_aliases=ALIASES,
            essentials_category=ESSENTIAL,
            inputs=ksampler_inputs(),
            outputs=[
                io.Latent.Output(display_name="LATENT", tooltip="The denoised latent."),
                io.String.Output(display_name="report", tooltip="Which table was used, and how."),
            ],
            hidden=[io.Hidden.unique_id, io.Hidden.prompt],
            is_output_node=True,  # only then its report comes along when it is cached
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
        keep_schedule: bool = False,
    ) -> io.NodeOutput:
        guider = calibrate.make_guider(model, positive, negative, cfg)
        sigmas = calibrate.schedule(model, scheduler, steps, denoise)
        live, said = Live(model), []
        carried = table or riding_tables(model.model_options)
        if no_table == DISTILL and len(sigmas) > 1:
            query = replace(query_of(model, sigmas, cfg), keep_schedule=keep_schedule)
            resolution = choose(model, query, carried).resolution
            if resolution.kind not in ("exact", "slice", "profile"):
                said.append(f"distilled now, {cls.distill(guider, model, latent_image)}")
        options = {"table": table, "say": said.append, "keep_schedule": keep_schedule}
        sampler = comfy.samplers.KSAMPLER(sample_dode, options)
        samples = sample(guider, sampler, sigmas, SeededLatent(latent_image, seed), live)
        text = "\n".join(reversed(said))
        return io.NodeOutput(samples, text, ui=report(text))

    @classmethod
    def distill(cls, guider: Any, model: Any, latent_image: dict[str, Any]) -> str:
        """A profile of this model and cfg, kept where D-ODE Distill keeps it; where that is."""
        identity = models.identify(model, cls.hidden.prompt, cls.hidden.unique_id, guider)
        content = calibrate.emptied(calibrate.prepare_latent(model, latent_image))
        live = Live(model, Teller(cls.hidden.unique_id))
        _, where = find_or_make_profile(ProfileWork(guider, content, identity), live)
        live.end()
        return where


NODES = [KSampler]
