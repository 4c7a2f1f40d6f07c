"""The example workflows as graphs: nodes, places, texts. ``make_examples.py`` makes the files."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hosts.checkpoints import SD3_CLIP_L, SD3_TEXT, SD15, SD15_TEXT, write_checkpoint

SEED = 7
HUGGING_FACE = "https://huggingface.co/Comfy-Org"


@dataclass(frozen=True)
class Node:
    """A node of a workflow: its class, inputs, and place on the canvas."""

    kind: str
    pos: tuple[int, int]
    size: tuple[int, int]
    inputs: dict[str, Any]
    title: str = ""
    advanced: bool = False
    """Whether its advanced inputs are in sight."""


@dataclass(frozen=True)
class Note:
    """A text on the canvas."""

    pos: tuple[int, int]
    size: tuple[int, int]
    text: str


@dataclass(frozen=True)
class Example:
    """A workflow; ``models`` are the files that it names: (folder, name, where to get it)."""

    nodes: dict[str, Node]
    notes: list[Note]
    models: list[tuple[str, str, str]] = field(default_factory=list)
    picture: str = ""
    """The node whose picture is the thumbnail; else the graph is."""


def demo() -> Example:
    """Distill on the demo model, sample, and compare with ComfyUI's own samplers."""
    parts = {"model": ["1", 0], "positive": ["1", 1], "negative": ["1", 2]}
    plan = {"steps": 8, "cfg": 2.0, "scheduler": "karras"}
    emoji = {"subject": "food", "variant": "EDM", "batch_size": 4}
    distill = {**parts, "latent": ["1", 3], **plan, "solver": "ddim", "samples": 16}
    sample = {**parts, "latent_image": ["1", 3], "table": ["2", 0], **plan, "seed": SEED}
    compare = {**sample, "vae": ["1", 4], "peer": "dpmpp_2m", "teacher_steps": 8}
    nodes = {
        "1": Node("DODE_DemoModel", (0, 0), (270, 190), emoji),
        "2": Node("DODE_Distill", (310, 0), (560, 620), distill),
        "3": Node("DODE_KSampler", (310, 680), (270, 560), sample),
        "4": Node("VAEDecode", (620, 680), (250, 50), {"samples": ["3", 0], "vae": ["1", 4]}),
        "5": enlarge((620, 780), ["4", 0]),
        "6": Node("PreviewImage", (620, 920), (250, 320), {"images": ["5", 0]}, "D-ODE, 8 steps"),
        "7": Node("DODE_Compare", (910, 0), (760, 1240), compare),
    }
    text = """**D-ODE Distill** learns a few numbers from the model's own fine trajectory, and \
saves them. Press Run.

The plot shows the numbers, and what they are worth on noise that was not learned from.

**KSampler (D-ODE)** samples with the table. Unplug the table: it finds it by itself. So does the \
stock KSampler with the sampler `dode` (same steps, scheduler and cfg).

**D-ODE Compare** samples the same noise four ways. The first column is the goal.

With a checkpoint of yours instead of the demo model, the table is saved beside it."""
    return Example(nodes, [Note((0, 240), (270, 500), text)], picture="7")


def enlarge(pos: tuple[int, int], image: list[Any]) -> Node:
    inputs = {"image": image, "upscale_method": "nearest-exact", "scale_by": 8.0}
    return Node("ImageScaleBy", pos, (250, 82), inputs)


def image_to_image() -> Example:
    """One table serves every denoise: the end of its schedule is a slice of it."""
    parts = {"model": ["1", 0], "positive": ["1", 1], "negative": ["1", 2]}
    plan = {"cfg": 2.0, "scheduler": "karras"}
    emoji = {"subject": "animals", "variant": "EDM", "batch_size": 4}
    distill = {**parts, "latent": ["1", 3], **plan, "solver": "ddim", "samples": 16, "steps": 10}
    distill["method"] = "one lambda"  # learned sigmas serve whole runs only
    first = {**parts, "latent_image": ["1", 3], "table": ["2", 0], **plan, "seed": SEED}
    other = {"subject": "food", "variant": "EDM", "batch_size": 1}
    nodes = {
        "1": Node("DODE_DemoModel", (0, 0), (270, 190), emoji, "From this"),
        "2": Node("DODE_Distill", (310, 0), (560, 620), distill),
        "3": Node("DODE_DemoModel", (0, 250), (270, 190), other, "To this"),
        "10": Node("DODE_KSampler", (910, 0), SAMPLER, {**first, "steps": 10}, "The image", True),
        **shown(11, 910, "The image"),
    }
    for column, (denoise, steps) in enumerate(((0.3, 3), (0.5, 5), (0.8, 8)), start=1):
        key, x = 10 * (column + 1), 910 + 320 * column
        again = {**first, "positive": ["3", 1], "latent_image": ["10", 0]}
        again |= {"steps": steps, "denoise": denoise, "seed": SEED + 1}
        title = f"denoise {denoise}, {steps} steps"
        nodes[str(key)] = Node("DODE_KSampler", (x, 0), SAMPLER, again, title, True)
        nodes |= shown(key + 1, x, title)
    text = """Image to image runs the end of a longer schedule: denoise 0.5 in 5 steps are the \
last 5 of 10. So **one table, distilled for 10 steps** with the method *one lambda*, serves all of \
these, and the samplers say *slice table*.

The first sampler makes the image to start from. The others turn it into another subject, ever \
more of it made anew.

Instead of the first sampler use *Load Image* and *VAE Encode*, and your own checkpoint."""
    return Example(nodes, [Note((0, 500), (270, 400), text)], picture="each")


