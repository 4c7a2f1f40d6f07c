"""What goes wrong on a real server: bad inputs say what to do, interrupts stop at once."""

from __future__ import annotations

import json
from typing import Any

import pytest
import torch
from comfy_graphs import (
    Nodes,
    Source,
    demo,
    distill,
    ksampler,
    node,
    run,
    sampler_custom,
    table_files,
)
from hosts.comfy import ComfyError, ComfyInterrupted, ComfyServer

BAD_SETTINGS: list[tuple[dict[str, Any], str]] = [
    ({"solver": "eulr"}, "Solver 'eulr' is unknown; use one of ddim, ipndm"),
    ({"scheduler": "karas"}, "Scheduler 'karas' is unknown; use one of simple,"),
    ({"teacher": "none"}, "Solver 'none' is unknown"),
    ({"samples": 1}, "1 sample cannot be fitted and held out at once .holdout is 0.25.; use 2"),
    ({"negative": None}, "cfg is 2, which needs a negative; connect one, or use cfg 1"),
    ({"filename": "../escape"}, "File name '../escape' is not usable; use letters"),
    ({"filename": "a/b"}, "File name 'a/b' is not usable"),
]


@pytest.mark.parametrize(("settings", "message"), BAD_SETTINGS)
def test_distill_says_what_is_wrong(
    comfy: ComfyServer, settings: dict[str, Any], message: str
) -> None:
    with pytest.raises(ComfyError, match=message):
        run(comfy, distill(demo(), **settings))
    assert not table_files(comfy)


def basic(source: Source, first: int) -> Nodes:
    """Six steps of a schedule, cut after ``first``."""
    schedule = node("BasicScheduler", model=source.model, scheduler="karras", steps=6, denoise=1.0)
    return {
        "schedule": schedule,
        "split": node("SplitSigmas", sigmas=["schedule", 0], step=first),
    }


def test_one_sigma(comfy: ComfyServer) -> None:
    """Too few to distill; to sample, nothing to do."""
    source = demo()
    graph = {**distill(source), **basic(source, 0)}
    graph["distill"]["inputs"]["sigmas"] = ["split", 0]
    with pytest.raises(ComfyError, match="has 1 sigma, which makes no step; give at least 2"):
        run(comfy, graph)

    own = {"sampler": node("DODE_Sampler"), "euler": node("KSamplerSelect", sampler_name="euler")}
    mine = sampler_custom(source, ["sampler", 0], ["split", 0])
    plain = sampler_custom(source, ["euler", 0], ["split", 0], "plain")
    result = run(comfy, own, basic(source, 0), mine, plain)
    assert torch.equal(result.latent("c"), result.latent("plain"))


def test_sigmas_instead_of_a_scheduler(comfy: ComfyServer) -> None:
    """The first half of a schedule can be distilled by itself."""
    source = demo()
    graph = {**distill(source, steps=50), **basic(source, 3)}
    graph["distill"]["inputs"]["sigmas"] = ["split", 0]
    assert "\nD-DDIM, 3 steps" in run(comfy, graph).text()
    sampler = {"sampler": node("DODE_Sampler")}
    result = run(
        comfy, sampler, basic(source, 3), sampler_custom(source, ["sampler", 0], ["split", 0])
    )
    assert result.said()[0].startswith("exact")


def test_sampler_and_table_must_agree(comfy: ComfyServer) -> None:
    source = demo()
    work = distill(source)
    sampler = {"sampler": node("DODE_Sampler", table=["distill", 0], solver="heun")}
    custom = sampler_custom(source, ["sampler", 0], ["distill", 1])
    with pytest.raises(ComfyError, match="The table is for ddim, but heun was chosen"):
        run(comfy, work, sampler, custom)
    sampler["sampler"]["inputs"]["solver"] = "nope"
    with pytest.raises(ComfyError, match="Solver 'nope' is unknown"):
        run(comfy, work, sampler, custom)


def test_solver_without_a_table(comfy: ComfyServer) -> None:
    """The search keeps to a solver that is named."""
    source = demo()
    work = distill(source)
    sampler = {"sampler": node("DODE_Sampler", solver="heun")}
    run(comfy, work)
    (line,) = run(
        comfy, work, sampler, sampler_custom(source, ["sampler", 0], ["distill", 1])
    ).said()
    assert line.startswith("uncalibrated: no table found, heun runs")


