"""D-ODE Compare: the same noise through teacher, plain solver, D-ODE and a peer, side by side."""

from __future__ import annotations

import logging
from typing import Any

import comfy.samplers
from comfy_api.latest import io

from ..dode_core.errors import CalibrationError
from ..dode_core.fit.teacher import Teacher
from .host import store
from .host.calibrate import make_guider, schedule
from .host.common import (
    CATEGORY,
    Table,
    Tables,
    advanced,
    cfg_widget,
    scheduler_widget,
    steps_widget,
)
from .host.comparing import CountingGuider, Entry, compare, jobs, peer_job
from .host.distill_report import to_tensor
from .host.live import Live
from .host.picture import columns
from .host.running import Plan
from .host.sampling import SAMPLER_NAME, choose, riding_tables
from .host.schema import ALIASES, schema
from .host.telling import Teller, report

PEER, TEACHER_STEPS = "dpmpp_2m", 8


class Compare(io.ComfyNode):
    """What a table is worth for this prompt and seed, to look at."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        peers = [name for name in comfy.samplers.SAMPLER_NAMES if not name.startswith(SAMPLER_NAME)]
        return schema(
            node_id="DODE_Compare",
            display_name="D-ODE Compare",
            category=CATEGORY,
            description="One picture of the same noise sampled four ways: the teacher in many "
            "steps, the plain solver, D-ODE with its table, and another sampler of your choice; "
            "with the number of model evaluations, and the distance to the teacher.",
            search_aliases=ALIASES,
            inputs=[
                io.Model.Input("model", tooltip="The model, with its LoRAs."),
                io.Conditioning.Input("positive", tooltip="What you want to see."),
                io.Latent.Input("latent_image", tooltip="Empty, or an image to start from."),
                io.Vae.Input("vae", tooltip="Turns latents into images."),
                io.Conditioning.Input(
                    "negative", optional=True, tooltip="What to avoid. Needed unless cfg is 1."
                ),
                Table.Input(
                    "table", optional=True, tooltip="This table instead of the best there is."
                ),
                steps_widget("Steps of all but the teacher."),
                cfg_widget(),
                io.Combo.Input(
                    "peer",
                    options=peers,
                    default=PEER if PEER in peers else peers[0],
                    tooltip="A sampler of ComfyUI's to compare with, at the same steps.",
                ),
                advanced(
                    io.Int.Input(
                        "seed",
                        default=0,
                        min=0,
                        max=0xFFFFFFFFFFFFFFFF,
                        control_after_generate=False,
                        optional=True,
                        tooltip="Of the noise that all start from.",
                    )
                ),
                scheduler_widget("Where the noise levels are."),
                advanced(
                    io.Float.Input(
                        "denoise",
                        default=1.0,
                        min=0.01,
                        max=1.0,
                        step=0.01,
                        optional=True,
                        tooltip="How much of an image is made anew, as in the stock KSampler.",
                    )
                ),
                advanced(
                    io.Int.Input(
                        "teacher_steps",
                        default=TEACHER_STEPS,
                        min=1,
                        max=100,
                        optional=True,
                        tooltip="The teacher's steps inside each step.",
                    )
                ),
            ],
            outputs=[
                io.Image.Output(display_name="IMAGE", tooltip="The picture that the node shows."),
                io.String.Output(display_name="report", tooltip="Errors and evaluations as text."),
            ],
            hidden=[io.Hidden.unique_id],
            is_output_node=True,
        )

    @classmethod
    def fingerprint_inputs(cls, **kwargs: Any) -> str:
        """It runs again when there are other tables to be found."""
        return repr(store.state())

    @classmethod
    def execute(
        cls,
        model: Any,
        positive: Any,
        latent_image: dict[str, Any],
        vae: Any,
        steps: int,
        cfg: float,
        peer: str,
        negative: Any = None,
        table: Tables | None = None,
        seed: int = 0,
        scheduler: str = comfy.samplers.SCHEDULER_NAMES[0],
        denoise: float = 1.0,
        teacher_steps: int = TEACHER_STEPS,
    ) -> io.NodeOutput:
        if peer not in comfy.samplers.SAMPLER_NAMES:
            raise CalibrationError(f"Sampler {peer!r} is unknown; choose one of ComfyUI's menu.")

        def guider() -> CountingGuider:
            return make_guider(model, positive, negative, cfg, CountingGuider)

        guider()  # says what is missing before anything runs
        sigmas = schedule(model, scheduler, steps, denoise)
        carried = table or riding_tables(model.model_options)
        choice = choose(model, sigmas, cfg, carried)
        other = peer_job(model, peer, scheduler, steps, denoise)
        work = jobs(sigmas, choice.resolution, Teacher(substeps=teacher_steps), other)
        live = Live(model, Teller(cls.hidden.unique_id, "steps"))
        entries = compare(guider, work, Plan(latent_image, seed), live)

        text = "\n".join([captions(entries), choice.resolution.message + choice.note])
        logging.info("D-ODE: %s", text.replace("\n", "; "))
        picture = columns({each.caption(): decode(vae, each) for each in entries})
        image = to_tensor(picture)
        return io.NodeOutput(image, text, ui=report(text, image, cls))


def captions(entries: list[Entry]) -> str:
    """A line per column."""
    return "\n".join(each.caption().replace("\n", ", ") for each in entries)


def decode(vae: Any, entry: Entry) -> Any:
    """Images (n, height, width, 3); of a video its first frame."""
    latent = entry.latent["samples"]
    images = vae.decode(latent.unbind()[0] if latent.is_nested else latent)
    return images[:, 0] if images.ndim == 5 else images


NODES = [Compare]
