"""Rebuilds ``example_workflows``: laid out and saved by the real front end, run for the thumbnail.

    python tests/make_examples.py

Needs what the host tests need: ComfyUI (downloaded on first use) and a Chromium.
"""

from __future__ import annotations

import io
import json
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

TESTS = Path(__file__).resolve().parent
sys.path[:0] = [str(TESTS), str(TESTS.parent)]

import numpy as np  # noqa: E402
import torch  # noqa: E402
from hosts.browser import FrontEnd  # noqa: E402
from hosts.comfy import ComfyServer  # noqa: E402

from dode_core.report import picture_grid  # noqa: E402

EXAMPLES = TESTS.parent / "example_workflows"
SEED, STEPS, CFG = 7, 8, 2.0
LAY_OUT = """([id, node]) => {
    const n = window.app.graph.getNodeById(id);
    n.pos = node.pos;
    n.setSize(node.size);
    if (node.title) n.title = node.title;
    for (const [name, value] of Object.entries(node.widgets))
        n.widgets.find(w => w.name === name).value = value;
}"""


@dataclass(frozen=True)
class Node:
    """A node of a workflow: its class, inputs, and place on the canvas."""

    kind: str
    pos: tuple[int, int]
    size: tuple[int, int]
    inputs: dict[str, Any]
    title: str = ""


def row(first: int, y: int, title: str, sampler: Node) -> dict[str, Node]:
    """A sampler at the left of a row, its images decoded, enlarged and shown."""
    ids = [str(first + i) for i in range(4)]
    decode = {"samples": [ids[0], 0], "vae": ["1", 4]}
    enlarge = {"image": [ids[1], 0], "upscale_method": "nearest-exact", "scale_by": 8.0}
    return {
        ids[0]: sampler,
        ids[1]: Node("VAEDecode", (1250, y), (210, 50), decode),
        ids[2]: Node("ImageScaleBy", (1250, y + 100), (210, 82), enlarge),
        ids[3]: Node("PreviewImage", (1500, y), (250, 290), {"images": [ids[2], 0]}, title),
    }


def demo() -> dict[str, Node]:
    """Distil on the demo model; the same noise with D-ODE, with Euler, and with many steps."""
    parts = {"model": ["1", 0], "positive": ["1", 1], "negative": ["1", 2]}
    custom = {**parts, "latent_image": ["1", 3], "add_noise": True, "noise_seed": SEED, "cfg": CFG}
    stock = {**parts, "latent_image": ["1", 3], "seed": SEED, "cfg": CFG, "denoise": 1.0}
    settings = {"solver": "ddim", "steps": STEPS, "cfg": CFG, "scheduler": "karras", "samples": 16}
    emoji = {"subject": "food", "variant": "EDM", "batch_size": 4}
    mine = {**custom, "sampler": ["3", 0], "sigmas": ["2", 1]}
    euler = {**custom, "sampler": ["4", 0], "sigmas": ["2", 1]}
    heun = {**stock, "steps": 40, "sampler_name": "heun", "scheduler": "karras"}
    size = (270, 260)
    return {
        "1": Node("DODE_DemoModel", (0, 0), (270, 190), emoji),
        "2": Node("DODE_Distill", (310, 0), (580, 610), {**parts, "latent": ["1", 3], **settings}),
        "3": Node("DODE_Sampler", (310, 680), (270, 80), {"table": ["2", 0], "solver": "auto"}),
        "4": Node("KSamplerSelect", (620, 680), (270, 58), {"sampler_name": "euler"}),
        **row(10, 0, f"D-ODE, {STEPS} steps", Node("SamplerCustom", (940, 0), size, mine)),
        **row(20, 330, f"Euler, {STEPS} steps", Node("SamplerCustom", (940, 330), size, euler)),
        **row(30, 660, "Heun, 40 steps: the goal", Node("KSampler", (940, 660), size, heun)),
    }


NOTE = """**D-ODE Distill** learns a few numbers from the model's own fine trajectory, and saves
them.

Press Run. The plot shows the numbers and what they are worth on noise that was not learned from.
At the right: D-ODE, Euler with as many steps on the same noise, and the goal of both.

Then try `dode` as the sampler of a stock KSampler (same steps, scheduler and cfg): it finds the
table by itself. Replace the demo model with your checkpoint, and the table is saved beside it.
"""


def build(front: FrontEnd, nodes: dict[str, Node]) -> dict[str, Any]:
    """The workflow as the front end saves it, the graph left loaded."""
    prompt = {key: {"class_type": node.kind, "inputs": node.inputs} for key, node in nodes.items()}
    front.load_prompt(prompt)
    for key, node in nodes.items():
        # The front end draws new seeds when it loads a prompt.
        seeds = {name: node.inputs[name] for name in ("seed", "noise_seed") if name in node.inputs}
        widgets = {**seeds, "control_after_generate": "fixed"} if seeds else {}
        place = {"pos": node.pos, "size": node.size, "title": node.title, "widgets": widgets}
        front.page.evaluate(LAY_OUT, [int(key), place])
    front.page.evaluate(
        """text => {
            const note = LiteGraph.createNode('MarkdownNote');
            note.pos = [0, 250];
            window.app.graph.add(note);
            note.setSize([270, 360]);
            note.widgets[0].value = text;
        }""",
        NOTE,
    )
    front.fit()
    return front.workflow()


def thumbnail(server: ComfyServer, images: dict[str, list[dict[str, str]]]) -> bytes:
    """A labelled grid of what the previews showed, as JPEG."""
    rows = {}
    for title, refs in images.items():
        arrays = [np.asarray(server.image(ref).convert("RGB")) for ref in refs]
        pictures = torch.from_numpy(np.stack(arrays)).permute(0, 3, 1, 2)[:, :, ::8, ::8]
        rows[title] = pictures.float() / 127.5 - 1
    buffer = io.BytesIO()
    picture_grid(rows, scale=4).save(buffer, format="JPEG", quality=90)
    return buffer.getvalue()


def main() -> None:
    EXAMPLES.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as base, ComfyServer(Path(base)) as server:
        nodes = demo()
        with FrontEnd(server.url) as front:
            workflow = build(front, nodes)
            front.queue()
            front.wait()
            front.screenshot(TESTS.parent / "test_output" / "dode_demo_made.png")
            outputs = front.page.evaluate("() => window.app.nodeOutputs")
        shown = {n.title: outputs[key]["images"] for key, n in nodes.items() if n.title}
        text = json.dumps(workflow, indent=1, ensure_ascii=False) + "\n"
        (EXAMPLES / "dode_demo.json").write_text(text, encoding="utf-8")
        (EXAMPLES / "dode_demo.jpg").write_bytes(thumbnail(server, shown))


if __name__ == "__main__":
    main()
