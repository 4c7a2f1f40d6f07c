"""The inputs of the nodes that sample: KSampler (D-ODE) and D-ODE Compare."""

from __future__ import annotations

from comfy_api.latest import io

from ...dode_core.match.best import KEEP_SCHEDULE
from .common import Table, advanced, cfg_widget, scheduler_widget, steps_widget

PLAIN, DISTILL = "sample without one", "distil one now"
TEACHER_STEPS = 8  # of Compare's reference, inside each step


def ksampler_inputs() -> list[io.Input]:
    """What KSampler (D-ODE) takes."""
    return [
        *model_and_latent(),
        *negative_and_table(),
        seed_widget("Of the noise.", after_generate=True),
        steps_widget("Steps to sample in."),
        cfg_widget(),
        scheduler_widget(
            "Where the noise levels are. A table serves the scheduler that it was made for."
        ),
        denoise_widget(least=0.0),
        advanced(
            io.Combo.Input(
                "no_table",
                options=[PLAIN, DISTILL],
                default=PLAIN,
                optional=True,
                tooltip="When this model has no table for these steps: sample with plain "
                "DPM-Solver++(2M), or distill a table first, once, and keep it.",
            )
        ),
        keep_schedule_widget(),
    ]


def keep_schedule_widget() -> io.Input:
    """Whether a run stays on its own noise levels."""
    return advanced(
        io.Boolean.Input(
            "keep_schedule",
            default=False,
            optional=True,
            tooltip=KEEP_SCHEDULE,
        )
    )


def compare_inputs(peers: list[str], peer: str) -> list[io.Input]:
    """What D-ODE Compare takes; ``peer`` is the default of ``peers``."""
    return [
        *model_and_latent(),
        io.Vae.Input("vae", tooltip="Turns latents into images."),
        *negative_and_table(),
        steps_widget("Steps of all but the teacher."),
        cfg_widget(),
        io.Combo.Input(
            "peer",
            options=peers,
            default=peer if peer in peers else peers[0],
            tooltip="A sampler of ComfyUI's to compare with, at the same steps.",
        ),
        advanced(seed_widget("Of the noise that all start from.", after_generate=False)),
        scheduler_widget("Where the noise levels are."),
        denoise_widget(least=0.01),
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
    ]


def model_and_latent() -> list[io.Input]:
    return [
        io.Model.Input("model", tooltip="The model, with its LoRAs."),
        io.Conditioning.Input("positive", tooltip="What you want to see."),
        io.Latent.Input("latent_image", tooltip="Empty, or an image to start from."),
    ]


def negative_and_table() -> list[io.Input]:
    return [
        io.Conditioning.Input(
            "negative", optional=True, tooltip="What to avoid. Needed unless cfg is 1."
        ),
        Table.Input("table", optional=True, tooltip="This table instead of the best there is."),
    ]


def seed_widget(tooltip: str, after_generate: bool) -> io.Input:
    """A seed that changes after every run, or a fixed one that need not be given."""
    return io.Int.Input(
        "seed",
        default=0,
        min=0,
        max=0xFFFFFFFFFFFFFFFF,
        control_after_generate=after_generate,
        optional=not after_generate,
        tooltip=tooltip,
    )


def denoise_widget(least: float) -> io.Input:
    return advanced(
        io.Float.Input(
            "denoise",
            default=1.0,
            min=least,
            max=1.0,
            step=0.01,
            optional=True,
            tooltip="How much of an image is made anew, as in the stock KSampler.",
        )
    )
