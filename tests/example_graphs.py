"""The example workflows as graphs: nodes, places, texts. ``make_examples.py`` makes the files."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

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
    collapsed: bool = False


@dataclass(frozen=True)
class Note:
    """A text on the canvas."""

    pos: tuple[int, int]
    size: tuple[int, int]
    text: str


@dataclass(frozen=True)
class App:
    """App mode: the inputs, (node, widget), and the nodes whose results are shown."""

    inputs: list[tuple[str, str]]
    outputs: list[str]

    def data(self) -> dict[str, Any]:
        """As the front end keeps it in a workflow's ``extra.linearData``."""
        inputs = [[int(node), widget] for node, widget in self.inputs]
        return {"inputs": inputs, "outputs": [int(node) for node in self.outputs]}


@dataclass(frozen=True)
class Example:
    """A workflow; ``models`` are the files that it names: (folder, name, where to get it)."""

    nodes: dict[str, Node]
    notes: list[Note]
    models: list[tuple[str, str, str]] = field(default_factory=list)
    picture: str = ""
    """The node whose pictures are the thumbnail, "each" for those of all previews, or "graph" for
    the nodes by name, where the model is not at hand and a run would show nothing."""
    runs: bool = True
    """Whether stand-ins for its models let it run as it is."""
    app: App | None = None
    """What newer front ends show of it in app mode, which it opens in."""


def plan(**values: Any) -> Node:
    """Steps, cfg and scheduler, set once for the whole graph."""
    return Node("DODE_Settings", (0, 280), (280, 110), values)


def planned(*names: str) -> dict[str, Any]:
    """Those inputs of a node, from the settings node, which is number 20."""
    return {name: ["20", ("steps", "cfg", "scheduler").index(name)] for name in names}


PLAN = planned("steps", "cfg", "scheduler")


def demo() -> Example:
    """Distill on the demo model, sample, and compare with ComfyUI's own samplers."""
    parts = {"model": ["1", 0], "positive": ["1", 1], "negative": ["1", 2]}
    emoji = {"subject": "food", "variant": "EDM", "batch_size": 3}
    distill = {**parts, "latent": ["1", 3], **PLAN, "solver": "ddim", "samples": 16}
    sample = {**parts, "latent_image": ["1", 3], "table": ["2", 0], **PLAN, "seed": SEED}
    compare = {**sample, "vae": ["1", 4], "peer": "dpmpp_2m", "teacher_steps": 8}
    nodes = {
        "1": Node("DODE_DemoModel", (0, 0), (280, 190), emoji),
        "20": plan(steps=8, cfg=2.0, scheduler="karras"),
        "2": Node("DODE_Distill", (320, 0), (460, 600), distill),
        "3": Node("DODE_KSampler", (820, 0), (280, 560), sample),
        "4": shut("VAEDecode", (820, 640), {"samples": ["3", 0], "vae": ["1", 4]}),
        "5": shut("ImageScaleBy", (820, 685), enlarged(["4", 0])),
        "6": Node("PreviewImage", (820, 745), (280, 255), {"images": ["5", 0]}, "D-ODE, 8 steps"),
        "7": Node("DODE_Compare", (1140, 0), (640, 1000), compare),
    }
    text = """Press **Run**. *D-ODE Distill* learns once, for this model and cfg, how to follow \
the model's own path in few steps, and saves that. The plot shows what to expect of it.

**Then change freely**, nothing is made anew: *steps* and *scheduler* in *D-ODE Settings*, the \
seed, the subject, *denoise*. Only another *cfg* or another model is distilled again.

*KSampler (D-ODE)* samples with it. So does the stock KSampler with the sampler **dode**.

*D-ODE Compare* samples the same noise four ways; the first column is the goal.

With a checkpoint of yours instead of the demo model it is saved beside that."""
    return Example(nodes, [Note((0, 510), (280, 490), text)], picture="7")


def shut(kind: str, pos: tuple[int, int], inputs: dict[str, Any]) -> Node:
    """A node of which only the title shows: nothing is set in it."""
    return Node(kind, pos, (250, 50), inputs, collapsed=True)