def test_new_tables_are_noticed(comfy: ComfyServer) -> None:
    """ComfyUI keeps results of equal inputs, but D-ODE Sampler looks at the tables there are."""
    source = demo()
    graph = {**basic(source, 6), "sampler": node("DODE_Sampler")}
    graph |= sampler_custom(source, ["sampler", 0], ["schedule", 0])
    assert run(comfy, graph).said()[0].startswith("uncalibrated")
    run(comfy, distill(source))
    assert run(comfy, graph).said()[0].startswith("exact")
    assert run(comfy, graph).said() == []


def test_missing_table_file(comfy: ComfyServer) -> None:
    for file in ("checkpoints/none.dode.json", "../../etc/passwd", "(no table files yet)"):
        graph = {
            "load": node("DODE_LoadTable", file=file),
            "show": node("PreviewAny", source=["load", 1]),
        }
        with pytest.raises(ComfyError, match="There is no table file '.*'; press R to refresh"):
            run(comfy, graph)


def test_demo_model_checks_its_menus(comfy: ComfyServer) -> None:
    with pytest.raises(ComfyError, match="Subject 'cars' is unknown; use one of smileys"):
        run(comfy, ksampler(demo(subject="cars")))
    with pytest.raises(ComfyError, match="Variant 'SDE' is not in this pack; use one of EDM"):
        run(comfy, ksampler(demo(variant="SDE")))


def counted(source: Source, name: str, delay: float) -> Source:
    """The same model, slow, its calls counted in a file."""
    count = node("TestCountCalls", model=source.model, name=name, delay=delay)
    rest = (source.positive, source.negative, source.latent)
    return Source({**source.nodes, "count": count}, ["count", 0], *rest)


def calls(comfy: ComfyServer, name: str) -> int:
    """How many calls were made; the file is empty for the moment that it is written."""
    text = ""
    while not text:
        text = (comfy.base / "output" / f"{name}.json").read_text()
    return json.loads(text)["calls"]


def interrupted_after(comfy: ComfyServer, graph: Nodes, name: str, progress: int) -> int:
    """Interrupt a run at its ``progress``-th progress event; the calls begun from then on."""
    job = comfy.queue(graph)

    def reached(kind: str, data: Any) -> bool:
        return kind == "progress" and data["value"] >= progress

    job.until(reached)
    comfy.interrupt()
    before = calls(comfy, name)
    with pytest.raises(ComfyInterrupted):
        job.wait(timeout=20)
    return calls(comfy, name) - before


@pytest.mark.parametrize("progress", [2, 14, 28], ids=["teacher", "plain", "student"])
def test_interrupt_while_distilling(comfy: ComfyServer, progress: int) -> None:
    """Within one model call, and without a file."""
    name = f"distill-{progress}"
    graph = distill(counted(demo(), name, 0.1), steps=6, samples=4, batch_size=4)
    assert interrupted_after(comfy, graph, name, progress) <= 1
    assert not table_files(comfy)
    assert "out of memory" not in comfy.log()


def test_interrupt_touches_no_file(comfy: ComfyServer) -> None:
    """The tables that were there are as they were, to the byte and the second."""
    run(comfy, distill(demo(), steps=4))
    (file,) = table_files(comfy)
    before = file.read_bytes(), file.stat().st_mtime_ns
    graph = distill(counted(demo(), "again", 0.05), steps=4, re_distill=True)
    interrupted_after(comfy, graph, "again", 5)
    assert [file] == table_files(comfy)
    assert (file.read_bytes(), file.stat().st_mtime_ns) == before
    assert not [each for each in file.parent.iterdir() if each.suffix in (".tmp", ".lock")]


@pytest.mark.parametrize("solver", ["auto", "heun"])
def test_interrupt_while_sampling(comfy: ComfyServer, solver: str) -> None:
    name = f"sample-{solver}"
    source = counted(demo(), name, 0.1)
    graph = {"sampler": node("DODE_Sampler", solver=solver), **basic(source, 6)}
    graph |= sampler_custom(source, ["sampler", 0], ["schedule", 0])
    assert interrupted_after(comfy, graph, name, 2) <= 1
