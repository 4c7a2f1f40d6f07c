"""Which checkpoint a MODEL is: weights, files, and the way back through the workflow."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from comfy_pack import part, patcher
from hosts.checkpoints import SD3, random_weights, write_checkpoint

pytestmark = pytest.mark.usefixtures("pack")


def test_weights_tell_models_apart(tmp_path: Path) -> None:
    """Same weights, same mark, with a LoRA loaded or not; other weights, another."""
    models = part("nodes.host.models")
    model, again, other = patcher(tmp_path), patcher(tmp_path), patcher(tmp_path, 1)
    plain = models.identify(model)
    assert plain.same_model(models.identify(again).fingerprint)
    assert not plain.same_model(models.identify(other).fingerprint)
    assert "patches:" not in plain.fingerprint and not plain.same_model("")

    lora = again.clone()
    weights = random_weights(SD3.shapes(), torch.float32, 9)
    lora.add_patches({f"diffusion_model.{k}": (v,) for k, v in weights.items()}, 0.5)
    part("nodes.host.weights")._known.clear()
    lora.patch_model()
    assert lora.backup
    with_lora = models.identify(lora)
    lora.unpatch_model()
    assert plain.same_model(with_lora.fingerprint)
    assert plain.compare(with_lora.fingerprint).note == "made with LoRAs"
    assert part("nodes.host.models").parametrization(model) == "flow"


def test_file_fingerprint(tmp_path: Path) -> None:
    mark = part("dode_core.tables.identity").file_fingerprint
    one = tmp_path / "checkpoints" / write_checkpoint(tmp_path, SD3, "one.safetensors", 1)
    two = tmp_path / "checkpoints" / write_checkpoint(tmp_path, SD3, "two.safetensors", 2)
    copy = tmp_path / "copy.safetensors"
    copy.write_bytes(one.read_bytes())
    assert mark(one) == mark(copy) != mark(two)
    assert mark(tmp_path / "none") == ""
    (tmp_path / "empty").touch()
    assert mark(tmp_path / "empty")


def test_path_on_a_model_of_2026(tmp_path: Path) -> None:
    found = part("nodes.host.origin").path_on_model
    file = tmp_path / "model.safetensors"
    file.touch()
    assert found(SimpleNamespace(cached_patcher_init=(print, (str(file), None)))) == file
    for odd in (None, (), (print, ()), (print, (None,)), (print, (str(tmp_path / "gone"),))):
        assert found(SimpleNamespace(cached_patcher_init=odd)) is None
    assert found(SimpleNamespace()) is None


LOADER = {"class_type": "CheckpointLoaderSimple", "inputs": {"ckpt_name": "a.safetensors"}}
UNET = {"class_type": "UNETLoader", "inputs": {"unet_name": "u.safetensors"}}


def lora(source: str) -> dict[str, Any]:
    return {"class_type": "LoraLoader", "inputs": {"model": [source, 0], "clip": ["c", 1]}}


def merge(one: str, two: str) -> dict[str, Any]:
    inputs = {"model1": [one, 0], "model2": [two, 0], "ratio": 0.5}
    return {"class_type": "ModelMergeSimple", "inputs": inputs}


def sampler(source: str) -> dict[str, Any]:
    return {"class_type": "KSampler", "inputs": {"model": [source, 0], "latent_image": ["z", 0]}}


WALKS = [
    ({"k": sampler("a"), "a": LOADER}, "a"),
    ({"k": sampler("l"), "l": lora("a"), "a": LOADER, "c": UNET}, "a"),
    ({"k": sampler("u"), "u": UNET, "a": LOADER}, "u"),
    ({"k": sampler("m"), "m": merge("a", "u"), "a": LOADER, "u": UNET}, None),
    ({"k": sampler("m"), "m": merge("a", "a"), "a": LOADER}, "a"),
    ({"k": sampler("l"), "l": lora("l")}, None),  # a loop
    ({"k": sampler("gone")}, None),
    ({}, None),
]


@pytest.mark.parametrize(("prompt", "expected"), WALKS)
def test_path_in_prompt(
    models: Path,
    monkeypatch: pytest.MonkeyPatch,
    prompt: dict[str, Any],
    expected: str | None,
) -> None:
    import nodes

    for name in ("checkpoints/a", "diffusion_models/u"):
        (models / f"{name}.safetensors").touch()
    monkeypatch.setitem(nodes.NODE_CLASS_MAPPINGS, "ModelMergeSimple", nodes.UNETLoader)
    found = part("nodes.host.origin").path_in_prompt(prompt, "k")
    assert (found.stem if found else None) == expected