def enlarged(image: list[Any]) -> dict[str, Any]:
    """Inputs of ImageScaleBy: pixels that can be seen."""
    return {"image": image, "upscale_method": "nearest-exact", "scale_by": 8.0}


def app() -> Example:
    """The demo model as an app: choose a subject and steps, press Run."""
    parts = {"model": ["1", 0], "positive": ["1", 1], "negative": ["1", 2]}
    emoji = {"subject": "food", "variant": "EDM", "batch_size": 4}
    sample = {**parts, "latent_image": ["1", 3], "seed": SEED, "steps": 6, "cfg": 2.0}
    sample |= {"scheduler": "karras", "no_table": "distil one now"}
    nodes = {
        "1": Node("DODE_DemoModel", (0, 0), (280, 190), emoji),
        "2": Node("DODE_KSampler", (320, 0), (300, 560), sample),
        "3": shut("VAEDecode", (660, 0), {"samples": ["2", 0], "vae": ["1", 4]}),
        "4": shut("ImageScaleBy", (660, 45), enlarged(["3", 0])),
        "5": Node("PreviewImage", (660, 110), (440, 450), {"images": ["4", 0]}, "D-ODE"),
    }
    text = """Opens as an app where the front end has app mode (1.41 and newer): choose, press \
**Run**. The first run at a *cfg* distills once; then change freely: subject, steps, seed."""
    shown = App([("1", "subject"), ("2", "steps"), ("2", "cfg"), ("2", "seed")], ["5"])
    return Example(nodes, [Note((0, 280), (280, 280), text)], picture="5", app=shown)


def image_to_image() -> Example:
    """Distilled once, every denoise and number of steps is served."""
    parts = {"model": ["1", 0], "positive": ["1", 1], "negative": ["1", 2]}
    emoji = {"subject": "animals", "variant": "EDM", "batch_size": 4}
    distill = {**parts, "latent": ["1", 3], **PLAN, "solver": "ddim", "samples": 16}
    first = {**parts, "latent_image": ["1", 3], "table": ["2", 0], "seed": SEED}
    first |= planned("cfg", "scheduler")
    other = {"subject": "food", "variant": "EDM", "batch_size": 1}
    nodes = {
        "1": Node("DODE_DemoModel", (0, 0), (280, 190), emoji, "From this"),
        "20": plan(steps=10, cfg=2.0, scheduler="karras"),
        "3": Node("DODE_DemoModel", (0, 510), (280, 190), other, "To this"),
        "2": Node("DODE_Distill", (320, 0), (400, 620), distill),
        "10": Node("DODE_KSampler", (760, 0), SAMPLER, {**first, "steps": 10}, "The image", True),
        **shown(11, 760, "The image"),
    }
    for column, (denoise, steps) in enumerate(((0.3, 3), (0.5, 5), (0.8, 8)), start=1):
        key, x = str(10 * column + 20), 760 + 290 * column
        again = {**first, "positive": ["3", 1], "latent_image": ["10", 0]}
        again |= {"steps": steps, "denoise": denoise, "seed": SEED + 1}
        title = f"denoise {denoise}, {steps} steps"
        nodes[key] = Node("DODE_KSampler", (x, 0), SAMPLER, again, title, True)
        nodes |= shown(int(key) + 1, x, title)
    text = """*D-ODE Distill* runs **once** for this model and cfg; all four samplers use it, and \
say so. The first makes the image to start from, the others turn it into another subject.

**Change freely**: *steps*, *denoise* and the seed of each sampler, and the *scheduler*. Only \
another *cfg* or model is distilled again.

Instead of the first sampler use *Load Image* and *VAE Encode*, and your own checkpoint."""
    return Example(nodes, [Note((320, 690), (400, 310), text)], picture="each")


SAMPLER = (260, 600)


def shown(first: int, x: int, title: str) -> dict[str, Node]:
    """What a sampler one below ``first`` made, decoded, enlarged and shown."""
    ids = [str(first + i) for i in range(-1, 3)]
    return {
        ids[1]: shut("VAEDecode", (x, 735), {"samples": [ids[0], 0], "vae": ["1", 4]}),
        ids[2]: shut("ImageScaleBy", (x, 780), enlarged([ids[1], 0])),
        ids[3]: Node("PreviewImage", (x, 830), (260, 220), {"images": [ids[2], 0]}, title),
    }


