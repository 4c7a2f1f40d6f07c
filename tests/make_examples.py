"""Rebuilds ``example_workflows`` and the README's screenshots with the real front end.

    python tests/make_examples.py [--files] [NAME ...]

The graphs are those of ``example_graphs.py``, laid out and saved by the front end, run for the
pictures. Needs what the host tests need: ComfyUI (downloaded on first use) and a Chromium.
"""

from __future__ import annotations

import io
import json
import shutil
import sys
import tempfile
from pathlib import Path
from typing import Any

TESTS = Path(__file__).resolve().parent
sys.path[:0] = [str(TESTS), str(TESTS.parent)]

import thumbnails  # noqa: E402
from example_graphs import Example, Node  # noqa: E402
from examples import EXAMPLES, write_models  # noqa: E402
from hosts.browser import FrontEnd  # noqa: E402
from hosts.comfy import ComfyServer  # noqa: E402
from hosts.install import newest_front_end  # noqa: E402
from PIL import Image  # noqa: E402

FOLDER = TESTS.parent / "example_workflows"
IMAGES = TESTS.parent / "docs" / "images"
SHOWN = {
    "Try D-ODE without a checkpoint": "comfyui.png",
    "Image to image, distilled once": "comfyui-image-to-image.png",
}
LAY_OUT = """([id, node]) => {
    const n = window.app.graph.getNodeById(id);
    if (node.advanced) n.toggleAdvanced();
    n.pos = node.pos;
    n.setSize(node.size);
    if (node.collapsed) n.flags.collapsed = true;
    if (node.title) n.title = node.title;
    if (node.models.length) n.properties.models = node.models;
    for (const [name, value] of Object.entries(node.widgets))
        n.widgets.find(w => w.name === name).value = value;
}"""
NOTE = """note => {
    const n = LiteGraph.createNode('MarkdownNote');
    n.pos = note.pos;
    window.app.graph.add(n);
    n.setSize(note.size);
    n.widgets[0].value = note.text;
}"""


def build(front: FrontEnd, example: Example) -> dict[str, Any]:
    """The workflow as the front end saves it, the graph left loaded."""
    nodes = example.nodes
    prompt = {key: {"class_type": node.kind, "inputs": node.inputs} for key, node in nodes.items()}
    front.load_prompt(prompt)
    for key, node in nodes.items():
        front.page.evaluate(LAY_OUT, [int(key), place(node, example)])
    for note in example.notes:
        front.page.evaluate(NOTE, {"pos": note.pos, "size": note.size, "text": note.text})
    front.fit()
    workflow = front.workflow()
    if example.app is not None:
        workflow["extra"] |= {"linearMode": True, "linearData": example.app.data()}
    return workflow


def place(node: Node, example: Example) -> dict[str, Any]:
    """What the layout script sets on a node."""
    # The front end draws new seeds when it loads a prompt.
    seeds = {name: node.inputs[name] for name in ("seed", "noise_seed") if name in node.inputs}
    again = node.kind in ("KSampler", "KSamplerAdvanced", "DODE_KSampler")
    widgets = {**seeds, **({"control_after_generate": "fixed"} if again else {})}
    models = [
        {"name": name, "url": url, "directory": folder}
        for folder, name, url in example.models
        if name in node.inputs.values()
    ]
    shape = {"pos": node.pos, "size": node.size, "title": node.title, "advanced": node.advanced}
    shape["collapsed"] = node.collapsed
    return {**shape, "widgets": widgets, "models": models}


def thumbnail(server: ComfyServer, front: FrontEnd, example: Example) -> Image.Image:
    """What a node or every preview shows after a run, or the graph."""
    if example.picture == "graph":
        return thumbnails.graph(front.page.evaluate(thumbnails.GRAPH))
    outputs = front.page.evaluate("() => window.app.nodeOutputs")

    def shown(key: str) -> list[Image.Image]:
        return [server.image(each).convert("RGB") for each in outputs[key]["images"]]

    if example.picture == "each":
        previews = {k: node for k, node in example.nodes.items() if node.kind == "PreviewImage"}
        columns = {node.title: shown(key) for key, node in previews.items()}
        return thumbnails.card(thumbnails.captioned(columns))
    images = shown(example.picture)
    return thumbnails.card(thumbnails.sheet(images, 1 if len(images) == 1 else 2))


def write(front: FrontEnd, name: str) -> None:
    """One example's JSON."""
    workflow = build(front, EXAMPLES[name]())
    text = json.dumps(workflow, indent=1, ensure_ascii=False) + "\n"
    (FOLDER / f"{name}.json").write_text(text, encoding="utf-8")


def picture(server: ComfyServer, front: FrontEnd, name: str) -> None:
    """One example's thumbnail, and a screenshot of it after a run."""
    example = EXAMPLES[name]()
    workflow = json.loads((FOLDER / f"{name}.json").read_text(encoding="utf-8"))
    workflow["extra"].pop("linearMode", None)  # its graph is seen
    front.load(workflow)
    if example.picture != "graph":
        front.queue()
        front.wait(timeout=1800)
    image = thumbnail(server, front, example)
    shot = front.screenshot(TESTS.parent / "test_output" / f"made_{name}.png", graph_only=True)
    if name in SHOWN:
        shutil.copyfile(shot, IMAGES / SHOWN[name])
    buffer = io.BytesIO()
    image.save(buffer, format="JPEG", quality=88)
    (FOLDER / f"{name}.jpg").write_bytes(buffer.getvalue())


def main() -> None:
    only_files = "--files" in sys.argv  # not the pictures, which need runs
    names = [name for name in sys.argv[1:] if name != "--files"] or list(EXAMPLES)
    FOLDER.mkdir(exist_ok=True)
    # Saved by the oldest front end that we serve, which the newer ones read; seen in the newest.
    with tempfile.TemporaryDirectory() as base:
        write_models(Path(base) / "models")
        with ComfyServer(Path(base)) as server, FrontEnd(server.url) as front:
            for name in names:
                write(front, name)
    if only_files:
        return
    with tempfile.TemporaryDirectory() as base:
        write_models(Path(base) / "models")
        newest = ["--front-end-root", str(newest_front_end())]
        arguments = ["--preview-method", "latent2rgb", *newest]
        with ComfyServer(Path(base), arguments=arguments) as server:
            for name in names:
                print(name, flush=True)
                # A browser each: the previews of the last one would lie over this one's nodes.
                with FrontEnd(server.url, settings={"Comfy.VueNodes.Enabled": True}) as front:
                    picture(server, front, name)


if __name__ == "__main__":
    main()
