"""The demo model in a real ComfyUI server: distill, find the table, sample, compare."""

from __future__ import annotations

import re

import pytest
import torch
from comfy_graphs import (
    demo,
    distill,
    ksampler,
    node,
    only_table,
    rms,
    run,
    sampler_custom,
    table_files,
)
from hosts.comfy import ComfyServer

NODES = (
    "DODE_ApplyToModel",
    "DODE_Compare",
    "DODE_DemoModel",
    "DODE_Distill",
    "DODE_KSampler",
    "DODE_LoadTable",
    "DODE_Prompts",
    "DODE_SaveTable",
    "DODE_Sampler",
    "DODE_Scheduler",
    "DODE_Settings",
)
COST = r"at most [\d,]+ model evaluations, about [\d.]+ (s|min|h) here \(one takes [\d.e-]+ s\)"
WIDGETS = ("COMBO", "INT", "FLOAT", "STRING", "BOOLEAN")


def test_nodes_are_complete(comfy: ComfyServer) -> None:
    """Every node has help, every input a tooltip, and three widgets at most are in sight."""
    info = comfy.object_info()
    assert sorted(name for name in info if name.startswith("DODE_")) == sorted(NODES)
    for name in NODES:
        inputs = {**info[name]["input"]["required"], **info[name]["input"].get("optional", {})}
        assert all(options["tooltip"] for _, options in inputs.values()), name
        assert all(info[name]["output_tooltips"]), name
        assert info[name]["description"] and "D-ODE" in info[name]["display_name"]
        widgets = [options for kind, options in inputs.values() if kind in WIDGETS]
        assert sum(not options.get("advanced") for options in widgets) <= 3, name
        page = comfy.client.download(f"/extensions/dode/docs/{name}.md").decode()
        assert page.startswith("# " + info[name]["display_name"])


def test_dropdown_has_one_name(comfy: ComfyServer) -> None:
    for name in ("KSampler", "KSamplerAdvanced", "KSamplerSelect"):
        kind, *settings = comfy.object_info(name)["input"]["required"]["sampler_name"]
        options = settings[0]["options"] if kind == "COMBO" else kind
        assert [option for option in options if "dode" in option] == ["dode"]


def test_distills_shows_and_saves(comfy: ComfyServer) -> None:
    result = run(comfy, distill(demo(), seed=11, samples=8))
    table = only_table(comfy)
    (file,) = table_files(comfy)
    assert file.parent == comfy.models / "dode" and file.name.startswith("emoji_edm-")
    assert table.model_name == "emoji_edm" and table.model_fingerprint.startswith("weights:")
    assert (table.cfg, table.seed, table.latent_shape) == (2.0, 11, (3, 32, 32))
    assert (table.samples_fit, table.samples_holdout) == (6, 2)
    assert table.parametrization == "ve" and table.steps == 6
    assert table.errors is not None
    assert table.errors.distilled_fit < table.errors.plain_fit

    (reference,) = result.outputs["distill"]["images"]
    plot = comfy.image(reference)
    assert plot.width > 600 and len(plot.convert("L").getcolors(256) or []) > 50
    text = result.text()
    assert text.splitlines()[0] == f"{table.worth}, on noise that it did not learn from"
    assert "the many-step image" in table.worth
    assert text.splitlines()[1] == table.title and f"dode/{file.name}" in text
    assert not {"lambda", "gain", "column", "held"} & set(text.split())

    progress = [data for kind, data in result.job.events if kind == "progress"]
    values = [data["value"] for data in progress]
    assert values == sorted(values) and len({data["max"] for data in progress}) == 1
    assert values[-1] == progress[-1]["max"] and len(values) > 20
    assert "preview" not in result.job.kinds()  # the front end would keep it beside the plot
    told = [data for kind, data in result.job.events if kind == "dode.progress"]
    lines = [data["text"].splitlines() for data in told]
    assert lines[0] == ["D-DDIM for 6 steps"]
    (cost,) = {line[1] for line in lines if len(line) > 1}  # said first, and kept in sight
    assert re.fullmatch(COST, cost) and len(next(line for line in lines if cost in line)) == 2
    assert ["D-DDIM for 6 steps, following the model in many small steps", cost] in lines
    assert f"D-ODE: D-DDIM for 6 steps: {cost}." in result.log
    assert any(" left" in line[-1] for line in lines)
    assert any(data["picture"].startswith("data:image/jpeg;base64,") for data in told)


