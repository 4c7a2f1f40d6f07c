"""Checkpoints that the stock loaders read: where tables go, and how they are found again."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from comfy_graphs import (
    checkpoint,
    distill,
    ksampler,
    node,
    only_table,
    run,
    sampler_custom,
    saved,
    table_files,
)
from hosts.checkpoints import SD2_V, SD3, SD15, TinyModel, write_checkpoint, write_diffusion_model
from hosts.comfy import ComfyError, ComfyServer
from safetensors.torch import save_file

import dode_core as dode


@pytest.fixture
def models(comfy: ComfyServer) -> Path:
    """The model folders, empty; names are not used twice, for ComfyUI keeps what it loaded."""
    for folder in ("checkpoints", "diffusion_models"):
        for file in (comfy.models / folder).glob("*.safetensors"):
            file.unlink()
    return comfy.models


@pytest.mark.parametrize(
    ("tiny", "kind"), [(SD3, "flow"), (SD15, "ve"), (SD2_V, "ve")], ids=["SD3", "SD15", "SD2_V"]
)
def test_sidecar(comfy: ComfyServer, models: Path, tiny: TinyModel, kind: str) -> None:
    """Flow, EPS and V_PREDICTION: beside the checkpoint, and found from there by KSampler."""
    name = write_checkpoint(models, tiny, f"sidecar {kind} {tiny.context}.v2.safetensors")
    source = checkpoint(name, tiny)
    work = distill(source, scheduler="normal", steps=4, samples=2)
    report = run(comfy, work).text()

    table = only_table(comfy)
    assert table_files(comfy) == [models / "checkpoints" / f"{name[:-12]}.dode.json"]
    assert f"saved in checkpoints/{name[:-12]}.dode.json" in report
    assert table.parametrization == kind and table.model_name == name
    assert table.model_fingerprint.startswith("weights:") and " file:" in table.model_fingerprint
    assert table.latent_shape == (tiny.channels, 8, 8)

    result = run(comfy, ksampler(source, scheduler="normal", steps=4))
    (line,) = result.said()
    assert line.startswith("exact table: D-DDIM, 4 steps, cfg 2")
    assert line.endswith(f"(from {name[:-12]}.dode.json)")
    assert result.latent("k").isfinite().all()


def test_one_file_for_all_tables(comfy: ComfyServer, models: Path) -> None:
    source = checkpoint(write_checkpoint(models, SD3, "many.safetensors", seed=1), SD3)
    plans = [("ddim", 4, 2.0), ("ddim", 6, 2.0), ("ddim", 4, 3.0), ("heun", 4, 2.0)]
    for solver, steps, cfg in plans:
        run(comfy, distill(source, solver=solver, steps=steps, cfg=cfg, samples=2))
    (file,) = table_files(comfy)
    tables = dode.load_tables(file)
    assert [(table.solver, table.steps, table.cfg) for table in tables] == plans
    (line,) = run(comfy, ksampler(source, steps=6)).said()
    assert line.startswith("exact table: D-DDIM, 6 steps, cfg 2")
    (line,) = run(comfy, ksampler(source, steps=4, cfg=3.1)).said()
    # What it was measured to be worth at cfg 3 is not said of another cfg.
    assert line.startswith("exact table: D-DDIM, 4 steps, cfg 3; it was made at cfg 3, this run")


def test_unet_loader_and_load_table(comfy: ComfyServer, models: Path) -> None:
    """A new file is in the list without a restart, and loads as what was saved."""
    name = write_diffusion_model(models, SD3, "unet.safetensors", seed=2)
    source = checkpoint(name, SD3, "UNETLoader")
    listed = "diffusion_models/unet.dode.json"
    assert listed not in options(comfy)
    run(comfy, distill(source, steps=5))
    assert table_files(comfy) == [models / "diffusion_models" / "unet.dode.json"]
    assert listed in options(comfy)

    load = {
        "load_table": node("DODE_LoadTable", file=listed),
        "sampler": node("DODE_Sampler", table=["load_table", 0]),
    }
    custom = sampler_custom(source, ["sampler", 0], ["load_table", 1])
    result = run(comfy, load, custom, ksampler(source, steps=5))
    assert [line.split(":")[0] for line in result.said()] == ["exact table"] * 2
    assert torch.equal(result.latent("c"), result.latent("k"))
    assert only_table(comfy).describe() in result.text("load_table")


def test_load_table_chooses(comfy: ComfyServer, models: Path) -> None:
    """Solver, steps and number pick one of several; the file's change is noticed."""
    source = checkpoint(write_checkpoint(models, SD3, "choose.safetensors", seed=3), SD3)
    for solver, steps in (("ddim", 4), ("ddim", 5), ("ipndm", 5)):
        run(comfy, distill(source, solver=solver, steps=steps, samples=2))
    file = "checkpoints/choose.dode.json"

    def loaded(**choice: object) -> str:
        shown = {
            "load_table": node("DODE_LoadTable", file=file, **choice),
            "show": node("PreviewAny", source=["load_table", 1]),
        }
        return run(comfy, shown).text("load_table").split(",")[0:2].__str__()

    assert loaded() == str(["D-PNDM", " 5 steps"])
    assert loaded(solver="ddim") == str(["D-DDIM", " 5 steps"])
    assert loaded(solver="ddim", number=2) == str(["D-DDIM", " 4 steps"])
    assert loaded(steps=4) == str(["D-DDIM", " 4 steps"])
    with pytest.raises(ComfyError, match="has no number 1 of solver heun, any steps; it holds"):
        loaded(solver="heun")
    run(comfy, distill(source, solver="heun", steps=4, samples=2))
    assert loaded() == str(["D-EDM", " 4 steps"])


