"""A server where much is broken: loaded twice, a node file gone, no matplotlib, rude packs."""

from __future__ import annotations

import pytest
import torch
from comfy_graphs import demo, distill, ksampler, node, only_table, run, sampler_custom
from hosts.comfy import ComfyServer

PAPER = ["ddim", "ipndm", "deis", "dpm_solver_2", "heun"]


@pytest.fixture
def rough(rough_server: ComfyServer) -> ComfyServer:
    for file in rough_server.models.rglob("*.dode.json"):
        file.unlink()
    return rough_server


def samplers(server: ComfyServer, kind: str = "KSampler") -> list[str]:
    """The sampler menu of a stock node."""
    kind, *settings = server.object_info(kind)["input"]["required"]["sampler_name"]
    return settings[0]["options"] if kind == "COMBO" else kind


@pytest.mark.parametrize("kind", ["KSampler", "KSamplerAdvanced", "KSamplerSelect"])
def test_the_papers_samplers(rough: ComfyServer, kind: str) -> None:
    """Each once, after `dode`, in every menu."""
    found = [name for name in samplers(rough, kind) if name.startswith("dode")]
    assert found == ["dode", *(f"dode_{solver}" for solver in PAPER)]


def test_a_named_sampler_keeps_to_its_solver(rough: ComfyServer) -> None:
    source = demo()
    run(rough, distill(source, solver="ipndm"))
    lines = {}
    for name in ("dode_ipndm", "dode_heun", "dode"):
        (lines[name],) = run(rough, ksampler(source, sampler=name)).said()
    assert lines["dode_ipndm"].startswith("exact table: D-PNDM, 6 steps")
    assert lines["dode"] == lines["dode_ipndm"]
    assert lines["dode_heun"].startswith("uncalibrated: no table found, heun runs without one")


def test_a_broken_node_file_costs_its_own_nodes_only(rough: ComfyServer) -> None:
    names = [name for name in rough.object_info() if name.startswith("DODE_")]
    assert len(names) == 10 and "DODE_Compare" not in names
    assert "nodes/compare_node.py failed to load; the other nodes work" in rough.log()
    assert "No module named 'a_module_that_is_gone'" in rough.log()


def test_distils_without_matplotlib_and_previews(rough: ComfyServer) -> None:
    """A table, a report, a word about the plot; and both copies of the pack know the table."""
    source = demo()
    mine = {"sampler": node("DODE_Sampler", table=["distill", 0])}
    result = run(
        rough,
        distill(source),
        mine,
        sampler_custom(source, ["sampler", 0], ["distill", 1]),
        ksampler(source, "rude", "rude"),
    )
    assert "Plots need matplotlib: run 'pip install matplotlib'" in result.text()
    assert only_table(rough).title in result.text()
    assert "preview" not in result.job.kinds() and set(result.outputs["distill"]) == {"text"}
    stock = run(rough, ksampler(source))
    assert stock.said()[0].startswith("exact table")
    assert torch.equal(stock.latent("k"), result.latent("c"))