SAMPLER = (290, 700)


def shown(first: int, x: int, title: str) -> dict[str, Node]:
    """What a sampler one below ``first`` made, decoded, enlarged and shown."""
    ids = [str(first + i) for i in range(-1, 3)]
    return {
        ids[1]: Node("VAEDecode", (x, 760), (290, 50), {"samples": [ids[0], 0], "vae": ["1", 4]}),
        ids[2]: enlarge((x, 860), [ids[1], 0]),
        ids[3]: Node("PreviewImage", (x, 1000), (290, 320), {"images": [ids[2], 0]}, title),
    }


def checkpoint() -> Example:
    """Stable Diffusion 1.5 (or SDXL, or any other): distill once, then the stock KSampler."""
    name = "v1-5-pruned-emaonly-fp16.safetensors"
    url = f"{HUGGING_FACE}/stable-diffusion-v1-5-archive/resolve/main/{name}"
    nodes = loaded(name, "EmptyLatentImage", 512)
    parts = {"model": ["1", 0], "positive": ["2", 0], "negative": ["3", 0]}
    plan = {"steps": 8, "cfg": 6.0, "scheduler": "karras"}
    distill = {**parts, "latent": ["4", 0], **plan, "solver": "ddim", "samples": 16}
    stock = {"sampler_name": "dode", "seed": SEED, "denoise": 1.0, "latent_image": ["4", 0]}
    nodes |= {
        "6": Node("DODE_Distill", (880, 0), (560, 620), distill),
        "7": Node(
            "DODE_ApplyToModel", (1480, 0), (290, 60), {"model": ["1", 0], "table": ["6", 0]}
        ),
        "8": Node(
            "KSampler", (1480, 120), (290, 540), {**parts, **plan, **stock, "model": ["7", 0]}
        ),
        "9": Node("VAEDecode", (1480, 720), (290, 50), {"samples": ["8", 0], "vae": ["1", 2]}),
        "10": Node("PreviewImage", (1810, 0), (520, 620), {"images": ["9", 0]}),
    }
    text = """**Once per checkpoint, steps, scheduler and cfg:** D-ODE Distill, some minutes on a \
GPU. The table is saved beside the checkpoint as `<checkpoint>.dode.json`, and with the same \
settings it is not made again.

**Every day:** the stock KSampler with the sampler `dode`. It finds the table by itself; *D-ODE \
Apply to Model* is only here so that this graph runs in one go.

Any checkpoint will do: for SDXL set the latent to 1024 x 1024. Not for Turbo, Lightning or LCM \
models."""
    return Example(nodes, [Note((0, 180), (400, 330), text)], [("checkpoints", name, url)])


def flow_model() -> Example:
    """Stable Diffusion 3.5 (or Flux, or another flow model): one node finds or makes the table."""
    name = "sd3.5_medium_incl_clips_t5xxlfp8scaled.safetensors"
    url = f"{HUGGING_FACE}/stable-diffusion-3.5-fp8/resolve/main/{name}"
    nodes = loaded(name, "EmptySD3LatentImage", 1024)
    parts = {
        "model": ["1", 0],
        "positive": ["2", 0],
        "negative": ["3", 0],
        "latent_image": ["4", 0],
    }
    plan = {"steps": 8, "cfg": 4.5, "scheduler": "simple", "seed": SEED}
    once = {"no_table": "distil one now", "denoise": 1.0}
    nodes |= {
        "5": Node("DODE_KSampler", (880, 0), (400, 700), {**parts, **plan, **once}, "", True),
        "6": Node("VAEDecode", (880, 760), (400, 50), {"samples": ["5", 0], "vae": ["1", 2]}),
        "7": Node("PreviewImage", (1320, 0), (520, 560), {"images": ["6", 0]}),
    }
    text = """**KSampler (D-ODE)** does it all: it looks for the best table for this model, these \
noise levels and this cfg. With *no_table* set to *distil one now* it makes one when there is \
none, once, and keeps it beside the checkpoint.

The node says which table it used. For Flux and others replace the loaders; set cfg as you \
always do. Not for few-step models (schnell, turbo)."""
    return Example(nodes, [Note((0, 180), (400, 330), text)], [("checkpoints", name, url)])


def loaded(name: str, empty: str, size: int) -> dict[str, Node]:
    """A checkpoint with two prompts and an empty latent."""
    wanted = "a red fox in fresh snow, golden hour, photograph"
    return {
        "1": Node("CheckpointLoaderSimple", (0, 0), (400, 98), {"ckpt_name": name}),
        "2": Node("CLIPTextEncode", (440, 0), (400, 140), {"text": wanted, "clip": ["1", 1]}),
        "3": Node(
            "CLIPTextEncode", (440, 200), (400, 100), {"text": "blurry, text", "clip": ["1", 1]}
        ),
        "4": Node(empty, (440, 360), (400, 110), {"width": size, "height": size, "batch_size": 1}),
    }


EXAMPLES = {
    "dode_demo": demo,
    "dode_checkpoint": checkpoint,
    "dode_flow_model": flow_model,
    "dode_image_to_image": image_to_image,
}


def write_models(models: Path) -> None:
    """Tiny stand-ins, with random weights, for the checkpoints that the examples name."""
    stand_ins = {"dode_checkpoint": (SD15, SD15_TEXT), "dode_flow_model": (SD3_TEXT, SD3_CLIP_L)}
    for example, (tiny, text) in stand_ins.items():
        for folder, name, _ in EXAMPLES[example]().models:
            if not (models / folder / name).exists():
                write_checkpoint(models, tiny, name, text_encoder=text)
