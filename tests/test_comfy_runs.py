"""What a day at the server brings: full queues, read-only disks, files that change underneath."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from comfy_graphs import checkpoint, demo, distill, ksampler, node, run, table_files
from hosts.checkpoints import SD3, write_checkpoint
from hosts.comfy import ComfyServer

import dode_core as dode


def test_two_prompts_at_once(comfy: ComfyServer) -> None:
    """Distillations and sampling in one queue: each finds what those before it have left."""
    write_checkpoint(comfy.models, SD3, "queue.safetensors", seed=40)
    source = checkpoint("queue.safetensors", SD3)
    before = len(comfy.log())
    graphs = [
        distill(source, scheduler="simple", steps=4),
        distill(source, scheduler="simple", steps=5),
        ksampler(source, scheduler="simple", steps=5),
        ksampler(source, scheduler="simple", steps=4),
    ]
    jobs = [comfy.queue(graph) for graph in graphs]
    outputs = [job.wait()["outputs"] for job in jobs]
    said = [line for line in comfy.log()[before:].splitlines() if "D-ODE: exact table" in line]
    assert ["5 steps" in line for line in said] == [True, False]
    (file,) = table_files(comfy)
    assert [table.steps for table in dode.load_tables(file)] == [4, 5]
    latents = [comfy.latent(each["k_save"]["latents"][0]) for each in outputs[2:]]
    assert not torch.equal(*latents)


def test_a_queued_sampler_is_not_confused_by_another_model(comfy: ComfyServer) -> None:
    """The checkpoint is looked for in the prompt that runs, not in one that waits."""
    for i in (1, 2):
        write_checkpoint(comfy.models, SD3, f"queue{i}.safetensors", seed=40 + i)
    sources = [checkpoint(f"queue{i}.safetensors", SD3) for i in (1, 2)]
    jobs = [comfy.queue(distill(source, scheduler="simple")) for source in sources]
    before = len(comfy.log())
    jobs += [comfy.queue(ksampler(source, scheduler="simple")) for source in sources]
    for job in jobs:
        job.wait()
    said = [line for line in comfy.log()[before:].splitlines() if "D-ODE: exact table" in line]
    assert [line.partition("(from ")[2] for line in said] == [
        "queue1.dode.json)",
        "queue2.dode.json)",
    ]


@contextmanager
def read_only(folder: Path) -> Iterator[None]:
    """A folder that nothing can be made or changed in."""
    mode = folder.stat().st_mode
    folder.chmod(0o555)
    try:
        yield
    finally:
        folder.chmod(mode)


def test_read_only_checkpoint_folder(comfy: ComfyServer) -> None:
    """The table goes to models/dode, the node says so, and the sampler finds it there."""
    if not comfy.permissions_hold or os.name == "nt":
        pytest.skip("here the server may write to read-only folders")
    folder = comfy.models / "checkpoints" / "library"
    name = write_checkpoint(comfy.models, SD3, "library/model.safetensors", seed=43)
    source = checkpoint(name, SD3)
    with read_only(folder):
        report = run(comfy, distill(source)).text()
        assert "cannot be written (Permission denied), so models/dode was used" in report
        (file,) = table_files(comfy)
        assert file.parent == comfy.models / "dode" and file.name.startswith("model-")
        assert f"saved in dode/{file.name}" in report
        (line,) = run(comfy, ksampler(source)).said()
        assert line.startswith("exact table") and line.endswith(f"(from {file.name})")
    assert os.listdir(folder) == ["model.safetensors"]


def test_read_only_table_file_in_a_folder(comfy: ComfyServer) -> None:
    """A table that is there in a read-only folder is used, and stays as it is."""
    if not comfy.permissions_hold or os.name == "nt":
        pytest.skip("here the server may write to read-only folders")
    folder = comfy.models / "checkpoints" / "shared"
    source = checkpoint(
        write_checkpoint(comfy.models, SD3, "shared/model.safetensors", seed=44), SD3
    )
    run(comfy, distill(source))
    (file,) = table_files(comfy)
    with read_only(folder):
        (line,) = run(comfy, ksampler(source)).said()
        assert line.startswith("exact table") and line.endswith("(from model.dode.json)")
        run(comfy, distill(source, steps=5))
    assert [len(dode.load_tables(each)) for each in table_files(comfy)] == [1, 1]
    assert table_files(comfy)[0] == file


def test_replaced_checkpoint(comfy: ComfyServer) -> None:
    """Another model under the same name: its old table is used, but not without a word."""
    name = write_checkpoint(comfy.models, SD3, "replaced.safetensors", seed=45)
    source = checkpoint(name, SD3)
    run(comfy, distill(source))
    write_checkpoint(comfy.models, SD3, name, seed=46)
    free = comfy.client.post("/free", json={"unload_models": True, "free_memory": True})
    free.raise_for_status()
    run(comfy, {"note": node("PreviewAny", source="the server frees its memory after a prompt")})
    result = run(comfy, ksampler(source, seed=8))
    (line,) = result.said()
    assert line.startswith("exact") and line.endswith(
        "(from replaced.dode.json, made for another checkpoint: distill it again)"
    )
    report = run(comfy, distill(source)).text()
    assert "saved in checkpoints/replaced.dode.json" in report
    (line,) = run(comfy, ksampler(source, seed=9)).said()
    assert line.startswith("exact") and line.endswith("(from replaced.dode.json)")


def test_interrupt_while_comparing(comfy: ComfyServer) -> None:
    """Within a model call, whichever column is at work."""
    from hosts.comfy import ComfyInterrupted

    source = demo()
    slow = {"slow": node("TestCountCalls", model=source.model, name="compare", delay=0.05)}
    inputs = {**source.parts(), "model": ["slow", 0], "vae": ["demo", 4]}
    graph = node("DODE_Compare", **inputs, steps=6, cfg=2.0, peer="euler", seed=12)
    job = comfy.queue({**source.nodes, **slow, "compare": graph})
    job.until(lambda kind, data: kind == "progress" and data["value"] >= 5)
    comfy.interrupt()
    with pytest.raises(ComfyInterrupted):
        job.wait(timeout=20)