def test_renamed_checkpoint_keeps_its_tables(comfy: ComfyServer, models: Path) -> None:
    name = write_checkpoint(models, SD3, "before.safetensors", seed=4)
    run(comfy, distill(checkpoint(name, SD3)))
    folder = models / "checkpoints"
    (folder / name).rename(folder / "after.safetensors")
    (line,) = run(comfy, ksampler(checkpoint("after.safetensors", SD3))).said()
    assert line.startswith("exact table") and line.endswith("(from before.dode.json)")


def test_tables_of_another_checkpoint(comfy: ComfyServer, models: Path) -> None:
    """Beside a checkpoint: used, and said. Elsewhere: not for this model."""
    folder = models / "checkpoints"
    run(comfy, distill(checkpoint(write_checkpoint(models, SD3, "one.safetensors", 5), SD3)))
    other = checkpoint(write_checkpoint(models, SD3, "two.safetensors", 6), SD3)
    (line,) = run(comfy, ksampler(other)).said()
    assert line.startswith("uncalibrated: no table found")
    shutil.copy(folder / "one.dode.json", folder / "two.dode.json")
    (line,) = run(comfy, ksampler(other, seed=6)).said()
    assert line.startswith("exact") and line.endswith("another checkpoint: distill it again)")


def test_guiders(comfy: ComfyServer, models: Path) -> None:
    """SamplerCustomAdvanced: the checkpoint and the cfg are found behind a GUIDER."""
    source = checkpoint(write_checkpoint(models, SD3, "guided.safetensors", seed=8), SD3)
    for cfg in (1.0, 3.0):
        run(comfy, distill(source, cfg=cfg))
    text = {"model": source.model, "positive": source.positive, "negative": source.negative}
    nodes = {
        "basic": node("BasicGuider", model=source.model, conditioning=source.positive),
        "cfg": node("CFGGuider", **text, cfg=3.0),
        "noise": node("RandomNoise", noise_seed=5),
        "sampler": node("KSamplerSelect", sampler_name="dode"),
        "sigmas": node(
            "BasicScheduler", model=source.model, scheduler="karras", steps=6, denoise=1.0
        ),
    }
    links = {"noise": ["noise", 0], "sampler": ["sampler", 0], "sigmas": ["sigmas", 0]}
    for guider, cfg in (("basic", 1), ("cfg", 3)):
        sample = node(
            "SamplerCustomAdvanced", **links, guider=[guider, 0], latent_image=source.latent
        )
        (line,) = run(comfy, source.nodes, nodes, {"s": sample, **saved("s")}).said()
        assert line.startswith(f"exact table: D-DDIM, 6 steps, cfg {cfg},")
        assert line.endswith("(from guided.dode.json)")


def test_lora(comfy: ComfyServer, models: Path) -> None:
    """A table made without it is used, and that is said; its own table is used without a word."""
    source = checkpoint(write_checkpoint(models, SD3, "lora.safetensors", seed=9), SD3)
    key = "diffusion_model.joint_blocks.0.x_block.mlp.fc1"
    parts = {
        f"{key}.lora_up.weight": torch.ones(256, 2),
        f"{key}.lora_down.weight": torch.ones(2, 64),
    }
    (models / "loras").mkdir(exist_ok=True)
    save_file(parts, models / "loras" / "tiny.safetensors")
    load = node(
        "LoraLoaderModelOnly", model=source.model, lora_name="tiny.safetensors", strength_model=0.1
    )
    with_lora = replace(source, nodes={**source.nodes, "lora": load}, model=["lora", 0])

    run(comfy, distill(source))
    (line,) = run(comfy, ksampler(with_lora)).said()
    assert line.startswith("exact") and line.endswith("(from lora.dode.json, made without LoRAs)")
    run(comfy, distill(with_lora))
    (line,) = run(comfy, ksampler(with_lora, seed=6)).said()
    assert line.startswith("exact") and line.endswith("(from lora.dode.json)")


def test_garbage_beside_a_checkpoint(comfy: ComfyServer, models: Path) -> None:
    """Said where it matters, never overwritten, and others stay usable."""
    name = write_checkpoint(models, SD3, "garbage.safetensors", seed=7)
    source = checkpoint(name, SD3)
    file = models / "checkpoints" / "garbage.dode.json"
    file.write_text('{"format": "something else"}')
    reason = "garbage.dode.json: it is no table file"

    with pytest.raises(ComfyError, match=reason):
        run(comfy, distill(source))
    load = {"load_table": node("DODE_LoadTable", file="checkpoints/garbage.dode.json")}
    sampler = {"sampler": node("DODE_Sampler", table=["load_table", 0])}
    custom = sampler_custom(source, ["sampler", 0], ["load_table", 1])
    with pytest.raises(ComfyError, match=reason):
        run(comfy, load, sampler, custom)

    result = run(comfy, ksampler(source))
    assert [line.split()[0] for line in result.said()] == [file.name + ":", "uncalibrated:"]
    run(comfy, distill(source, filename="own name"))
    (line,) = run(comfy, ksampler(source, seed=6)).said()[1:]
    assert line.startswith("exact") and line.endswith("(from own name.dode.json)")
    assert file.read_text() == '{"format": "something else"}'


def options(comfy: ComfyServer) -> list[str]:
    """The files that D-ODE Load Table offers."""
    return comfy.object_info("DODE_LoadTable")["input"]["required"]["file"][1]["options"]
