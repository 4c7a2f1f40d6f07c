"""Tiny checkpoints with random weights that ComfyUI's stock loaders recognise.

They are enough for paths, sidecars and the sampler contract, and mean nothing as images.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

Shapes = dict[str, tuple[int, ...]]
MANY = 1_000_000  # weights of a tensor that are still drawn one by one


@dataclass(frozen=True)
class TinyModel:
    """An architecture reduced to the least that its family's detection accepts.

    `context` and `pooled` are the widths of the conditioning it takes (pooled 0: none),
    `channels` the latent's; `extra` are tensors that only steer the detection.
    """

    shapes: Callable[[], Shapes]
    context: int
    pooled: int
    channels: int
    dtype: torch.dtype = torch.float32
    extra: dict[str, Tensor] = field(default_factory=dict)


def sd3_shapes(context: int = 64, pooled: int = 64) -> Shapes:
    """Return SD3's MMDiT with depth 1 and hidden width 64: 145,000 parameters."""
    hidden, channels, patch = 64, 16, 2
    return {
        **layer("x_embedder.proj", hidden, channels, patch, patch),
        **layer("t_embedder.mlp.0", hidden, 256),
        **layer("t_embedder.mlp.2", hidden, hidden),
        **layer("y_embedder.mlp.0", hidden, pooled),
        **layer("y_embedder.mlp.2", hidden, hidden),
        **layer("context_embedder", hidden, context),
        **layer("joint_blocks.0.context_block.attn.qkv", 3 * hidden, hidden),
        **layer("joint_blocks.0.context_block.adaLN_modulation.1", 2 * hidden, hidden),
        **layer("joint_blocks.0.x_block.attn.qkv", 3 * hidden, hidden),
        **layer("joint_blocks.0.x_block.attn.proj", hidden, hidden),
        **layer("joint_blocks.0.x_block.mlp.fc1", 4 * hidden, hidden),
        **layer("joint_blocks.0.x_block.mlp.fc2", hidden, 4 * hidden),
        **layer("joint_blocks.0.x_block.adaLN_modulation.1", 6 * hidden, hidden),
        **layer("final_layer.linear", channels * patch * patch, hidden),
        **layer("final_layer.adaLN_modulation.1", 2 * hidden, hidden),
    }


def wan_shapes() -> Shapes:
    """Return Wan's video transformer with depth 1 and one head: 1.1 million parameters."""
    width, channels, text = 128, 16, 4096
    shapes = {
        **layer("patch_embedding", width, channels, 1, 2, 2),
        **layer("text_embedding.0", width, text),
        **layer("text_embedding.2", width, width),
        **layer("time_embedding.0", width, 256),
        **layer("time_embedding.2", width, width),
        **layer("time_projection.1", 6 * width, width),
        **layer("blocks.0.norm3", width),
        **layer("blocks.0.ffn.0", width, width),
        **layer("blocks.0.ffn.2", width, width),
        "blocks.0.modulation": (1, 6, width),
        **layer("head.head", 4 * channels, width),
        "head.modulation": (1, 2, width),
    }
    for attention in ("blocks.0.self_attn", "blocks.0.cross_attn"):
        for name in "qkvo":
            shapes.update(layer(f"{attention}.{name}", width, width))
        for name in ("norm_q.weight", "norm_k.weight"):
            shapes[f"{attention}.{name}"] = (width,)
    return shapes


