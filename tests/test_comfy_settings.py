"""One place for steps, cfg and scheduler; several step counts at once; the notice of a fallback."""

from __future__ import annotations

import re
from typing import Any

import pytest
import torch
from comfy_graphs import Nodes, all_tables, demo, distill, ksampler, node, run
from hosts.comfy import ComfyError, ComfyServer


def settings(steps: int = 6) -> Nodes:
    return {"settings": node("DODE_Settings", steps=steps, cfg=2.0, scheduler="karras")}


def linked(graph: Nodes, *keys: str) -> Nodes:
    """The same nodes with steps, cfg and scheduler from the settings node."""
    links = {name: ["settings", i] for i, name in enumerate(("steps", "cfg", "scheduler"))}
    return {
        key: {**each, "inputs": {**each["inputs"], **links}} if key in keys else each
        for key, each in graph.items()
    }


def notices(result: Any) -> list[str]:
    return [data["text"] for kind, data in result.job.events if kind == "dode.notice"]


def of_sampling(result: Any) -> list[str]:
    """What samplers said, without what Distill said of its cost and of its tables."""
    return [line for line in result.said() if re.match("uncalibrated|[a-z]+ table: ", line)]


def test_settings_go_everywhere(comfy: ComfyServer) -> None:
    """To our nodes and to stock ones, whose menus are of another type; the table then fits."""
    source = demo()
    work = linked(distill(source, steps=99, cfg=9.0), "distill")
    result = run(comfy, settings(), work, linked(ksampler(source, steps=99), "k"))
    assert "\nD-DDIM, 6 steps, cfg 2\n" in result.text()
    (said,) = of_sampling(result)
    assert said.startswith("uncalibrated") or said.startswith("exact table: D-DDIM, 6 steps, cfg 2")
    again = run(comfy, settings(), linked(ksampler(source, steps=99, seed=8), "k"))
    (said,) = again.said()
    assert said.startswith("exact table: D-DDIM, 6 steps, cfg 2")
    assert notices(again) == []


def test_several_step_counts(comfy: ComfyServer) -> None:
    """A table each; what they are connected to takes the one that it needs."""
    source = demo()
    work = distill(source, steps="5-6, 8")
    apply = {"apply": node("DODE_ApplyToModel", model=source.model, table=["distill", 0])}
    samples = {}
    for n in (5, 8):
        stock = ksampler(source, f"k{n}", steps=n)
        stock[f"k{n}"]["inputs"]["model"] = ["apply", 0]
        samples |= stock
    result = run(comfy, work, apply, samples)
    assert sorted(table.steps for table in all_tables(comfy)) == [5, 6, 8]
    assert [line.split(",")[1] for line in result.text().splitlines()] == [
        " 5 steps",
        " 6 steps",
        " 8 steps",
    ]
    assert sorted(line.split(", cfg")[0] for line in of_sampling(result)) == [
        "exact table: D-DDIM, 5 steps",
        "exact table: D-DDIM, 8 steps",
    ]
    again = run(comfy, work, {"save": node("DODE_SaveTable", table=["distill", 0], filename="all")})
    assert again.text("save").count("D-DDIM, ") == 3
    saved = [table for table in all_tables(comfy) if table.steps == 5]
    assert len(saved) == 2 and torch.equal(saved[0].lambdas, saved[1].lambdas)


def test_a_node_that_takes_one_table(comfy: ComfyServer) -> None:
    source = demo()
    one = {"sigmas": node("DODE_Scheduler", table=["distill", 0], denoise=1.0)}
    shown = {"show": node("PreviewAny", source=["sigmas", 0])}
    with pytest.raises(ComfyError, match="Tables for 5, 6 steps are connected"):
        run(comfy, distill(source, steps="5,6"), one, shown)


@pytest.mark.parametrize("steps", ["many", "0", "8-4", "1-2000", ""])
def test_what_are_no_step_counts(comfy: ComfyServer, steps: str) -> None:
    with pytest.raises(ComfyError, match="are no step counts; give 8"):
        run(comfy, distill(demo(), steps=steps))
    assert all_tables(comfy) == []


def test_a_fallback_is_told(comfy: ComfyServer) -> None:
    """Once a run, with what to do: no table, one for near steps, one for another cfg."""
    source = demo()
    none = notices(run(comfy, ksampler(source, seed=11)))
    assert none == [
        "No table fits this run: plain DPM++ 2M sampled. Make a table with D-ODE Distill "
        "for 6 steps, cfg 2."
    ]
    run(comfy, distill(source, steps=6))
    (near,) = notices(run(comfy, ksampler(source, steps=7, seed=12)))
    assert "made for 6 steps, and this run has 7" in near and near.endswith("7 steps, cfg 2.")
    (other,) = notices(run(comfy, ksampler(source, cfg=3.0, seed=13)))
    assert "made at cfg 2" in other and other.endswith("6 steps, cfg 3.")
    assert notices(run(comfy, ksampler(source, seed=14))) == []
