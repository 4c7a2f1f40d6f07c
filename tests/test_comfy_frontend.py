"""The real front end in a browser; its screenshots stay in test_output/."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from comfy_graphs import all_tables, demo, distill, only_table
from conftest import missing
from examples import EXAMPLES, write_models
from hosts.browser import BrowserMissing, FrontEnd, find_chrome
from hosts.comfy import ComfyError, ComfyServer
from PIL import Image

ROOT = Path(__file__).resolve().parent.parent
PICTURES = ROOT / "test_output"
FILES = sorted((ROOT / "example_workflows").glob("*.json"))
TWO_IN_ONE = "SD 3.5 and Flux in one node"
APP = "Few steps, as an app"  # has nothing to distill: it runs from what is on the shelf
# Every kind of our nodes between them; test_comfy_screen.py runs all examples, in the newest one.
RUN = [file for file in FILES if file.stem in ("Try D-ODE without a checkpoint", TWO_IN_ONE)]

NODE = """type => {
    const node = window.app.graph.nodes.find(node => node.type === type);
    const seen = node.widgets.filter(widget => node.isWidgetVisible(widget));
    return {
        size: node.size,
        seen: seen.map(widget => widget.name),
        text: node.dodeReport?.textContent,
        images: (node.imgs ?? []).map(image => image.naturalWidth),
    };
}"""
SHOWN = """() => window.app.graph.nodes.map(node => ({
    kind: node.type,
    size: node.size,
    text: node.dodeReport?.textContent ?? '',
    images: (node.imgs ?? []).map(image => image.naturalWidth),
}))"""
# All as shipped, but of the fewest samples; and the stand-ins for checkpoints, which are slow and
# of which only the way through the graph is looked at, at a small size.
SMALL = """stand_in => {
    const set = (node, name, value) => {
        const widget = node.widgets?.find(w => w.name === name);
        if (widget) widget.value = value;
    };
    for (const node of window.app.graph.nodes) {
        if (stand_in && node.type.startsWith('Empty')) for (const name of ['width', 'height'])
            set(node, name, 64);
        set(node, 'samples', 8);
    }
}"""
TITLES = """() => Object.fromEntries(window.app.graph.nodes.map(node => [node.type, [
    node.title,
    ...node.inputs.map(input => input.localized_name ?? input.label ?? input.name),
    ...node.outputs.map(output => output.localized_name ?? output.label ?? output.name),
    ...node.widgets.map(widget => widget.label ?? widget.name),
]]))"""
FAULTY = """() => window.app.graph.getNodeById(1).inputs
    .filter(input => input.hasErrors).map(input => input.name)"""
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
    write_models(comfy_server.models)
    with FrontEnd(comfy_server.url) as opened:
        yield opened


def describe(front: FrontEnd, kind: str) -> dict[str, Any]:
    return front.page.evaluate(NODE, kind)


def test_nodes_are_found_by_search(front: FrontEnd, comfy_server: ComfyServer) -> None:
    """Double click on the canvas, type, and there they are."""
    info = comfy_server.object_info()
    front.page.evaluate("() => window.app.graph.clear()")
    box = front.page.locator(".comfy-vue-node-search-container input").last
    front.open_search(box, 700, 450)
    box.fill("D-ODE")
    front.page.get_by_text("D-ODE Demo Model").first.wait_for(timeout=60_000)
    front.page.screenshot(path=PICTURES / "search.png")
    found = front.page.locator(".comfy-vue-node-search-container, [role=listbox]").all_inner_texts()
    nodes = [node for name, node in info.items() if name.startswith("DODE_")]
    assert len(nodes) == 11
    missing_names = [n["display_name"] for n in nodes if n["display_name"] not in " ".join(found)]
    assert missing_names == []
    front.page.keyboard.press("Escape")
    front.page.keyboard.press("Escape")


def test_advanced_inputs_are_hidden_until_asked_for(front: FrontEnd) -> None:
    kinds = ["DODE_DemoModel", "DODE_Distill", "DODE_Sampler", "DODE_LoadTable", "DODE_Compare"]
    front.page.evaluate(ADD, [*kinds, "DODE_KSampler"])
    for kind in kinds:
        assert len(describe(front, kind)["seen"]) <= 4
    seen = describe(front, "DODE_KSampler")["seen"]
    assert seen == [
        "seed",
        "control_after_generate",
        "steps",
        "cfg",
        "dode_report",
    ]  # as in every KSampler
    before = describe(front, "DODE_Distill")
    assert before["seen"] == ["solver", "steps", "cfg", "dode_report"] and before["size"][1] < 390
    front.page.evaluate(
        "() => window.app.graph.nodes.find(n => n.type === 'DODE_Distill').toggleAdvanced()"
    )
    after = describe(front, "DODE_Distill")
    assert len(after["seen"]) == 14 and after["size"][1] > before["size"][1] + 150


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_example_loads_as_saved(front: FrontEnd, file: Path) -> None:
    """No missing node or model, no change on loading."""
    workflow = json.loads(file.read_text(encoding="utf-8"))
    front.load(workflow)
    assert front.page.locator("text=Missing Node Types").count() == 0
    assert front.page.locator("text=Missing Models").count() == 0
    saved = {node["id"]: node for node in workflow["nodes"]}
    loaded = {node["id"]: node for node in front.workflow()["nodes"]}
    assert loaded.keys() == saved.keys()
    for key, node in saved.items():
        values = [(each.get("widgets_values") or []) for each in (loaded[key], node)]
        assert values[0] == values[1], node["type"]


@pytest.mark.parametrize("file", RUN, ids=lambda file: file.stem)
def test_example_runs_as_shipped(front: FrontEnd, comfy: ComfyServer, file: Path) -> None:
    """Results where a user looks for them."""
    front.load(json.loads(file.read_text(encoding="utf-8")))
    front.page.evaluate(SMALL, bool(EXAMPLES[file.stem]().models))
    front.queue()
    front.wait(timeout=900)
    front.screenshot(PICTURES / f"{file.stem}.png")
    (profile,) = comfy.models.rglob("*.dode-profile")
    assert all_tables(comfy) == []
    shown = front.page.evaluate(SHOWN)
    for node in (node for node in shown if node["kind"] == "DODE_Distill"):
        assert f"/{profile.name}" in node["text"]
        assert node["images"] == [Image.open(plot_file(front, comfy)).width]
        assert node["size"][1] >= 600  # tall enough for text and plot
    for node in (node for node in shown if node["kind"] == "DODE_KSampler"):
        assert node["text"].startswith("profile: ") and f"from {profile.name}" in node["text"]
    assert all(node["images"] for node in shown if node["kind"] in ("PreviewImage", "DODE_Compare"))
    assert len([node for node in shown if node["images"]]) >= 2
    assert front.errors == []


def test_the_app_runs(front: FrontEnd) -> None:
    """In a front end without apps it is a graph like any other; its picture arrives."""
    (file,) = (file for file in FILES if file.stem == APP)
    front.load(json.loads(file.read_text(encoding="utf-8")))
    front.queue()
    front.wait(timeout=900)
    preview = "window.app.graph.nodes.find(node => node.type === 'PreviewImage')"
    outputs = f"() => window.app.nodeOutputs[{preview}.id].images.length"
    front.page.wait_for_function(outputs)
    assert front.errors == []


def test_live_preview_gives_way_to_the_plot(front: FrontEnd, comfy: ComfyServer) -> None:
    """While a node distills it shows what is painted and how far it is, in the end its plot."""
    source = demo()
    graph = distill(source, seed=12)
    front.load_prompt({"1": graph["demo"], "2": relinked(graph["distill"])})
    front.queue()
    shown = "() => window.app.graph.getNodeById(2).dodeReport"
    front.page.wait_for_function(f"{shown}.querySelector('img')?.naturalWidth", timeout=60_000)
    said = front.page.evaluate(f"{shown}.textContent")
    title, cost, far = said.splitlines()
    assert re.fullmatch(r"D-DDIM for 6 steps, [a-z ]+", title)
    assert re.fullmatch(r"at most .+ here \(one takes .+ s\)", cost)
    assert re.fullmatch(r"[\d,]+ of at most [\d,]+ model calls.*", far)
    front.wait()
    assert only_table(comfy).title in front.page.evaluate(f"{shown}.textContent")
    assert front.page.evaluate(f"{shown}.querySelector('img')") is None
    front.screenshot(PICTURES / "after_preview.png")
    plot = Image.open(plot_file(front, comfy)).width
    front.page.wait_for_function(
        "width => window.app.graph.getNodeById(2).imgs?.[0]?.naturalWidth === width", arg=plot
    )


def test_a_bad_table_turns_its_node_red(front: FrontEnd, comfy: ComfyServer) -> None:
    """With the reason, before anything runs."""
    file = comfy.models / "dode" / "edited by hand.dode.json"
    file.parent.mkdir(exist_ok=True)
    file.write_text('{"format": "dode-lambda-tables", "version": 1, "tables": [{')
    front.page.evaluate("() => window.app.refreshComboInNodes()")
    load = {"class_type": "DODE_LoadTable", "inputs": {"file": f"dode/{file.name}"}}
    show = {"class_type": "PreviewAny", "inputs": {"source": ["1", 1]}}
    front.load_prompt({"1": load, "2": show})
    with pytest.raises(ComfyError, match="edited by hand.dode.json: not valid JSON"):
        front.queue()
    front.page.get_by_text("edited by hand.dode.json: not valid JSON").first.wait_for()
    front.page.locator(".p-dialog-close-button").first.click()
    front.page.locator(".p-dialog-mask").wait_for(state="detached")
    front.page.screenshot(path=PICTURES / "red.png")
    assert front.page.evaluate(FAULTY) == ["file"]


def relinked(node: dict[str, Any]) -> dict[str, Any]:
    """A node whose links to "demo" go to node 1: the front end wants numbers."""
    inputs = {
        name: ["1", value[1]] if isinstance(value, list) else value
        for name, value in node["inputs"].items()
    }
    return {**node, "inputs": inputs}


def test_help_page_opens(front: FrontEnd) -> None:
    """The question mark above a selected node."""
    front.page.evaluate(ADD, ["DODE_Distill"])
    front.page.evaluate(  # with room for the buttons above the node
        """() => {
            const {canvas, graph} = window.app;
            canvas.ds.scale = 0.8;
            canvas.ds.offset = [400, 300];
            canvas.selectNode(graph.nodes[0]);
            canvas.setDirty(true, true);
        }"""
    )
    front.page.locator("[data-testid=info-button]").first.click(timeout=30_000)
    front.page.get_by_text("Reading the plot").first.wait_for(timeout=30_000)
    front.page.screenshot(path=PICTURES / "help.png")


def test_templates_are_listed(front: FrontEnd, comfy_server: ComfyServer) -> None:
    """As *Browse Templates* asks for them, with their pictures."""
    listed = comfy_server.client.get("/workflow_templates")["dode"]
    assert sorted(listed) == sorted(file.stem for file in FILES)
    for name in listed:
        picture = comfy_server.client.download(f"/api/workflow_templates/dode/{name}.jpg")
        assert picture.startswith(b"\xff\xd8")


def test_chinese(front: FrontEnd) -> None:
    """Titles and inputs in the user's language."""
    front.set({"Comfy.Locale": "zh"})
    try:
        front.reset()
        front.page.evaluate(ADD, ["DODE_Distill", "DODE_Compare"])
        texts = front.page.evaluate(TITLES)
        front.fit()
        front.screenshot(PICTURES / "chinese.png")
        front.page.evaluate("() => window.app.canvas.selectNode(window.app.graph.nodes[0])")
        front.page.locator("[data-testid=info-button]").first.click(timeout=30_000)
        front.page.get_by_text("如何看图").first.wait_for(timeout=30_000)
        front.page.screenshot(path=PICTURES / "chinese_help.png")
    finally:
        front.set({"Comfy.Locale": "en"})
        front.reset()
    assert texts["DODE_Distill"][0] == "D-ODE 蒸馏"
    assert {"模型", "步数", "求解器"} <= set(texts["DODE_Distill"])
    assert {"对比采样器", "报告"} <= set(texts["DODE_Compare"])


def plot_file(front: FrontEnd, comfy: ComfyServer) -> Path:
    """The picture that the Distill node shows."""
    ids = "() => window.app.graph.nodes.find(n => n.type === 'DODE_Distill').id"
    outputs = front.page.evaluate("() => window.app.nodeOutputs")
    return comfy.path(outputs[str(front.page.evaluate(ids))]["images"][0])


def test_examples_have_thumbnails() -> None:
    assert sorted(EXAMPLES) == [file.stem for file in FILES]
    for file in FILES:
        assert Image.open(file.with_suffix(".jpg")).width >= 400
