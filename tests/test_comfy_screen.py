"""What a person sees, in the newest front end that our oldest ComfyUI serves, in both renderers.

Reports that stay, each picture once, no node over another in any template after its run.
"""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from comfy_graphs import demo, distill, ksampler, new_seed
from conftest import missing
from examples import EXAMPLES, write_models
from hosts.browser import BrowserMissing, FrontEnd, find_chrome
from hosts.checkpoints import WAN
from hosts.comfy import CONDITIONING_PACK, ComfyError, ComfyServer
from hosts.install import InstallError, newest_front_end
from test_comfy_frontend import FILES, PICTURES, SMALL, relinked
from test_comfy_two_experts import BLUEPRINT

TEXT = "id => window.app.graph.getNodeById(id).dodeReport.textContent"
# What is on the screen of a node, beside its report: pictures that the front end draws itself.
DRAWN = """id => {
    const node = window.app.graph.getNodeById(id);
    if (!LiteGraph.vueNodesMode) return (node.imgs ?? []).length;
    const element = document.querySelector(`[data-node-id="${id}"]`);
    return [...element.querySelectorAll('img')]
        .filter(img => !img.closest('.dode-report') && img.getBoundingClientRect().width > 60)
        .length;
}"""
# [title, left, top, right, bottom] of every node, in the graph's units.
BOXES = """() => window.app.graph.nodes.map(node => {
    const {scale} = window.app.canvas.ds;
    const element = LiteGraph.vueNodesMode
        && document.querySelector(`[data-node-id="${node.id}"]`);
    if (element) {
        const box = element.getBoundingClientRect();
        return [node.title, ...[box.left, box.top, box.right, box.bottom].map(v => v / scale)];
    }
    const box = node.boundingRect;
    return [node.title, box[0], box[1], box[0] + box[2], box[1] + box[3]];
})"""
FIXED = """id => {
    const widgets = window.app.graph.getNodeById(id).widgets;
    widgets.find(widget => widget.name === 'control_after_generate').value = 'fixed';
}"""
HEAR = """() => window.app.api.addEventListener(
    'dode.notice', event => { window.dodeHeard = event.detail.text; })"""
# What is said is drawn by the next frame.
FRAMES = """() => new Promise(
    done => requestAnimationFrame(() => requestAnimationFrame(() => setTimeout(done, 0))))"""
# A toast stays for some seconds, which a busy machine can take to say that the run has ended.
SEE = """text => {
    const seen = nodes => [...nodes].find(
        node => node.textContent?.includes(text) && node.checkVisibility?.());
    new MutationObserver(records => {
        const toast = records.map(record => seen(record.addedNodes)).find(node => node);
        window.dodeSeen ??= toast?.textContent;
    }).observe(document.body, {childList: true, subtree: true});
}"""
NOTICES = "dode.notices"
# Connects the graph's one node, the blueprint, to the demo model and shows what it makes.
WIRE = """() => {
    const graph = window.app.graph, [blueprint] = graph.nodes;
    const [demo, decode, show] = ['DODE_DemoModel', 'VAEDecode', 'PreviewImage'].map(type => {
        const node = LiteGraph.createNode(type);
        graph.add(node);
        return node;
    });
    demo.widgets.find(widget => widget.name === 'variant').value = 'flow';
    const labels = blueprint.inputs.map(input => input.label ?? input.name);
    const slots = ['model (high noise)', 'model (low noise)', 'positive', 'negative', 'latent'];
    [0, 0, 1, 2, 3].forEach((from, i) => demo.connect(from, blueprint, labels.indexOf(slots[i])));
    blueprint.connect(0, decode, 0);
    demo.connect(4, decode, 1);
    decode.connect(0, show, 0);
}"""
# Where no stand-in for the text encoder and the VAE is at hand: conditions of random numbers in the
# place of the prompts, and the latent kept in the place of the video.
STAND_IN = """width => {
    const graph = window.app.graph;
    const set = (node, values) => Object.entries(values).forEach(([name, value]) => {
        node.widgets.find(widget => widget.name === name).value = value;
    });
    const of = type => graph.nodes.filter(node => node.type === type);
    const put = (type, old) => {
        const node = LiteGraph.createNode(type);
        node.pos = [...old.pos];
        node.flags.collapsed = true;  // it is no part of the template
        graph.add(node);
        return node;
    };
    of('CLIPTextEncode').forEach((old, draw) => {
        const node = put('TestConditioning', old);
        set(node, {width, pooled: 0, draw});
        for (const id of [...old.outputs[0].links]) {
            const link = graph.getLink(id);
            node.connect(0, graph.getNodeById(link.target_id), link.target_slot);
        }
    });
    const last = graph.getNodeById(graph.getLink(of('VAEDecode')[0].inputs[0].link).origin_id);
    last.connect(0, put('SaveLatent', of('SaveVideo')[0]), 0);
    for (const type of ['CLIPTextEncode', 'CLIPLoader', 'VAELoader', 'VAEDecode', 'CreateVideo',
        'SaveVideo']) of(type).forEach(node => graph.remove(node));
    of('EmptyHunyuanLatentVideo').forEach(node => set(node, {length: 5}));
}"""
SAID = "() => app.graph.nodes.filter(n => n.dodeReport).map(n => n.dodeReport.textContent)"
DISTILL, SAMPLE = 2, 3


