"""All example workflows by name, and tiny stand-ins for the models that they name."""

from __future__ import annotations

from pathlib import Path

from example_graphs import app, checkpoint, demo, flow_model, image_to_image
from example_video import HIGH, LOW, two_experts
from hosts.checkpoints import (
    SD3_CLIP_L,
    SD3_TEXT,
    SD15,
    SD15_TEXT,
    WAN,
    write_checkpoint,
    write_diffusion_model,
)

# By the names that the front end shows: those of the files.
EXAMPLES = {
    "Try D-ODE without a checkpoint": demo,
    "Distil a checkpoint, then sample": checkpoint,
    "SD 3.5 and Flux in one node": flow_model,
    "Image to image, distilled once": image_to_image,
    "Wan 2.2, two experts": two_experts,
    "Few steps, as an app": app,
}


def write_models(models: Path) -> None:
    """Tiny stand-ins, with random weights, for the checkpoints that the examples name."""
    stand_ins = {checkpoint: (SD15, SD15_TEXT), flow_model: (SD3_TEXT, SD3_CLIP_L)}
    for example, (tiny, text) in stand_ins.items():
        for folder, name, _ in example().models:
            if not (models / folder / name).exists():
                write_checkpoint(models, tiny, name, text_encoder=text)
    for draw, name in enumerate((HIGH, LOW)):
        if not (models / "diffusion_models" / name).exists():
            write_diffusion_model(models, WAN, name, draw)
    for folder, name, _ in two_experts().models[2:]:  # only their names are seen
        (models / folder).mkdir(parents=True, exist_ok=True)
        (models / folder / name).touch()
