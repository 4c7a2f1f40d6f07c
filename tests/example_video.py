"""The example workflow of a model of two experts, Wan 2.2: each has a profile of its own."""

from __future__ import annotations

from typing import Any

from example_graphs import HUGGING_FACE, PLAN, SEED, Example, Node, Note, shut

REPOSITORY = f"{HUGGING_FACE}/Wan_2.2_ComfyUI_Repackaged/resolve/main/split_files"
HIGH = "wan2.2_t2v_high_noise_14B_fp8_scaled.safetensors"
LOW = "wan2.2_t2v_low_noise_14B_fp8_scaled.safetensors"
TEXT = "umt5_xxl_fp8_e4m3fn_scaled.safetensors"
VAE = "wan_2.1_vae.safetensors"
SWITCH = 4  # of 8 steps
NOTE = """**Once:** two *D-ODE Distill*, one for each expert; each says beforehand how long it \
takes, long for 14B models: they work on a small, short video. What they learn is saved beside \
each expert and not made again.

**Then change freely**: steps, scheduler, prompt, seed, size and length. *end_at_step* of the \
first sampler and *start_at_step* of the second are where the experts change: keep them equal. \
Another *cfg* or shift is distilled again.

How much is gained on Wan 2.2 was not measured: compare with *euler* in both samplers."""


def two_experts() -> Example:
    """High noise first, low noise after it, the sampler ``dode`` in both."""
    folder = "diffusion_models"
    models = [(folder, name, f"{REPOSITORY}/{folder}/{name}") for name in (HIGH, LOW)]
    models.append(("text_encoders", TEXT, f"{REPOSITORY}/text_encoders/{TEXT}"))
    models.append(("vae", VAE, f"{REPOSITORY}/vae/{VAE}"))
    film = {"width": 640, "height": 640, "length": 33, "batch_size": 1}
    wanted = "a red fox runs through fresh snow, golden hour"
    clip = {"clip_name": TEXT, "type": "wan", "device": "default"}
    nodes = {
        "1": loader(HIGH, 0, "High noise"),
        "2": loader(LOW, 130, "Low noise"),
        "3": Node("CLIPLoader", (0, 260), (300, 106), clip),
        "4": Node("VAELoader", (0, 415), (300, 58), {"vae_name": VAE}),
        "5": Node("CLIPTextEncode", (0, 520), (300, 100), {"text": wanted, "clip": ["3", 0]}),
        "6": Node("CLIPTextEncode", (0, 670), (300, 80), {"text": "blurry", "clip": ["3", 0]}),
        "7": Node("EmptyHunyuanLatentVideo", (0, 815), (300, 130), film),
        "20": Node(
            "DODE_Settings",
            (340, 760),
            (260, 138),
            {"steps": 8, "cfg": 3.5, "scheduler": "simple"},
        ),
        "21": Node(
            "EmptyHunyuanLatentVideo",
            (640, 760),
            (260, 130),
            {"width": 320, "height": 320, "length": 9, "batch_size": 1},
            "To distill on",
        ),
        **expert("1", 8, 340, {"start_at_step": 0, "end_at_step": SWITCH}, ["7", 0]),
        **expert("2", 12, 830, {"start_at_step": SWITCH, "end_at_step": 10000}, ["11", 0]),
        "16": shut("VAEDecode", (1300, 560), {"samples": ["15", 0], "vae": ["4", 0]}),
        "17": shut("CreateVideo", (1620, 560), {"images": ["16", 0], "fps": 16.0}),
        "18": Node(
            "SaveVideo",
            (1300, 620),
            (600, 330),
            {
                "video": ["17", 0],
                "filename_prefix": "video/D-ODE",
                "format": "auto",
                "codec": "auto",
            },
        ),
    }
    return Example(nodes, [Note((930, 760), (300, 190), NOTE)], models, "graph", runs=False)


def loader(name: str, y: int, title: str) -> Node:
    inputs = {"unet_name": name, "weight_dtype": "default"}
    return Node("UNETLoader", (0, y), (300, 82), inputs, title)


def expert(model: str, first: int, x: int, part: dict[str, int], latent: list[Any]) -> Any:
    """Shift, profile, and the steps of one expert: four nodes from number ``first``."""
    shift, distill, apply, sample = (str(first + i) for i in range(4))
    high = part["start_at_step"] == 0
    both = {"positive": ["5", 0], "negative": ["6", 0]}
    learn = {**both, **PLAN, "model": [shift, 0], "latent": ["21", 0], "solver": "ddim"}
    run = {**both, **PLAN, **part, "model": [apply, 0], "latent_image": latent}
    run |= {"sampler_name": "dode", "noise_seed": SEED}
    run["add_noise"] = "enable" if high else "disable"
    run["return_with_leftover_noise"] = "enable" if high else "disable"
    place = 1300 if high else 1620
    return {
        shift: shut("ModelSamplingSD3", (x, 0), {"model": [model, 0], "shift": 8.0}),
        distill: Node("DODE_Distill", (x, 45), (400, 660), {**learn, "samples": 8}),
        apply: shut(
            "DODE_ApplyToModel", (x + 235, 0), {"model": [shift, 0], "table": [distill, 0]}
        ),
        sample: Node("KSamplerAdvanced", (place, 0), (280, 340), run),
    }
