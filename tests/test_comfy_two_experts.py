"""Two models in one run, as Wan 2.2 has them: each with a profile, the sampler in both parts."""

from __future__ import annotations

import json
from typing import Any

from comfy_graphs import node, run, saved
from example_video import HIGH, LOW, two_experts
from examples import write_models
from hosts.checkpoints import WAN
from hosts.comfy import ComfyServer

import dode_core as dode

BLUEPRINT = "Two-expert sampling, Wan 2.2 (D-ODE)"


def stand_in() -> dict[str, Any]:
    """The template's own nodes; text encoder and VAE, which are not at hand, replaced."""
    nodes = two_experts().nodes
    prompt = {key: node(each.kind, **each.inputs) for key, each in nodes.items()}
    for key in ("3", "4", "16", "17", "18"):
        del prompt[key]
    for draw, key in enumerate(("5", "6")):
        prompt[key] = node("TestConditioning", tokens=4, width=WAN.context, pooled=0, draw=draw)
    for key in ("7", "21"):
        prompt[key]["inputs"] |= {"width": 32, "height": 32, "length": 5}
    return {**prompt, **saved("15")}


def test_each_expert_has_its_own_profile(comfy: ComfyServer) -> None:
    """The first keeps the schedule up to where the other goes on from its noise."""
    write_models(comfy.models)
    result = run(comfy, stand_in())
    files = sorted(comfy.models.rglob("*.dode-profile"))
    names = {dode.Profile.load(file).model_name for file in files}
    assert names == {HIGH, LOW} and all(file.parent.name == "diffusion_models" for file in files)
    said = [line for line in result.said() if line.startswith("profile")]
    high, low = said
    assert high.startswith("profile: 4 steps, on your schedule") and f"from {HIGH[:-12]}" in high
    assert low.startswith("profile: 4 steps from sigma") and f"from {LOW[:-12]}" in low
    assert not [kind for kind, _ in result.job.events if kind == "dode.notice"]
    assert result.latent("15").isfinite().all()


def test_the_blueprint_is_offered(comfy: ComfyServer) -> None:
    """Both samplers as one node, among those that the front end asks packs for."""
    offered = comfy.client.get("/global_subgraphs")
    ours = {
        key
        for key, each in offered.items()
        if each["name"] == "Two-expert sampling, Wan 2.2 (D-ODE)"
    }
    (key,) = ours
    data = json.loads(comfy.client.get(f"/global_subgraphs/{key}")["data"])
    (inner,) = data["definitions"]["subgraphs"]
    assert [each["type"] for each in inner["nodes"]] == ["KSamplerAdvanced"] * 2
    assert all("dode" in each["widgets_values"] for each in inner["nodes"])
    slots = [each.get("label") or each["name"] for each in data["nodes"][0]["inputs"]]
    assert slots[:2] == ["model (high noise)", "model (low noise)"] and "switch at step" in slots
