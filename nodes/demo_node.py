"""D-ODE Demo Model: something to try the pack on without downloading a checkpoint."""

from __future__ import annotations

import comfy.sd
import torch
from comfy_api.latest import io

from ..dode_core.demo.model import CLASSES, IMAGE_SHAPE, NO_CLASS
from .host.common import CATEGORY
from .host.demo_model import conditioning, load_model, variants


class DemoModel(io.ComfyNode):
    """The embedded emoji model with its conditioning, an empty latent and a pixel VAE."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="DODE_DemoModel",
            display_name="D-ODE Demo Model",
            category=CATEGORY,
            description="A small trained model of 32x32 emoji that comes with the pack, with all "
            "that a sampler needs. Works with the stock nodes, no download.",
            inputs=[
                io.Combo.Input(
                    "subject",
                    options=list(CLASSES),
                    default="food",
                    tooltip="What the positive asks for.",
                ),
                io.Combo.Input(
                    "variant",
                    options=variants(),
                    default=variants()[0],
                    tooltip="EDM: sigma 80 to 0.002, like a Stable Diffusion model. "
                    "flow: rectified flow, sigma 1 to 0, like SD3 or Flux.",
                ),
                io.Int.Input(
                    "batch_size", default=4, min=1, max=64, tooltip="Images in the latent."
                ),
            ],
            outputs=[
                io.Model.Output(display_name="MODEL", tooltip="The demo model."),
                io.Conditioning.Output(display_name="positive", tooltip="The subject."),
                io.Conditioning.Output(display_name="negative", tooltip="No subject at all."),
                io.Latent.Output(display_name="LATENT", tooltip="Empty 32x32 pixels."),
                io.Vae.Output(display_name="VAE", tooltip="Pixels to image; learns nothing."),
            ],
        )

    @classmethod
    def execute(cls, subject: str, variant: str, batch_size: int) -> io.NodeOutput:
        if subject not in CLASSES:
            raise ValueError(f"Subject {subject!r} is unknown; use one of {', '.join(CLASSES)}.")
        if variant not in variants():
            known = ", ".join(variants())
            raise ValueError(f"Variant {variant!r} is not in this pack; use one of {known}.")
        return io.NodeOutput(
            load_model(variant),
            conditioning(CLASSES.index(subject)),
            conditioning(NO_CLASS),
            {"samples": torch.zeros(batch_size, *IMAGE_SHAPE)},
            comfy.sd.VAE(sd={"pixel_space_vae": torch.tensor(1.0)}),  # as VAELoader's pixel_space
        )


NODES = [DemoModel]
