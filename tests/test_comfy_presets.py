"""Presets in ComfyUI: the shipped ones are offered, one for the loaded checkpoint is used."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from comfy_graphs import demo, ksampler, node, rms, run, sampler_custom
from comfy_pack import part, patcher
from hosts.comfy import ComfyServer


@pytest.fixture
def shipped(comfy: ComfyServer) -> Iterator[ComfyServer]:
    """The server with the presets that ship."""
    comfy.show_presets(True)
    yield comfy
    comfy.show_presets(False)


@pytest.mark.parametrize(("variant", "scheduler"), [("EDM", "karras"), ("flow", "simple")])
def test_the_demo_model_has_its_presets(shipped: ComfyServer, variant: str, scheduler: str) -> None:
    """Found by the sampler itself, and nearer to many steps than what would run without."""
    source, plan = demo(batch=4, variant=variant), {"cfg": 1.0, "scheduler": scheduler}
    result = run(
        shipped,
        ksampler(source, "ours", steps=6, **plan),
        ksampler(source, "peer", "dpmpp_2m", steps=6, **plan),
        ksampler(source, "goal", "heun", steps=60, **plan),
    )
    (said,) = result.said()
    assert said.startswith("carried over table: D-DDIM, 6 steps") and "from emoji_" in said
    goal = result.latent("goal")
    assert rms(result.latent("ours"), goal) < 0.8 * rms(result.latent("peer"), goal)


def test_shipped_presets_are_offered_and_work(shipped: ComfyServer) -> None:
    """Load Table lists them; on the demo model one is nearer to the teacher than plain DDIM."""
    offered = shipped.object_info("DODE_LoadTable")["input"]["required"]["file"][1]["options"]
    assert {"presets/emoji_edm.dode.json", "presets/emoji_flow.dode.json"} <= set(offered)
    source = demo(batch=4)
    load = {
        "load": node("DODE_LoadTable", file="presets/emoji_edm.dode.json", solver="ddim", steps=6),
        "ours": node("DODE_Sampler", table=["load", 0]),
        "plain": node("KSamplerSelect", sampler_name="euler"),
        "fine": node("KarrasScheduler", steps=40, sigma_max=80.0, sigma_min=0.03, rho=7.0),
        "heun": node("KSamplerSelect", sampler_name="heun"),
    }
    graphs = [
        sampler_custom(source, [sampler, 0], [sigmas, slot], key=key, cfg=1.0)
        for key, sampler, sigmas, slot in (
            ("a", "ours", "load", 1),
            ("b", "plain", "load", 1),
            ("t", "heun", "fine", 0),
        )
    ]
    result = run(shipped, load, *graphs)
    ours, plain, teacher = (result.latent(key) for key in "abt")
    assert rms(ours, teacher) < 0.8 * rms(plain, teacher)


def test_a_preset_for_the_loaded_checkpoint_is_found(models: Path, tmp_path: Path) -> None:
    """By the fingerprint in the index, among the user's own tables."""
    made = part("dode_core.tables.table").LambdaTable(
        "ddim",
        torch.tensor([1.0, 0.5, 0.0]),
        torch.tensor([[0.1], [0.2]]),
        "flow",
        errors=part("dode_core.tables.table").Errors(0.2, 0.1, 0.2, 0.1),
        cfg=4.0,
        seed=0,
        latent_shape=(16, 8, 8),
        samples_fit=12,
        samples_holdout=4,
    )
    own = part("nodes.host.models").identify(patcher(models))
    other = part("nodes.host.models").identify(patcher(models, seed=1))
    made = replace(made, model_name="tiny", model_fingerprint=own.fingerprint)
    made.save(tmp_path / "tiny.dode.json")
    (models / "presets").mkdir()
    part("dode_core.tables.presets").add_preset(models / "presets", tmp_path / "tiny.dode.json")
    store = part("nodes.host.store")
    assert list(store.listing()) == ["presets/tiny.dode.json"]
    (found,) = store.library().find(own)
    assert found.table.model_name == "tiny" and found.file == models / "presets" / "tiny.dode.json"
    assert not store.library().find(other)
    with pytest.raises(part("dode_core.errors").TableError):
        store.library().find_file("presets/../tiny.dode.json")
