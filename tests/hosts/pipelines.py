"""Tiny diffusers pipelines with random weights, made here: every architecture, no download."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch


def tokenizer(folder: Path) -> Any:
    """A CLIP tokenizer of single letters."""
    from transformers import CLIPTokenizer

    letters = [chr(c) for c in range(ord("!"), ord("~") + 1)]
    words = letters + [f"{c}</w>" for c in letters] + ["<|startoftext|>", "<|endoftext|>"]
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "vocab.json").write_text(json.dumps({word: i for i, word in enumerate(words)}))
    (folder / "merges.txt").write_text("#version: 0.2\n")
    return CLIPTokenizer(
        str(folder / "vocab.json"), str(folder / "merges.txt"), model_max_length=16
    )


def clip(projection: int | None = None) -> Any:
    """A CLIP text encoder, with a projection for the newer pipelines."""
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

    config = CLIPTextConfig(
        vocab_size=200,
        hidden_size=32,
        intermediate_size=37,
        num_hidden_layers=3,
        num_attention_heads=4,
        max_position_embeddings=16,
        projection_dim=projection or 32,
        bos_token_id=188,
        eos_token_id=189,
        pad_token_id=189,
    )
    return CLIPTextModelWithProjection(config) if projection else CLIPTextModel(config)


def t5(folder: Path) -> tuple[Any, Any]:
    """A T5 encoder and its tokenizer."""
    from tokenizers import Tokenizer
    from tokenizers.models import Unigram
    from transformers import PreTrainedTokenizerFast, T5Config, T5EncoderModel

    words = ["<pad>", "</s>", "<unk>", *(chr(c) for c in range(32, 127))]
    model = Tokenizer(Unigram([(word, -float(i)) for i, word in enumerate(words)], unk_id=2))
    special = {"pad_token": "<pad>", "eos_token": "</s>", "unk_token": "<unk>"}
    fast = PreTrainedTokenizerFast(tokenizer_object=model, model_max_length=16, **special)
    config = T5Config(vocab_size=200, d_model=32, d_kv=8, d_ff=37, num_layers=2, num_heads=4)
    return T5EncoderModel(config), fast


def vae(channels: int) -> Any:
    from diffusers import AutoencoderKL

    return AutoencoderKL(
        block_out_channels=[8, 8, 8, 8],
        down_block_types=["DownEncoderBlock2D"] * 4,
        up_block_types=["UpDecoderBlock2D"] * 4,
        latent_channels=channels,
        norm_num_groups=4,
        shift_factor=0.1,
    )


def unet(**more: Any) -> Any:
    from diffusers import UNet2DConditionModel

    return UNet2DConditionModel(
        sample_size=8,
        block_out_channels=(16, 32),
        layers_per_block=1,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        norm_num_groups=8,
        **{"cross_attention_dim": 32, "attention_head_dim": 8, **more},
    )


SCHEDULE = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}


def sd(folder: Path, prediction: str = "epsilon") -> Any:
    from diffusers import EulerDiscreteScheduler, StableDiffusionPipeline

    return StableDiffusionPipeline(
        vae=vae(4),
        text_encoder=clip(),
        tokenizer=tokenizer(folder / "words"),
        unet=unet(),
        scheduler=EulerDiscreteScheduler(**SCHEDULE, prediction_type=prediction),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )


def sdxl(folder: Path) -> Any:
    from diffusers import EulerDiscreteScheduler, StableDiffusionXLPipeline

    return StableDiffusionXLPipeline(
        vae=vae(4),
        text_encoder=clip(),
        text_encoder_2=clip(32),
        tokenizer=tokenizer(folder / "words"),
        tokenizer_2=tokenizer(folder / "words"),
        unet=unet(
            cross_attention_dim=64,
            addition_embed_type="text_time",
            addition_time_embed_dim=8,
            projection_class_embeddings_input_dim=80,
        ),
        scheduler=EulerDiscreteScheduler(**SCHEDULE),
    )


def sd3(folder: Path) -> Any:
    from diffusers import FlowMatchEulerDiscreteScheduler, SD3Transformer2DModel
    from diffusers import StableDiffusion3Pipeline as Pipeline

    return Pipeline(
        transformer=SD3Transformer2DModel(
            sample_size=8,
            in_channels=16,
            num_layers=2,
            attention_head_dim=8,
            num_attention_heads=4,
            joint_attention_dim=64,
            caption_projection_dim=32,
            pooled_projection_dim=64,
            out_channels=16,
        ),
        scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0),
        vae=vae(16),
        text_encoder=clip(32),
        tokenizer=tokenizer(folder / "words"),
        text_encoder_2=clip(32),
        tokenizer_2=tokenizer(folder / "words"),
        text_encoder_3=None,
        tokenizer_3=None,
    )


def flux(folder: Path) -> Any:
    from diffusers import FlowMatchEulerDiscreteScheduler, FluxPipeline, FluxTransformer2DModel

    encoder, words = t5(folder)
    return FluxPipeline(
        transformer=FluxTransformer2DModel(
            in_channels=16,
            num_layers=1,
            num_single_layers=1,
            attention_head_dim=16,
            num_attention_heads=2,
            joint_attention_dim=32,
            pooled_projection_dim=32,
            axes_dims_rope=(4, 4, 8),
            guidance_embeds=True,
        ),
        scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0),
        vae=vae(4),
        text_encoder=clip(),
        tokenizer=tokenizer(folder / "words"),
        text_encoder_2=encoder,
        tokenizer_2=words,
    )


KINDS = {"sd": sd, "sdxl": sdxl, "sd3": sd3, "flux": flux}


def write_pipeline(folder: Path, kind: str, seed: int = 0, **options: Any) -> Path:
    """A diffusers folder with safetensors weights."""
    torch.manual_seed(seed)
    pipe = KINDS[kind](folder.parent, **options)
    for part in ("unet", "transformer"):
        network = getattr(pipe, part, None)
        for name, weight in network.named_parameters() if network is not None else ():
            if "norm" not in name and weight.ndim > 1:  # some start at 0, which would predict 0
                torch.nn.init.normal_(weight, std=0.7 / weight[0].numel() ** 0.5)
    pipe.save_pretrained(str(folder), safe_serialization=True)
    return folder
