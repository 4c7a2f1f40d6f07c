"""Makes ``subgraphs/*.json``: blueprints that the front end offers among its nodes.

    python tests/make_blueprints.py

Built by the oldest front end that we serve, as the templates are.
"""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path
from typing import Any

TESTS = Path(__file__).resolve().parent
sys.path[:0] = [str(TESTS), str(TESTS.parent)]

from hosts.browser import FrontEnd  # noqa: E402
from hosts.comfy import ComfyServer  # noqa: E402

FOLDER = TESTS.parent / "subgraphs"
NAME = "Two-expert sampling, Wan 2.2 (D-ODE)"
# Inside 3 and 4, the two samplers; around them what gives the blueprint its inputs and output.
INPUTS = {
    ("1", 0): "model (high noise)",
    ("2", 0): "model (low noise)",
    ("1", 1): "positive",
    ("1", 2): "negative",
    ("1", 3): "latent",
    ("5", 0): "steps",
    ("5", 1): "cfg",
    ("5", 2): "scheduler",
    ("6", 0): "seed",
    ("7", 0): "switch at step",
}
# Of Wan 2.2's template; the samplers' own would never come to the second model.
VALUES: dict[str, Any] = {
    "noise_seed": 0,
    "control_after_generate": "fixed",
    "steps": 8,
    "cfg": 3.5,
}
VALUES |= {"scheduler": "simple", "start_at_step": 4, "end_at_step": 4}
ORDER = ["model", "model_1"]  # of the slots, these first
DESCRIPTION = (
    "Few-step sampling with a model of two experts, as Wan 2.2 is: the first takes the high noise, "
    "the second goes on from the step at which they change. Give each a profile with D-ODE Distill."
)
CONVERT = """([inside, name, labels, values]) => {
    const graph = window.app.graph;
    const items = new Set(inside.map(id => graph.getNodeById(id)));
    const source = node => node.inputs.map(input => {
        const link = input.link == null ? null : graph.links.get(input.link);
        return link ? labels[`${link.origin_id},${link.origin_slot}`] : null;
    });
    const {subgraph, node} = graph.convertToSubgraph(items);
    subgraph.name = node.title = name;
    const set = (owner, name, value) => {
        const widget = owner.widgets?.find(each => each.name === name);
        if (widget) widget.value = value;
    };
    for (const owner of [...subgraph.nodes, node])
        for (const [name, value] of Object.entries(values)) set(owner, name, value);
    set(subgraph.getNodeById(inside[0]), 'start_at_step', 0);
    set(subgraph.getNodeById(inside[1]), 'end_at_step', 10000);
    const given = source(node);
    given.forEach((label, i) => {
        if (!label) return;
        subgraph.renameInput(subgraph.inputs[i], label);
    });
    return node.type;
}"""


def prompt() -> dict[str, Any]:
    """Both samplers with what they are connected to."""
    demo = {"subject": "food", "variant": "flow", "batch_size": 1}
    both = {"positive": ["1", 1], "negative": ["1", 2], "sampler_name": "dode"}
    both |= {"steps": ["5", 0], "cfg": ["5", 1], "scheduler": ["5", 2], "noise_seed": ["6", 0]}
    first = {"start_at_step": 0, "end_at_step": ["7", 0], "latent_image": ["1", 3]}
    second = {"start_at_step": ["7", 0], "end_at_step": 10000, "latent_image": ["3", 0]}
    first |= {"add_noise": "enable", "return_with_leftover_noise": "enable", "model": ["1", 0]}
    second |= {"add_noise": "disable", "return_with_leftover_noise": "disable", "model": ["2", 0]}
    nodes = {
        "1": ("DODE_DemoModel", demo),
        "2": ("DODE_DemoModel", demo),
        "3": ("KSamplerAdvanced", {**both, **first}),
        "4": ("KSamplerAdvanced", {**both, **second}),
        "5": ("DODE_Settings", {"steps": 8, "cfg": 3.5, "scheduler": "simple"}),
        "6": ("PrimitiveInt", {"value": 0}),
        "7": ("PrimitiveInt", {"value": 4}),
        "8": ("SaveLatent", {"samples": ["4", 0], "filename_prefix": "latent"}),
    }
    return {key: {"class_type": kind, "inputs": inputs} for key, (kind, inputs) in nodes.items()}


def blueprint(front: FrontEnd) -> dict[str, Any]:
    """The two samplers as one node, as the front end keeps a blueprint."""
    front.load_prompt(prompt())
    labels = {f"{node},{slot}": label for (node, slot), label in INPUTS.items()}
    kind = front.page.evaluate(CONVERT, [[3, 4], NAME, labels, VALUES])
    workflow = front.workflow()
    (node,) = [each for each in workflow["nodes"] if each["type"] == kind]
    node |= {"id": -1, "pos": [0, 0]}
    for slot in (*node["inputs"], *node["outputs"]):
        slot.update({"link": None} if "link" in slot else {"links": None})
    only = [each for each in workflow["definitions"]["subgraphs"] if each["id"] == node["type"]]
    kept = {name: workflow[name] for name in ("id", "revision", "version")}
    kept |= {"last_node_id": 8, "last_link_id": 0, "nodes": [node], "links": [], "groups": []}
    sort_inputs(node, only[0])
    said = {"BlueprintDescription": DESCRIPTION}
    return {**kept, "definitions": {"subgraphs": only}, "config": {}, "extra": said}


def sort_inputs(node: dict[str, Any], subgraph: dict[str, Any]) -> None:
    """Both models first: the front end has the slots in the order of the samplers."""
    names = [each["name"] for each in subgraph["inputs"]]
    order = sorted(names, key=lambda name: (name not in ORDER, names.index(name)))
    outside = subgraph["inputNode"]["id"]
    for link in subgraph["links"]:
        if link["origin_id"] == outside:
            link["origin_slot"] = order.index(names[link["origin_slot"]])
    for slots in (node["inputs"], subgraph["inputs"]):
        slots.sort(key=lambda slot: order.index(slot["name"]))


def main() -> None:
    FOLDER.mkdir(exist_ok=True)
    with (
        tempfile.TemporaryDirectory() as base,
        ComfyServer(Path(base)) as server,
        FrontEnd(server.url) as front,
    ):
        text = json.dumps(blueprint(front), indent=1, ensure_ascii=False) + "\n"
        (FOLDER / f"{NAME}.json").write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