def unet_shapes(context: int, linear: bool) -> Shapes:
    """Return Stable Diffusion's UNet, one level and no middle block: 14 million parameters.

    The width 320 and `context` are what the detection goes by; `linear` sets SD2 from SD1.
    """
    width, time = 320, 1280
    projection = (width, width) if linear else (width, width, 1, 1)
    block = "input_blocks.1.1.transformer_blocks.0"
    shapes = {
        **layer("time_embed.0", time, width),
        **layer("time_embed.2", time, time),
        **layer("input_blocks.0.0", width, 4, 3, 3),
        **residual_block("input_blocks.1.0", width, width, time),
        **layer("input_blocks.1.1.norm", width),
        **layer("input_blocks.1.1.proj_in", *projection),
        **layer("input_blocks.1.1.proj_out", *projection),
        **layer(f"{block}.ff.net.0.proj", 8 * width, width),
        **layer(f"{block}.ff.net.2", width, 4 * width),
        **residual_block("output_blocks.0.0", 2 * width, width, time),
        **residual_block("output_blocks.1.0", 2 * width, width, time),
        **layer("out.0", width),
        **layer("out.2", 4, width, 3, 3),
    }
    for attention, source in (("attn1", width), ("attn2", context)):
        shapes[f"{block}.{attention}.to_q.weight"] = (width, width)
        shapes[f"{block}.{attention}.to_k.weight"] = (width, source)
        shapes[f"{block}.{attention}.to_v.weight"] = (width, source)
        shapes.update(layer(f"{block}.{attention}.to_out.0", width, width))
    for norm in ("norm1", "norm2", "norm3"):
        shapes.update(layer(f"{block}.{norm}", width))
    return shapes


def residual_block(name: str, inputs: int, outputs: int, time: int) -> Shapes:
    """Return one ResBlock of the UNet."""
    shapes = {
        **layer(f"{name}.in_layers.0", inputs),
        **layer(f"{name}.in_layers.2", outputs, inputs, 3, 3),
        **layer(f"{name}.emb_layers.1", outputs, time),
        **layer(f"{name}.out_layers.0", outputs),
        **layer(f"{name}.out_layers.3", outputs, outputs, 3, 3),
    }
    if inputs != outputs:
        shapes.update(layer(f"{name}.skip_connection", outputs, inputs, 1, 1))
    return shapes


def tiny_vae_shapes(channels: int) -> Shapes:
    """Return TAESD, the tiny autoencoder: the smallest VAE that a checkpoint can carry."""
    encoder, decoder, width = "taesd_encoder", "taesd_decoder", 64
    shapes = {
        **layer(f"{encoder}.0", width, 3, 3, 3),
        **layer(f"{encoder}.14", channels, width, 3, 3),
        **layer(f"{decoder}.1", width, channels, 3, 3),
        **layer(f"{decoder}.19", 3, width, 3, 3),
        "vae_scale": (),
        "vae_shift": (),
    }
    rescaling = [f"{encoder}.{i}" for i in (2, 6, 10)] + [f"{decoder}.{i}" for i in (7, 12, 17)]
    shapes.update({f"{name}.weight": (width, width, 3, 3) for name in rescaling})
    blocks = [f"{encoder}.{i}" for i in (1, 3, 4, 5, 7, 8, 9, 11, 12, 13)]
    blocks += [f"{decoder}.{i}" for i in (3, 4, 5, 8, 9, 10, 13, 14, 15, 18)]
    for name in blocks:
        for conv in (0, 2, 4):
            shapes.update(layer(f"{name}.conv.{conv}", width, width, 3, 3))
    return shapes


def clip_shapes(prefix: str) -> Shapes:
    """Return CLIP-L, SD1.5's text encoder, whose size is fixed: 123 million parameters."""
    width, top = 768, f"{prefix}transformer.text_model"
    shapes = {
        f"{top}.embeddings.token_embedding.weight": (49408, width),
        f"{top}.embeddings.position_embedding.weight": (77, width),
        **layer(f"{top}.final_layer_norm", width),
    }
    for i in range(12):
        block = f"{top}.encoder.layers.{i}"
        for name in ("q_proj", "k_proj", "v_proj", "out_proj"):
            shapes.update(layer(f"{block}.self_attn.{name}", width, width))
        shapes.update(layer(f"{block}.layer_norm1", width))
        shapes.update(layer(f"{block}.layer_norm2", width))
        shapes.update(layer(f"{block}.mlp.fc1", 4 * width, width))
        shapes.update(layer(f"{block}.mlp.fc2", width, 4 * width))
    return shapes


def layer(name: str, *shape: int) -> Shapes:
    """Return the weight and the bias of a layer whose first size is its outputs."""
    return {f"{name}.weight": shape, f"{name}.bias": shape[:1]}


