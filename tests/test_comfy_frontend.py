"""The real front end in a browser; its screenshots stay in test_output/."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from comfy_graphs import only_table
from conftest import missing
from hosts.browser import BrowserMissing, FrontEnd, find_chrome
from hosts.comfy import ComfyServer
from PIL import Image
from playwright.sync_api import TimeoutError

ROOT = Path(__file__).resolve().parent.parent
PICTURES = ROOT / "test_output"
EXAMPLES = sorted((ROOT / "example_workflows").glob("*.json"))

NODE = """type => {
    const node = window.app.graph.nodes.find(node => node.type === type);
    const seen = node.widgets.filter(widget => node.isWidgetVisible(widget));
    return {
        size: node.size,
        seen: seen.map(widget => widget.name),
        text: node.widgets.find(widget => widget.name === '$$node-text-preview')?.value,
        images: (node.imgs ?? []).map(image => image.naturalWidth),
    };
}"""
ADD = """types => {
    window.app.graph.clear();
    types.forEach((type, i) => {
        const node = LiteGraph.createNode(type);
        node.pos = [i * 450, 0];
        window.app.graph.add(node);
    });
}"""


@pytest.fixture(scope="module")
def front(comfy_server: ComfyServer) -> Iterator[FrontEnd]:
    try:
        find_chrome()
    except BrowserMissing as error:
        missing("A browser", error)
    with FrontEnd(comfy_server.url) as opened:
        yield opened


def describe(front: FrontEnd, kind: str) -> dict[str, Any]:
    return front.page.evaluate(NODE, kind)


def test_nodes_are_found_by_search(front: FrontEnd) -> None:
    """Double click on the canvas, type, and there they are."""
    front.page.evaluate("() => window.app.graph.clear()")
    box = front.page.locator(".comfy-vue-node-search-container input").last
    for _ in range(5):  # a canvas that is still busy swallows the double click
        front.page.mouse.dblclick(700, 450)
        try:
            box.wait_for(state="visible", timeout=15_000)
            break
        except TimeoutError:
            continue
    box.fill("D-ODE")
    front.page.get_by_text("D-ODE Demo Model").first.wait_for(timeout=60_000)
    front.page.screenshot(path=PICTURES / "search.png")
    found = front.page.locator(".comfy-vue-node-search-container, [role=listbox]").all_inner_texts()
    names = ("Distill", "Sampler", "Load Table", "Apply to Model", "Demo Model")
    assert all(f"D-ODE {name}" in " ".join(found) for name in names)
    front.page.keyboard.press("Escape")
    front.page.keyboard.press("Escape")


def test_advanced_inputs_are_hidden_until_asked_for(front: FrontEnd) -> None:
    kinds = ["DODE_DemoModel", "DODE_Distill", "DODE_Sampler", "DODE_LoadTable"]
    front.page.evaluate(ADD, kinds)
    for kind in kinds:
        assert len(describe(front, kind)["seen"]) <= 3
    before = describe(front, "DODE_Distill")
    assert before["seen"] == ["solver", "steps", "cfg"] and before["size"][1] < 250
    front.page.evaluate(
        "() => window.app.graph.nodes.find(n => n.type === 'DODE_Distill').toggleAdvanced()"
    )
    after = describe(front, "DODE_Distill")
    assert len(after["seen"]) == 13 and after["size"][1] > before["size"][1] + 150


@pytest.mark.parametrize("file", EXAMPLES, ids=lambda file: file.stem)
def test_example_runs_as_shipped(front: FrontEnd, comfy: ComfyServer, file: Path) -> None:
    """No missing node, no change on loading, and results where a user looks for them."""
    workflow = json.loads(file.read_text(encoding="utf-8"))
    front.load(workflow)
    assert front.page.locator("text=Missing Node Types").count() == 0
    saved = {node["id"]: node for node in workflow["nodes"]}
    loaded = {node["id"]: node for node in front.workflow()["nodes"]}
    assert loaded.keys() == saved.keys()
    for key, node in saved.items():
        values = [(each.get("widgets_values") or []) for each in (loaded[key], node)]
        assert values[0] == values[1], node["type"]

    front.queue()
    front.wait()
    front.screenshot(PICTURES / f"{file.stem}.png")
    shown = describe(front, "DODE_Distill")
    assert only_table(comfy).describe() in shown["text"]
    assert shown["images"] == [Image.open(plot_file(front, comfy)).width]
    assert shown["size"][1] >= 600  # tall enough for text and plot
    assert len(front.page.evaluate("() => Object.keys(window.app.nodeOutputs)")) >= 4
    assert front.errors == []


def plot_file(front: FrontEnd, comfy: ComfyServer) -> Path:
    """The picture that the Distill node shows."""
    ids = "() => window.app.graph.nodes.find(n => n.type === 'DODE_Distill').id"
    outputs = front.page.evaluate("() => window.app.nodeOutputs")
    return comfy.path(outputs[str(front.page.evaluate(ids))]["images"][0])


def test_examples_have_thumbnails() -> None:
    assert EXAMPLES
    for file in EXAMPLES:
        assert Image.open(file.with_suffix(".jpg")).width >= 400