@pytest.fixture(scope="module")
def newest(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ComfyServer]:
    try:
        find_chrome()
        root = newest_front_end()
    except (BrowserMissing, InstallError) as error:
        missing("A browser, or the newest front end,", error)
        raise
    base = tmp_path_factory.mktemp("newest")
    arguments = ["--preview-method", "latent2rgb", "--front-end-root", str(root)]
    write_models(base / "models")
    with ComfyServer(base, packs=[CONDITIONING_PACK], arguments=arguments) as server:
        server.show_presets(False)
        yield server


@pytest.fixture(scope="module")
def browser(newest: ComfyServer) -> Iterator[FrontEnd]:
    with FrontEnd(newest.url) as opened:
        yield opened


@pytest.fixture(params=["classic", "Nodes 2.0"])
def screen(request: pytest.FixtureRequest, browser: FrontEnd, newest: ComfyServer) -> FrontEnd:
    """A page in that renderer without any graph, and no table on the server."""
    for file in newest.models.rglob("*.dode.json"):
        file.unlink()
    browser.settings |= {"Comfy.VueNodes.Enabled": request.param == "Nodes 2.0"}
    browser.set(browser.settings)
    browser.reset()
    browser.errors.clear()
    return browser


def graph(**settings: Any) -> dict[str, Any]:
    """Distil, and sample with the stock KSampler; new seeds, so that nothing is cached."""
    source = demo()
    found = {**distill(source, **settings), **ksampler(source, seed=new_seed())}
    ids = {"demo": "1", "distill": str(DISTILL), "k": str(SAMPLE)}
    return {ids[key]: relinked(node) for key, node in found.items() if key in ids}


def test_a_report_stays(screen: FrontEnd) -> None:
    """After the job, for a cached node, and in the workflow when it is loaded again."""
    screen.load_prompt({key: node for key, node in graph().items() if key != str(SAMPLE)})
    screen.queue()
    screen.wait()
    screen.screenshot(PICTURES / "report.png")
    report = screen.page.evaluate(TEXT, DISTILL)
    assert re.match(r".+ the many-step image .+\nD-DDIM, 6 steps, cfg 2\n", report)
    assert "saved in dode/" in report
    assert screen.page.evaluate(DRAWN, DISTILL) == 1

    saved = screen.workflow()
    screen.page.evaluate("id => { app.graph.getNodeById(id).properties = {}; }", DISTILL)
    screen.queue()  # everything is cached
    screen.wait()
    assert screen.page.evaluate(TEXT, DISTILL) == report

    screen.reset()
    screen.load(saved)
    assert screen.page.evaluate(TEXT, DISTILL) == report
    values = next(node for node in saved["nodes"] if node["id"] == DISTILL)["widgets_values"]
    assert report not in values  # which go by their order
    assert screen.errors == []


def test_a_sampler_says_it_when_it_is_cached(screen: FrontEnd) -> None:
    """KSampler (D-ODE): after the job, in a graph that has no report yet, and when loaded again."""
    source = {"class_type": "DODE_DemoModel", "inputs": {"subject": "food", "variant": "EDM"}}
    source["inputs"]["batch_size"] = 1
    parts = {"model": ["1", 0], "positive": ["1", 1], "negative": ["1", 2]}
    inputs = {**parts, "latent_image": ["1", 3], "seed": new_seed(), "steps": 5, "cfg": 2.0}
    sampler = {"class_type": "DODE_KSampler", "inputs": inputs}
    keep = {"class_type": "SaveLatent", "inputs": {"samples": [str(SAMPLE), 0]}}
    screen.load_prompt({"1": source, str(SAMPLE): sampler, "4": keep})
    screen.page.evaluate(FIXED, SAMPLE)
    unsaid = screen.workflow()
    for _ in range(2):  # made, then cached
        screen.queue()
        screen.wait()
        screen.page.wait_for_function(f"id => ({TEXT})(id).startsWith('uncalibrated')", arg=SAMPLE)
        saved = screen.workflow()
        screen.load(unsaid)
        assert screen.page.evaluate(TEXT, SAMPLE) == ""
    screen.reset()
    screen.load(saved)
    assert screen.page.evaluate(TEXT, SAMPLE).startswith("uncalibrated")
    assert screen.errors == []


