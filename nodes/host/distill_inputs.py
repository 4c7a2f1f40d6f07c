"""What D-ODE Distill takes and gives."""

from __future__ import annotations

from comfy_api.latest import io

from ...dode_core.fit.teacher import MAX_SUBSTEPS, Teacher
from ...dode_core.methods import EVERY_RUN, METHODS
from ...dode_core.solve.solvers import SOLVERS
from .common import SOLVER_HELP, Table, advanced, cfg_widget, scheduler_widget

TEACHER = Teacher()  # the default, whose values the widgets show


def sockets() -> list[io.Input]:
    """What is connected: a GUIDER, or a model with its conditioning."""
    return [
        io.Latent.Input("latent", tooltip="An empty latent of the size that you will use."),
        io.Model.Input(
            "model", optional=True, tooltip="The model, with its LoRAs, that you will use."
        ),
        io.Conditioning.Input(
            "positive",
            optional=True,
            tooltip="A prompt like those you will use; several through D-ODE Prompts.",
        ),
        io.Conditioning.Input("negative", optional=True, tooltip="Needed unless cfg is 1."),
        io.Guider.Input(
            "guider", optional=True, tooltip="Instead of model, positive, negative and cfg."
        ),
        io.Sigmas.Input("sigmas", optional=True, tooltip="Instead of steps and scheduler."),
    ]


def widgets() -> list[io.Input]:
    """The node's widgets, those that everybody needs first."""
    return [
        io.Combo.Input("solver", options=list(SOLVERS), default="ddim", tooltip=SOLVER_HELP),
        io.MultiType.Input(
            io.String.Input("steps", default="8"),
            types=[io.Int],
            tooltip="Steps that you will sample in: 8, or several: 4-10, or 4-7, 10. With "
            f"{EVERY_RUN!r} you may sample in others as well; every other method makes a table for "
            "each. Not used when SIGMAS are connected.",
        ),
        cfg_widget(
            "Guidance that you will sample with. 1 leaves the negative out. Not used when "
            "a GUIDER is connected."
        ),
        advanced(
            io.Combo.Input(
                "method",
                options=[EVERY_RUN, *METHODS],
                default=EVERY_RUN,
                optional=True,
                tooltip=f"{EVERY_RUN}: once, for any number of steps, image to image and every "
                "schedule at this cfg. columns and sigmas: best quality, for whole images (denoise "
                "1) of these steps, several times the work. one lambda: also for image to image "
                "and two-stage sampling, and for near step counts; the paper's. columns: in "
                "between, keeps the scheduler's noise levels.",
            )
        ),
        scheduler_widget(
            "The scheduler that you will sample with. Not used when SIGMAS are connected."
        ),
        advanced(
            io.Int.Input(
                "samples",
                default=16,
                min=1,
                max=4096,
                optional=True,
                tooltip="Noises to learn from. 16 are enough; with fewer, one odd noise among "
                "those held out can cost the table.",
            )
        ),
        advanced(
            io.Int.Input(
                "seed",
                default=0,
                min=0,
                max=0xFFFFFFFFFFFFFFFF,
                optional=True,
                control_after_generate=False,
                tooltip="Of those noises.",
            )
        ),
        *teacher_widgets(),
        advanced(
            io.Boolean.Input(
                "re_distill",
                default=False,
                label_on="always",
                label_off="when needed",
                optional=True,
                tooltip="A table of this model with the same settings is used as it is, unless "
                "this is on. Another prompt alone is not another setting.",
            )
        ),
        advanced(
            io.String.Input(
                "filename",
                default="",
                optional=True,
                tooltip="Empty: beside the checkpoint, named after it. Else a name of your own in "
                "models/dode.",
            )
        ),
    ]


def teacher_widgets() -> list[io.Input]:
    """What experts may want to change."""
    return [
        advanced(
            io.Combo.Input(
                "teacher",
                options=list(SOLVERS),
                default=TEACHER.solver,
                optional=True,
                tooltip="The solver that shows, in many small steps, where to go.",
            )
        ),
        advanced(
            io.Int.Input(
                "teacher_steps",
                default=TEACHER.substeps,
                min=1,
                max=MAX_SUBSTEPS,
                optional=True,
                tooltip="The teacher's steps inside each step.",
            )
        ),
        advanced(
            io.Float.Input(
                "holdout",
                default=0.25,
                min=0.0,
                max=0.9,
                step=0.05,
                round=False,
                optional=True,
                tooltip="Share of the samples that is not learned from: it shows what the table is "
                "worth, and lambdas that do not help there become 0.",
            )
        ),
        advanced(
            io.Int.Input(
                "batch_size",
                default=4,
                min=1,
                max=64,
                optional=True,
                tooltip="Samples in memory at once; halved by itself when memory runs out.",
            )
        ),
    ]


def outputs() -> list[io.Output]:
    """What the node gives."""
    return [
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
    ]
