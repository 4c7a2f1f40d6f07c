"""Loading the pack and its tables, inside this process: what is broken costs itself only."""

from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType

import pytest
from comfy_pack import NAME, identity, load_nodes, part, table

pytestmark = pytest.mark.usefixtures("pack")


def test_a_broken_node_file_costs_its_own_nodes_only(
    pack: ModuleType, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setitem(sys.modules, f"{NAME}.nodes.distill_node", None)
    found = [node.__name__ for node in load_nodes(pack)]
    assert len(found) == 8 and "Distill" not in found
    assert "nodes/distill_node.py failed to load" in caplog.text and "Traceback" in caplog.text


def test_a_faulty_schema_costs_its_file_only(
    pack: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    node = part("nodes.sampler_node").Sampler
    monkeypatch.setattr(node, "GET_SCHEMA", classmethod(lambda cls: 1 / 0))
    assert "Sampler" not in [found.__name__ for found in load_nodes(pack)]


def test_nodes_load_without_the_sampler_menu(
    pack: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(part("nodes.sampling"), "register", lambda: 1 / 0)
    assert len(load_nodes(pack)) == 9


def test_menu_entry_is_added_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also when loaded twice, and when another pack has bound a new list."""
    import comfy.k_diffusion.sampling
    import comfy.samplers

    rebound = ["euler"]
    monkeypatch.setattr(comfy.samplers, "SAMPLER_NAMES", rebound)
    for _ in range(2):
        part("nodes.sampling").register()
    assert rebound == ["euler", "dode"]
    assert comfy.samplers.KSampler.SAMPLERS.count("dode") == 1
    assert comfy.k_diffusion.sampling.sample_dode is part("nodes.sampling").sample_dode
    assert "dode" not in comfy.samplers.KSampler.DISCARD_PENULTIMATE_SIGMA_SAMPLERS


def test_nothing_heavy_is_imported(pack: ModuleType) -> None:
    assert f"{NAME}.dode_core.report" not in sys.modules


# Where tables go


def test_read_only_folder(models: Path) -> None:
    """A checkpoint folder that cannot be written: models/dode, and why."""
    store = part("nodes.store")
    (models / "a file").touch()
    who = identity(models / "a file" / "model.safetensors")
    file, note = store.save(table(), who, store.target(who))
    assert file == models / "dode" / "model-11111111.dode.json"
    assert "cannot be written" in note and "models/dode was used" in note
    assert len(store.tables_in(file)) == 1


def test_nowhere_to_write(models: Path) -> None:
    store = part("nodes.store")
    (models / "dode").rmdir()
    (models / "dode").touch()
    who = identity(models / "dode" / "model.safetensors")
    with pytest.raises(part("dode_core.errors").TableError, match="choose another folder"):
        store.save(table(), who, store.target(who))


def test_names_stay_inside(models: Path) -> None:
    store, who = part("nodes.store"), identity()
    assert store.target(who, " My table v1.2 ") == models / "dode" / "My table v1.2.dode.json"
    assert store.target(who, "x.dode.json") == models / "dode" / "x.dode.json"
    assert store.target(who) == models / "dode" / "Model-11111111.dode.json"
    for name in ("../x", "a/b", "a\\b", "/etc/x", ".hidden", "C:x", "x" * 200, "a\0b", "~/x"):
        with pytest.raises(part("dode_core.errors").TableError, match="is not usable"):
            store.target(who, name)


def test_listing_sees_changes(models: Path) -> None:
    store = part("nodes.store")
    who = identity()
    assert store.listing() == {}
    deep = models / "checkpoints" / "sdxl" / "deep"
    deep.mkdir(parents=True)
    (deep / "loop").symlink_to(models / "checkpoints")
    (deep / "notes.json").touch()
    store.save(table(), who, deep / "a.dode.json")
    store.save(table(), who, models / "dode" / "b.dode.json")
    assert list(store.listing()) == ["checkpoints/sdxl/deep/a.dode.json", "dode/b.dode.json"]
    assert store.shown(deep / "a.dode.json") == "checkpoints/sdxl/deep/a.dode.json"
    (deep / "a.dode.json").unlink()
    assert list(store.listing()) == ["dode/b.dode.json"]


def test_a_bad_file_hides_no_other(models: Path, caplog: pytest.LogCaptureFixture) -> None:
    store, who = part("nodes.store"), identity()
    (models / "dode" / "bad.dode.json").write_text("{")
    mine = table(model_fingerprint=who.fingerprint)
    store.save(mine, who, models / "dode" / "good.dode.json")
    store.save(table(), who, models / "dode" / "of nobody.dode.json")
    assert [each.file.name for each in store.find(who)] == ["good.dode.json"]
    assert "bad.dode.json: not valid JSON" in caplog.text