def test_an_interrupted_run_takes_its_progress_along(screen: FrontEnd, newest: ComfyServer) -> None:
    screen.load_prompt(graph(samples=256))  # longer than the busiest machine takes to show it
    screen.queue()
    left = f"id => / left$/.test(({TEXT})(id))"
    screen.page.wait_for_function(left, arg=DISTILL, timeout=120_000)
    newest.interrupt()
    with pytest.raises(ComfyError, match="interrupted"):
        screen.wait()
    screen.page.wait_for_function(f"id => ({TEXT})(id) === ''", arg=DISTILL)


def test_notices_can_be_turned_off(screen: FrontEnd) -> None:
    """By the setting: the server still says it, and nothing is shown."""
    screen.set({NOTICES: False})
    try:
        screen.reset()
        alone = {key: node for key, node in graph().items() if key != str(DISTILL)}
        keep = {"class_type": "SaveLatent", "inputs": {"samples": [str(SAMPLE), 0]}}
        screen.load_prompt({**alone, "4": keep})
        screen.page.evaluate(HEAR)
        screen.queue()
        screen.wait()
        heard = screen.page.wait_for_function("() => window.dodeHeard", timeout=30_000)
        assert heard.json_value().startswith("No table fits this run")
        screen.page.evaluate(FRAMES)
        assert screen.page.get_by_text("No table fits this run").count() == 0
    finally:
        screen.set({NOTICES: True})


def test_a_fallback_is_seen(screen: FrontEnd) -> None:
    """A toast for the stock KSampler that found no table; it is on unless the user wants none."""
    alone = {key: node for key, node in graph().items() if key != str(DISTILL)}
    keep = {"class_type": "SaveLatent", "inputs": {"samples": [str(SAMPLE), 0]}}
    screen.load_prompt({**alone, "4": keep})
    screen.page.evaluate(SEE, "No table fits this run")
    screen.queue()
    screen.wait()
    seen = screen.page.wait_for_function("() => window.dodeSeen").json_value()
    assert "Make a table with D-ODE Distill for 6 steps, cfg 2." in seen


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_no_node_over_another(screen: FrontEnd, file: Path) -> None:
    """In no template, before and after its run; all of it in sight at a zoom that can be read."""
    workflow = json.loads(file.read_text(encoding="utf-8"))
    workflow["extra"].pop("linearMode", None)  # the graph of an app
    screen.load(workflow)
    assert overlaps(screen) == []
    screen.page.wait_for_function("() => window.app.canvas.ds.scale >= 0.6")  # it glides there
    if not EXAMPLES[file.stem]().runs:
        screen.page.evaluate(STAND_IN, WAN.context)
    screen.page.evaluate(SMALL, True)
    screen.queue()
    screen.wait(timeout=900)
    mode = "vue" if screen.settings["Comfy.VueNodes.Enabled"] else "classic"
    screen.screenshot(PICTURES / f"{file.stem} {mode}.png")
    assert overlaps(screen) == []
    said = screen.page.evaluate(SAID)
    assert said and all(said)
    ids = "() => app.graph.nodes.filter(n => /Distill|Compare/.test(n.type)).map(n => n.id)"
    for key in screen.page.evaluate(ids):
        assert screen.page.evaluate(DRAWN, key) == 1
    assert screen.errors == []


def test_the_blueprint_is_found_and_runs(screen: FrontEnd) -> None:
    """By the search box, onto the canvas, with values that use both models."""
    screen.page.evaluate("() => window.app.graph.clear()")
    box = screen.page.get_by_role("combobox", name="Add a node...")
    screen.open_search(box, 900, 500)
    box.fill("Wan 2.2 two-expert")
    screen.page.get_by_test_id("result-item").filter(has_text=BLUEPRINT).click()
    box.wait_for(state="detached")
    screen.page.mouse.click(700, 300)  # where it is put down
    screen.page.wait_for_function("() => window.app.graph.nodes.length === 1")
    screen.page.evaluate(WIRE)
    prompt = screen.prompt()
    parts = [each["inputs"] for each in prompt.values() if each["class_type"] == "KSamplerAdvanced"]
    assert {(part["start_at_step"], part["end_at_step"]) for part in parts} == {(0, 4), (4, 10000)}
    assert all(part["sampler_name"] == "dode" and part["steps"] == 8 for part in parts)
    screen.queue()
    screen.wait()
    images = "() => Object.values(window.app.nodeOutputs).flatMap(each => each.images ?? []).length"
    assert screen.page.evaluate(images) >= 1
    assert screen.errors == []


def overlaps(screen: FrontEnd) -> list[tuple[str, str]]:
    """Pairs of nodes of which one covers a part of the other."""
    pairs = itertools.combinations(screen.page.evaluate(BOXES), 2)
    return [(a[0], b[0]) for a, b in pairs if meet(a[1:], b[1:])]


def meet(a: list[float], b: list[float]) -> bool:
    """Whether two boxes share more than a line."""
    across = min(a[2], b[2]) - max(a[0], b[0])
    down = min(a[3], b[3]) - max(a[1], b[1])
    return across > 1 and down > 1
