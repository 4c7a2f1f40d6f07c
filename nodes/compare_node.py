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
from .host.common import CATEGORY, Tables
from .host.comparing import CountingGuider, compare, contenders, peer_contender
from .host.comparing_report import captions, side_by_side
from .host.distill_report import to_tensor
from .host.live import Live
from .host.run_inputs import TEACHER_STEPS, compare_inputs
from .host.running import SeededLatent
from .host.sampling import SAMPLER_NAME, choose, query_of, riding_tables
from .host.schema import ALIASES, schema
from .host.telling import Teller, report

PEER = "dpmpp_2m"


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
            inputs=compare_inputs(peers, PEER),
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
        choice = choose(model, query_of(model, sigmas, cfg), carried)
        other = peer_contender(model, peer, scheduler, steps, denoise)
        work = contenders(sigmas, choice.resolution, Teacher(substeps=teacher_steps), other)
        live = Live(model, Teller(cls.hidden.unique_id, "steps"))
        entries = compare(guider, work, SeededLatent(latent_image, seed), live)

        text = "\n".join([captions(entries), choice.message])
        logging.info("D-ODE: %s", text.replace("\n", "; "))
        image = to_tensor(side_by_side(entries, vae))
        return io.NodeOutput(image, text, ui=report(text, image, cls))


NODES = [Compare]
