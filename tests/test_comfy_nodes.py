"""The nodes around the sampler on the real server: guiders, schedules, files, all in one."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from comfy_graphs import (
    Nodes,
    Source,
    checkpoint,
    demo,
    distill,
    ksampler,
    node,
    only_table,
    run,
    sampler_custom,
    saved,
    table_files,
)
from hosts.checkpoints import SD3, write_checkpoint
from hosts.comfy import ComfyError, ComfyServer

import dode_core as dode

UNUSED = {"model": None, "positive": None, "negative": None}


@pytest.fixture
def source(comfy: ComfyServer) -> Source:
    """A checkpoint of three megabytes, quick enough for every path there is."""
    folder = comfy.models / "checkpoints"
    if not (folder / "nodes.safetensors").exists():
        write_checkpoint(comfy.models, SD3, "nodes.safetensors", seed=20)
    return checkpoint("nodes.safetensors", SD3)


def all_in_one(source: Source, key: str = "own", **settings: Any) -> Nodes:
    plan = {"seed": 5, "steps": 6, "cfg": 2.0, "scheduler": "simple", **settings}
    given = {name: value for name, value in {**source.parts(), **plan}.items() if value is not None}
    return {**source.nodes, key: node("DODE_KSampler", **given), **saved(key)}


# D-ODE Distill with a GUIDER


def guided(source: Source, guider: dict[str, Any], **settings: Any) -> Nodes:
    graph = distill(source, guider=["guider", 0], **UNUSED, **settings)
    return {**graph, "guider": guider}


def test_distills_a_guider(comfy: ComfyServer, source: Source) -> None:
    """Its model, prompt and cfg are those that are distilled; the checkpoint is found behind it."""
    text = {"positive": source.positive, "negative": source.negative}
    guider = node("CFGGuider", model=source.model, **text, cfg=3.0)
    run(comfy, guided(source, guider, cfg=50.0, seed=3))
    by_guider = only_table(comfy)
    assert by_guider.cfg == 3.0
    assert table_files(comfy) == [comfy.models / "checkpoints" / "nodes.dode.json"]
    again = run(comfy, distill(source, cfg=3.0, seed=3))
    assert "nothing to do" in again.text()
    forced = run(comfy, distill(source, cfg=3.0, seed=3, re_distill=True))
    assert "saved in" in forced.text()
    assert torch.equal(only_table(comfy).lambdas, by_guider.lambdas)


def test_distills_a_basic_guider(comfy: ComfyServer, source: Source) -> None:
    guider = node("BasicGuider", model=source.model, conditioning=source.positive)
    run(comfy, guided(source, guider))
    assert only_table(comfy).cfg == 1.0
    (line,) = run(comfy, ksampler(source, cfg=1.0)).said()
    assert line.startswith("exact table: D-DDIM, 6 steps, cfg 1")


def test_two_cfgs_are_no_cfg(comfy: ComfyServer, source: Source) -> None:
    """A guider with two numbers has no one cfg: the table claims none."""
    conds = {"cond1": source.positive, "cond2": source.negative, "negative": source.negative}
    numbers = {"cfg_conds": 2.0, "cfg_cond2_negative": 3.0, "style": "regular"}
    guider = node("DualCFGGuider", model=source.model, **conds, **numbers)
    run(comfy, guided(source, guider))
    assert only_table(comfy).cfg is None


def test_distill_wants_one_or_the_other(comfy: ComfyServer, source: Source) -> None:
    with pytest.raises(ComfyError, match="a model is not connected; connect model, positive"):
        run(comfy, distill(source, **UNUSED))
    with pytest.raises(ComfyError, match="positive is not connected; connect model, positive"):
        run(comfy, distill(source, positive=None))
    guider = node("BasicGuider", model=source.model, conditioning=source.positive)
    graph = {**distill(source, guider=["guider", 0]), "guider": guider}
    with pytest.raises(ComfyError, match="A GUIDER is connected, and a model or conditioning as"):
        run(comfy, graph)
    assert not table_files(comfy)


# D-ODE Scheduler and D-ODE Save Table


@pytest.mark.parametrize(("denoise", "kind"), [(1.0, "exact"), (0.5, "slice")])
def test_scheduler(comfy: ComfyServer, source: Source, denoise: float, kind: str) -> None:
    """The table's own sigmas, or their end: sampled with the table's own numbers."""
    nodes = {
        "sigmas": node("DODE_Scheduler", table=["distill", 0], denoise=denoise),
        "sampler": node("DODE_Sampler"),
    }
    work = distill(source)
    custom = sampler_custom(source, ["sampler", 0], ["sigmas", 0])
    result = run(comfy, work, nodes, custom, ksampler(source, steps=round(6 * denoise)))
    assert result.said()[-1].startswith(kind) or result.said()[-2].startswith(kind)
    if denoise == 1:
        assert torch.equal(result.latent("c"), result.latent("k"))


def test_save_table(comfy: ComfyServer, source: Source) -> None:
    """Under a name, then again beside the checkpoint; both are found, neither is lost."""
    work = distill(source, filename="first")
    named = node("DODE_SaveTable", table=["distill", 0], filename="my own v1.2")
    beside = node("DODE_SaveTable", table=["distill", 0], model=source.model)
    result = run(comfy, work, {"named": named, "beside": beside})
    names = [file.relative_to(comfy.models).as_posix() for file in table_files(comfy)]
    assert names == ["checkpoints/nodes.dode.json", "dode/first.dode.json"] + [
        "dode/my own v1.2.dode.json"
    ]
    tables = [dode.load_tables(file)[0].lambdas for file in table_files(comfy)]
    assert torch.equal(tables[0], tables[1]) and torch.equal(tables[1], tables[2])
    assert "saved in dode/my own v1.2.dode.json" in result.text("named")
    assert "saved in checkpoints/nodes.dode.json" in result.text("beside")


def test_save_table_for_another_model(comfy: ComfyServer, source: Source) -> None:
    other = demo()
    save = {"save": node("DODE_SaveTable", table=["distill", 0], model=other.model)}
    result = run(comfy, distill(source), other.nodes, save)
    assert "it was made for nodes.safetensors" in result.text("save")


def test_save_table_says_what_is_wrong(comfy: ComfyServer, source: Source) -> None:
    def save(**inputs: Any) -> Nodes:
        graph = distill(source)
        return {**graph, "save": node("DODE_SaveTable", table=["distill", 0], **inputs)}

    for name in ("../x", "a/b", "C:x", ".hidden"):
        job = comfy.queue(save(filename=name))  # the rest of the graph runs
        (problem,) = job.node_errors["save"]["errors"]
        assert "is not usable; use letters, digits" in problem["details"]
        job.wait()
    with pytest.raises(ComfyError, match="neither a file name nor a model; give a name"):
        run(comfy, save())
    (comfy.models / "dode").mkdir(exist_ok=True)
    (comfy.models / "dode" / "bad.dode.json").write_text("{}")
    with pytest.raises(ComfyError, match="bad.dode.json"):
        run(comfy, save(filename="bad"))
    assert (comfy.models / "dode" / "bad.dode.json").read_text() == "{}"


# KSampler (D-ODE)


def test_all_in_one_without_a_table(comfy: ComfyServer, source: Source) -> None:
    """Falls back and says so in the node; as the stock node would with `dode`."""
    result = run(comfy, all_in_one(source), ksampler(source, scheduler="simple"))
    assert result.text("own").startswith("uncalibrated: no table found, dpmpp_2m runs")
    assert torch.equal(result.latent("own"), result.latent("k"))
    assert not table_files(comfy)


@pytest.mark.parametrize("denoise", [1.0, 0.5])
def test_all_in_one_distills(comfy: ComfyServer, source: Source, denoise: float) -> None:
    """Once; the profile serves the stock node too, and the next run finds it."""
    graph = all_in_one(source, denoise=denoise, no_table="distil one now")
    first = run(comfy, graph)
    assert first.text("own").startswith("profile: 6 steps")
    assert "distilled now" in first.text("own")
    assert "saved in checkpoints/nodes.cfg2-" in first.text("own")
    (file,) = comfy.models.rglob("*.dode-profile")
    written = file.stat().st_mtime_ns
    again = run(comfy, graph, ksampler(source, scheduler="simple", denoise=denoise))
    assert "distilled now" not in again.text("own")
    assert torch.equal(again.latent("own"), again.latent("k"))
    assert torch.equal(again.latent("own"), first.latent("own"))
    assert file.stat().st_mtime_ns == written


def test_all_in_one_is_exact_about_steps(comfy: ComfyServer, source: Source) -> None:
    """A table of other steps serves a run by interpolation, unless one is to be made."""
    run(comfy, distill(source, scheduler="simple"))
    near = run(comfy, all_in_one(source, steps=7)).text("own")
    assert near.startswith("interpolated table: D-DDIM, 6 steps")
    made = run(comfy, all_in_one(source, steps=7, no_table="distil one now")).text("own")
    assert made.startswith("profile: 7 steps") and "distilled now" in made


def test_all_in_one_with_a_table(comfy: ComfyServer, source: Source) -> None:
    """The one that is connected, and the one that rides on the model, go first."""
    work = distill(source, scheduler="simple", filename="connected")
    run(comfy, work)
    run(comfy, distill(source, scheduler="simple", solver="heun"))
    connected = all_in_one(source, "connected", table=["distill", 0])
    riding = replace(source, model=["apply", 0])
    apply = node("DODE_ApplyToModel", model=source.model, table=["distill", 0])
    result = run(comfy, work, connected, {"apply": apply}, all_in_one(riding, "riding"))
    for key in ("connected", "riding"):
        assert result.text(key).startswith("exact table: D-DDIM, 6 steps")
    assert torch.equal(result.latent("connected"), result.latent("riding"))


def test_all_in_one_at_its_edges(comfy: ComfyServer, source: Source) -> None:
    """denoise 0 gives the latent back; cfg 1 needs no negative; cfg 2 does, and says so."""
    nothing = run(comfy, all_in_one(source, denoise=0.0, no_table="distil one now"))
    assert not nothing.latent("own").any() and not table_files(comfy)
    assert run(comfy, all_in_one(source, cfg=1.0, negative=None)).latent("own").isfinite().all()
    with pytest.raises(ComfyError, match="cfg is 2, which needs a negative; connect one"):
        run(comfy, all_in_one(source, negative=None))


# D-ODE Compare


def compare(source: Source, **settings: Any) -> Nodes:
    plan = {"steps": 6, "cfg": 2.0, "peer": "heun", "scheduler": "karras", "seed": 3, **settings}
    given = {name: value for name, value in {**source.parts(), **plan}.items() if value is not None}
    return {**source.nodes, "compare": node("DODE_Compare", **given)}


def test_compare(comfy: ComfyServer) -> None:
    """A labelled column each, with evaluations that were counted; the picture is an output too."""
    source = demo(batch=2)
    run(comfy, distill(source, samples=8, seed=1))
    graph = {
        **compare(source, vae=["demo", 4]),
        "size": node("GetImageSize", image=["compare", 0]),
        "show": node("PreviewAny", source=["compare", 1]),
    }
    result = run(comfy, graph)
    lines = result.text("compare").splitlines()
    assert [line.rpartition(",")[0] for line in lines[:4]] == [
        "teacher, 48 evaluations",
        "plain DDIM, 6 evaluations",
        "D-DDIM, 6 evaluations",
        "heun, 11 evaluations",
    ]
    plain, ours = (float(line.split()[-1]) for line in lines[1:3])
    assert ours < plain and lines[4].startswith("exact table: D-DDIM, 6 steps")
    picture = comfy.image(result.outputs["compare"]["images"][0])
    assert picture.width > 4 * 256 and picture.height > 2 * 256
    progress = [data for kind, data in result.job.events if kind == "progress"]
    values = [data["value"] for data in progress if data["node"] == "compare"]
    assert values == sorted(values) and values[-1] == 48 + 3 * 6
    assert "preview" not in result.job.kinds()  # the front end would keep it beside the picture
    told = [data for kind, data in result.job.events if kind == "dode.progress"]
    assert {data["node"] for data in told} == {"compare"}
    assert any(data["text"].startswith("heun") for data in told)
    assert any(data["picture"].startswith("data:image/jpeg;base64,") for data in told)


def test_compare_without_a_table(comfy: ComfyServer, source: Source) -> None:
    """Any checkpoint and its own VAE; a peer with other noise levels than the scheduler's."""
    graph = compare(source, vae=["load", 2], peer="dpm_2", steps=4, scheduler="simple")
    lines = run(comfy, graph).text("compare").splitlines()
    assert lines[2].startswith("D-ODE, no table, 4 evaluations")
    assert lines[3].startswith("dpm_2, 7 evaluations")
    assert lines[4].startswith("uncalibrated: no table found")


def test_compare_says_what_is_missing(comfy: ComfyServer, source: Source) -> None:
    with pytest.raises(ComfyError, match="cfg is 2, which needs a negative"):
        run(comfy, compare(source, vae=["load", 2], negative=None))


def test_files_are_where_the_report_says(comfy: ComfyServer, source: Source) -> None:
    """D-ODE Save Table's output is the path."""
    save = node("DODE_SaveTable", table=["distill", 0], filename="there")
    show = node("PreviewAny", source=["save", 0])
    result = run(comfy, distill(source), {"save": save, "show": show})
    assert Path(result.outputs["show"]["text"][0]) == comfy.models / "dode" / "there.dode.json"