def test_samples_closer_to_the_teacher(comfy: ComfyServer) -> None:
    """KSampler finds the table, SamplerCustom with it is the same, and both beat Euler."""
    source = demo(batch=4)
    mine = {"sampler": node("DODE_Sampler", table=["distill", 0], solver="auto")}
    run(comfy, work := distill(source, steps=8, samples=16))
    result = run(
        comfy,
        work,
        mine,
        sampler_custom(source, ["sampler", 0], ["distill", 1]),
        ksampler(source, "k", steps=8),
        ksampler(source, "euler", "euler", steps=8),
        ksampler(source, "teacher", "heun", steps=40),
    )
    exact = only_table(comfy).describe()
    assert sum(line.startswith(f"exact table: {exact}") for line in result.said()) == 2
    assert sum("from emoji_edm-" in line for line in result.said()) == 1
    ours, plain, goal = (result.latent(key) for key in ("k", "euler", "teacher"))
    assert torch.equal(ours, result.latent("c"))
    assert rms(ours, plain) > 0.01
    assert rms(ours, goal) < 0.75 * rms(plain, goal)


def test_every_variant(comfy: ComfyServer) -> None:
    variants = comfy.object_info("DODE_DemoModel")["input"]["required"]["variant"][1]["options"]
    assert variants[0] == "EDM"
    for variant in variants:
        source = demo(variant=variant)
        report = run(comfy, distill(source, scheduler="simple")).text()
        (line,) = run(comfy, ksampler(source, scheduler="simple")).said()
        assert line.startswith("exact") and line.partition(" (from")[0][13:] in report


def test_without_a_table(comfy: ComfyServer) -> None:
    """Plain DPM-Solver++(2M), ComfyUI's own, and a line that says so."""
    source = demo()
    plain = ksampler(source, "own", "dpmpp_2m", seed=21)
    result = run(comfy, ksampler(source, seed=21), plain)
    (line,) = result.said()
    assert line.startswith("uncalibrated: no table found, dpmpp_2m runs")
    assert rms(result.latent("k"), result.latent("own")) < 1e-4


@pytest.mark.parametrize("cfg", [1.0, 7.0])
def test_cfg(comfy: ComfyServer, cfg: float) -> None:
    """cfg 1 needs no negative; another cfg than the table's is said."""
    source = demo()
    work = distill(source, cfg=cfg, **({"negative": None} if cfg == 1 else {}))
    run(comfy, work)
    same, other = (run(comfy, ksampler(source, cfg=each)).said()[0] for each in (cfg, cfg + 1))
    assert f"cfg {cfg:g}" in same and "this run uses" not in same
    assert f"made at cfg {cfg:g}, this run uses {cfg + 1:g}" in other


@pytest.mark.parametrize(
    ("steps", "denoise", "expected"),
    [(4, 0.5, "slice"), (7, 1.0, "interpolated"), (8, 1.0, "exact"), (40, 0.5, "uncalibrated")],
)
def test_other_schedules(comfy: ComfyServer, steps: int, denoise: float, expected: str) -> None:
    """Image to image runs the end of a longer schedule; other step counts, another one."""
    source = demo()
    run(comfy, distill(source, steps=8))
    graph = ksampler(source, steps=steps, denoise=denoise)
    result = run(comfy, graph)
    (line,) = result.said()
    assert line.startswith(expected)
    assert result.latent("k").isfinite().all()


def test_table_rides_on_the_model(comfy: ComfyServer) -> None:
    source = demo()
    apply = node("DODE_ApplyToModel", model=source.model, table=["distill", 0])
    graph = ksampler(source)
    graph["k"]["inputs"]["model"] = ["apply", 0]
    work = distill(source)
    run(comfy, work)
    for file in table_files(comfy):
        file.unlink()
    result = run(comfy, work, {"apply": apply}, graph, ksampler(source, "bare"))
    assert sorted(line.split()[0] for line in result.said()) == ["exact", "uncalibrated:"]


def test_same_work_is_not_done_twice(comfy: ComfyServer) -> None:
    source = demo()
    plan = {"seed": 31, "steps": 5}
    first = run(comfy, distill(source, **plan))
    (file,) = table_files(comfy)
    written = file.stat().st_mtime_ns
    again = run(comfy, distill(source, **plan, batch_size=3))
    assert "saved in" in first.text() and "nothing to do" in again.text()
    assert again.outputs["distill"]["images"] and file.stat().st_mtime_ns == written
    forced = run(comfy, distill(source, **plan, re_distill=True))
    assert "saved in" in forced.text() and file.stat().st_mtime_ns > written
    changed = run(comfy, distill(source, **{**plan, "steps": 4}))
    assert "saved in" in changed.text()