def checkpoint() -> Example:
    """Stable Diffusion 1.5 (or SDXL, or any other): distill once, then the stock KSampler."""
    name = "v1-5-pruned-emaonly-fp16.safetensors"
    url = f"{HUGGING_FACE}/stable-diffusion-v1-5-archive/resolve/main/{name}"
    nodes = loaded(name, "EmptyLatentImage", 512)
    parts = {"model": ["1", 0], "positive": ["2", 0], "negative": ["3", 0]}
    distill = {**parts, "latent": ["4", 0], **PLAN, "solver": "ddim", "samples": 16}
    stock = {"sampler_name": "dode", "seed": SEED, "denoise": 1.0, "latent_image": ["4", 0]}
    nodes |= {
        "20": plan(steps=8, cfg=6.0, scheduler="karras"),
        "6": Node("DODE_Distill", (640, 0), (460, 600), distill),
        "7": shut("DODE_ApplyToModel", (1140, 0), {"model": ["1", 0], "table": ["6", 0]}),
        "8": Node(
            "KSampler", (1140, 70), (280, 530), {**parts, **PLAN, **stock, "model": ["7", 0]}
        ),
        "9": shut("VAEDecode", (1140, 650), {"samples": ["8", 0], "vae": ["1", 2]}),
        "10": Node("PreviewImage", (1460, 0), (440, 600), {"images": ["9", 0]}),
    }
    text = """**Once per checkpoint and cfg:** *D-ODE Distill*, some minutes on a GPU; it says \
beforehand how long. What it learns is saved beside the checkpoint and not made again.

**Every day:** the stock KSampler with the sampler **dode**. It finds it by itself, so **change \
freely**: steps, denoise, scheduler, start and end step, prompt, seed. *D-ODE Apply to Model* is \
only here so that this graph runs in one go.

For SDXL set the latent to 1024 x 1024. Not for Turbo, Lightning or LCM models."""
    note = Note((0, 520), (600, 260), text)
    return Example(nodes, [note], [("checkpoints", name, url)], "graph")


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
    values = {"steps": 8, "cfg": 4.5, "scheduler": "simple", "seed": SEED}
    once = {"no_table": "distil one now", "denoise": 1.0}
    nodes |= {
        "5": Node("DODE_KSampler", (640, 0), (400, 760), {**parts, **values, **once}, "", True),
        "6": shut("VAEDecode", (1080, 0), {"samples": ["5", 0], "vae": ["1", 2]}),
        "7": Node("PreviewImage", (1080, 60), (560, 700), {"images": ["6", 0]}),
    }
    text = """**KSampler (D-ODE)** does it all. With *no_table* set to *distil one now* it \
distills when there is nothing yet for this model and cfg: once, some minutes on a GPU, kept \
beside the checkpoint. **Then change freely**: steps, denoise, scheduler, prompt, seed. The node \
says what it used.

For Flux and others replace the loaders; set cfg as you always do. Not for few-step models \
(schnell, turbo)."""
    note = Note((0, 520), (600, 260), text)
    return Example(nodes, [note], [("checkpoints", name, url)], "graph")


def loaded(name: str, empty: str, size: int) -> dict[str, Node]:
    """A checkpoint with two prompts and an empty latent."""
    wanted = "a red fox in fresh snow, golden hour, photograph"
    return {
        "1": Node("CheckpointLoaderSimple", (0, 0), (280, 98), {"ckpt_name": name}),
        "2": Node("CLIPTextEncode", (320, 0), (280, 110), {"text": wanted, "clip": ["1", 1]}),
        "3": Node(
            "CLIPTextEncode", (320, 170), (280, 90), {"text": "blurry, text", "clip": ["1", 1]}
        ),
        "4": Node(empty, (320, 310), (280, 90), {"width": size, "height": size, "batch_size": 1}),
    }