SD3 = TinyModel(sd3_shapes, context=64, pooled=64, channels=16)
"""Flow matching (CONST), sigma up to 1. 0.6 MB."""

WAN = TinyModel(wan_shapes, context=4096, pooled=0, channels=16)
"""Video, 5-D latents; flow matching. 4 MB."""

SD3_TEXT = TinyModel(lambda: sd3_shapes(4096, 2048), context=4096, pooled=2048, channels=16)
"""As SD3, of the width that real text encoders fill. 2 MB."""

SD15 = TinyModel(lambda: unet_shapes(768, False), 768, 0, 4, dtype=torch.float16)
"""Noise prediction (EPS), sigma 0.029 to 14.6. 27 MB."""

SD2_V = TinyModel(
    lambda: unet_shapes(1024, True),
    context=1024,
    pooled=0,
    channels=4,
    dtype=torch.float16,
    # ComfyUI tells SD2's v-prediction from its EPS by the spread of this very bias. The tiny
    # UNet has no such block: it warns of an unexpected key and goes on.
    extra={"output_blocks.11.1.transformer_blocks.0.norm1.bias": torch.linspace(-1, 1, 320)},
)
"""V_PREDICTION, sigmas as SD15. 27 MB."""


def random_weights(shapes: Shapes, dtype: torch.dtype, seed: int) -> dict[str, Tensor]:
    """Return weights that keep activations near unit size: normal, scaled by the fan-in.

    The large ones repeat a million numbers: drawing all of them would take longer than using them.
    """
    generator = torch.Generator().manual_seed(seed)
    weights = {}
    repeated = torch.empty(0)
    for name, shape in shapes.items():
        if name.endswith((".bias", "_shift")):
            weight = torch.zeros(shape)
        elif len(shape) < 2:  # the gain of a norm, or a scale
            weight = torch.ones(shape)
        elif math.prod(shape) > MANY:
            if not len(repeated):
                repeated = torch.randn(MANY - 1, generator=generator)
            copies = -(-math.prod(shape) // len(repeated))
            weight = repeated.repeat(copies)[: math.prod(shape)].reshape(shape)
            weight = weight / math.sqrt(math.prod(shape[1:]))
        else:
            weight = torch.randn(shape, generator=generator) / math.sqrt(math.prod(shape[1:]))
        weights[name] = weight.to(dtype)
    return weights


def write_diffusion_model(models: Path, tiny: TinyModel, name: str, seed: int = 0) -> str:
    """Write `models/diffusion_models/<name>` for UNETLoader; return `name`."""
    weights = random_weights(tiny.shapes(), tiny.dtype, seed) | tiny.extra
    write(weights, models / "diffusion_models" / name)
    return name


def write_checkpoint(
    models: Path, tiny: TinyModel, name: str, seed: int = 0, text_encoder: str = ""
) -> str:
    """Write `models/checkpoints/<name>` for CheckpointLoaderSimple; return `name`.

    It holds the model and a tiny VAE. `text_encoder` is the prefix of a CLIP-L, which takes
    120 MB; without one that output of the loader is None.
    """
    model = random_weights(tiny.shapes(), tiny.dtype, seed) | tiny.extra
    vae = random_weights(tiny_vae_shapes(tiny.channels), torch.float16, seed)
    weights = {f"model.diffusion_model.{key}": value for key, value in model.items()}
    weights |= {f"first_stage_model.{key}": value for key, value in vae.items()}
    if text_encoder:
        weights |= random_weights(clip_shapes(text_encoder), torch.float8_e4m3fn, seed)
    write(weights, models / "checkpoints" / name)
    return name


SD15_TEXT, SD3_CLIP_L = "cond_stage_model.", "text_encoders.clip_l."  # where checkpoints have it


def write(weights: dict[str, Tensor], file: Path) -> None:
    """Save a state dict as safetensors, making its folder."""
    file.parent.mkdir(parents=True, exist_ok=True)
    save_file(weights, file)
