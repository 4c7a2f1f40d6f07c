"""Cost on paper: FLOPs of one evaluation, counted on networks without weights, and what follows.

    minutes = samples * evaluations * passes * FLOP / (devices * peak * share) / 60

FLOPs are counted by torch on the meta device, so this runs anywhere; peak is the maker's figure and
share the part of it that such networks reach (an assumption, see docs/scale.md). Nothing here was
timed on a GPU.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

from dode_core.fit.teacher import Teacher
from dode_core.report import text_table
from dode_core.solve.solvers import get_solver

from .common import write_result

SAMPLES, STEPS, SHARE = 16, 8, 0.4
CARDS = {"RTX 4090": (165e12, 24), "H100": (989e12, 80)}  # dense fp16/bf16 FLOP/s; GB
DEVICES = {"RTX 4090": 1, "H100": 8}
LEARNED = 300  # the budget of learned sigmas


@dataclass(frozen=True)
class Model:
    """A network, what it is called with at its usual size, and passes per guided evaluation."""

    name: str
    build: Callable[[], Any]
    inputs: Callable[[], dict[str, Any]]
    latent: tuple[int, ...]
    passes: int


def network(name: str, **config: Any) -> Any:
    """A network of diffusers by the name of its class."""
    import diffusers

    return getattr(diffusers, name)(**config)


def unet(**config: Any) -> Any:
    return network("UNet2DConditionModel", **config)


def sd15() -> Any:
    return unet(sample_size=64, cross_attention_dim=768, attention_head_dim=8)


def sdxl(**smaller: Any) -> Any:
    """SDXL's UNet; ``smaller``: what another size has in place of SDXL's."""
    config: dict[str, Any] = {
        "sample_size": 128,
        "block_out_channels": (320, 640, 1280),
        "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        "transformer_layers_per_block": (1, 2, 10),
        "attention_head_dim": (5, 10, 20),
        "cross_attention_dim": 2048,
        "use_linear_projection": True,
        "addition_embed_type": "text_time",
        "addition_time_embed_dim": 256,
        "projection_class_embeddings_input_dim": 2816,
    }
    return unet(**config | smaller)


def sd35() -> Any:
    return network(
        "SD3Transformer2DModel",
        sample_size=128,
        num_layers=38,
        attention_head_dim=64,
        num_attention_heads=38,
        joint_attention_dim=4096,
        caption_projection_dim=2432,
        pooled_projection_dim=2048,
        in_channels=16,
        out_channels=16,
        pos_embed_max_size=192,
        qk_norm="rms_norm",
    )


def flux() -> Any:
    return network("FluxTransformer2DModel", guidance_embeds=True)


def _unet_inputs(side: int, width: int, **added: Any) -> dict[str, Any]:
    return {
        "sample": torch.randn(1, 4, side, side),
        "timestep": torch.ones(1),
        "encoder_hidden_states": torch.randn(1, 77, width),
        **added,
    }


def _sdxl_inputs() -> dict[str, Any]:
    added = {"text_embeds": torch.randn(1, 1280), "time_ids": torch.ones(1, 6)}
    return _unet_inputs(128, 2048, added_cond_kwargs=added)


def _sd35_inputs() -> dict[str, Any]:
    return {
        "hidden_states": torch.randn(1, 16, 128, 128),
        "timestep": torch.ones(1),
        "encoder_hidden_states": torch.randn(1, 333, 4096),
        "pooled_projections": torch.randn(1, 2048),
    }


def _flux_inputs() -> dict[str, Any]:
    return {
        "hidden_states": torch.randn(1, 4096, 64),
        "timestep": torch.ones(1),
        "guidance": torch.ones(1),
        "encoder_hidden_states": torch.randn(1, 512, 4096),
        "pooled_projections": torch.randn(1, 768),
        "txt_ids": torch.zeros(512, 3),
        "img_ids": torch.zeros(4096, 3),
    }


MODELS = (
    Model("SD 1.5, 512x512", sd15, lambda: _unet_inputs(64, 768), (4, 64, 64), 2),
    Model("SDXL, 1024x1024", sdxl, _sdxl_inputs, (4, 128, 128), 2),
    Model("SD 3.5 Large, 1024x1024", sd35, _sd35_inputs, (16, 128, 128), 2),
    Model("Flux dev, 1024x1024", flux, _flux_inputs, (16, 128, 128), 1),
)


def evaluations(steps: int, solver: str = "ddim") -> float:
    """Model evaluations per sample of a table on a given grid: teacher, plain run, fit."""
    grid = [*range(steps, 0, -1), 0]
    stages = get_solver(solver).evaluations(steps)
    return len(Teacher().stages(grid)) + 2 * stages


def states_gib(latent: Sequence[int], steps: int) -> float:
    """The states that wait on the CPU: a start and a goal a stage for every sample, float32."""
    return SAMPLES * (steps + 2) * math.prod(latent) * 4 / 2**30


def main(arguments: Sequence[str] = ()) -> None:
    results = []
    for model in MODELS:
        with torch.device("meta"):
            network = model.build().to(torch.float16)
            inputs = _half(model.inputs())
            with FlopCounterMode(display=False) as counter, torch.no_grad():
                network(**inputs)
        flop = counter.get_total_flops()
        parameters = sum(weight.numel() for weight in network.parameters())
        row: dict[str, Any] = {
            "model": model.name,
            "parameters": parameters,
            "tflop_per_pass": flop / 1e12,
            "passes": model.passes,
            "weights_gib_fp16": 2 * parameters / 2**30,
            "states_gib": states_gib(model.latent, STEPS),
        }
        for what, count in (("one_lambda", evaluations(STEPS)), ("learned_sigmas", LEARNED)):
            row[f"evaluations_{what}"] = count
            for card, (peak, _) in CARDS.items():
                work = SAMPLES * count * model.passes * flop
                row[f"minutes_{what}_{card}"] = work / (DEVICES[card] * peak * SHARE) / 60
        results.append(row)
    header = ["model", "TFLOP a pass", "passes", "weights GiB", "states GiB"]
    header += [
        f"{what}, {DEVICES[card]} {card}, min" for what in ("plain", "sigmas") for card in CARDS
    ]
    cells = [
        [
            row["model"],
            f"{row['tflop_per_pass']:.2f}",
            str(row["passes"]),
            f"{row['weights_gib_fp16']:.1f}",
            f"{row['states_gib']:.2f}",
            *(f"{value:.1f}" for key, value in row.items() if key.startswith("minutes_")),
        ]
        for row in results
    ]
    print(text_table(header, cells))
    write_result("cost", {"samples": SAMPLES, "steps": STEPS, "share": SHARE, "models": results})


def _half(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _half(each) for key, each in value.items()}
    return value.to(torch.float16)
