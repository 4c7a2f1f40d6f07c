"""Loading the pack and its tables, inside this process: what is broken costs itself only."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from comfy_pack import NAME, identity, load_nodes, part, table

ROOT = Path(__file__).resolve().parent.parent

pytestmark = pytest.mark.usefixtures("pack")


NODE_FILES = {
    "distill_node": ["Distill"],
    "prompts_node": ["Prompts"],
    "ksampler_node": ["KSampler"],
    "sampler_node": ["Sampler"],
    "scheduler_node": ["Scheduler"],
    "load_table_node": ["LoadTable"],
    "save_table_node": ["SaveTable"],
    "apply_node": ["ApplyToModel"],
    "compare_node": ["Compare"],
    "settings_node": ["Settings"],
    "demo_node": ["DemoModel"],
}


@pytest.mark.parametrize("broken", NODE_FILES)
def test_a_broken_node_file_costs_its_own_nodes_only(
    pack: ModuleType,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    broken: str,
) -> None:
    assert tuple(NODE_FILES) == part("nodes").NODE_FILES
    monkeypatch.setitem(sys.modules, f"{NAME}.nodes.{broken}", None)
    found = [node.__name__ for node in load_nodes(pack)]
    kept = [name for file, names in NODE_FILES.items() if file != broken for name in names]
    assert found == kept
    assert f"nodes/{broken}.py failed to load" in caplog.text and "Traceback" in caplog.text


def test_the_sampler_needs_no_node() -> None:
    """What only nodes use may fail, and the menus still have `dode`: in a fresh process."""
    gone = ["host.common", "host.live", "host.distill_report", "host.picture", *NODE_FILES]
    found = fresh(f"for name in {gone}: sys.modules[f'{{NAME}}.nodes.{{name}}'] = None", "heun")
    assert found["menu"] == ["dode", "dode_heun"]


def fresh(before: str, samplers: str = "") -> dict[str, Any]:
    """What a new process has after it has loaded the pack as ComfyUI does."""
    program = f"""
import json, os, sys
from pathlib import Path
os.environ["DODE_SAMPLERS"] = {samplers!r}
sys.path[:0] = {[str(ROOT / "tests"), str(ROOT)]!r}
sys.argv = ["main.py", "--cpu"]
from comfy_pack import NAME, load_pack
from hosts.install import comfy_root
sys.path.insert(0, str(comfy_root()))
import comfy.options
comfy.options.enable_args_parsing()
import utils.extra_config, server, nodes, latent_preview, comfy_api.latest
{before}
there = set(sys.modules)
load_pack(comfy_root())
import comfy.samplers
menu = [name for name in comfy.samplers.KSampler.SAMPLERS if name.startswith("dode")]
print(json.dumps({{"menu": menu, "new": sorted(set(sys.modules) - there)}}))
"""
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return json.loads(done.stdout.splitlines()[-1])


def test_nothing_heavy_is_imported() -> None:
    """Only what is this pack's own, beside what ComfyUI has loaded."""
    found = fresh("")
    others = {name for name in found["new"] if not name.startswith(NAME)}
    assert {name for name in others if name.split(".")[0] not in ("utils", "app")} == set()
    for name in ("dode_core.report", "dode_core.distillation"):
        assert f"{NAME}.{name}" not in found["new"]
    assert found["menu"] == ["dode"]


def test_a_faulty_schema_costs_its_file_only(
    pack: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    node = part("nodes.sampler_node").Sampler
    monkeypatch.setattr(node, "GET_SCHEMA", classmethod(lambda cls: 1 / 0))
    assert "Sampler" not in [found.__name__ for found in load_nodes(pack)]


def test_nodes_load_without_the_sampler_menu(
    pack: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(part("nodes.host.sampling"), "register", lambda: 1 / 0)
    assert len(load_nodes(pack)) == sum(map(len, NODE_FILES.values()))


def test_menu_entry_is_added_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also when loaded twice, and when another pack has bound a new list."""
    import comfy.k_diffusion.sampling
    import comfy.samplers

    rebound = ["euler"]
    monkeypatch.setattr(comfy.samplers, "SAMPLER_NAMES", rebound)
    for _ in range(2):
        part("nodes.host.sampling").register()
    assert rebound == ["euler", "dode"]
    assert comfy.samplers.KSampler.SAMPLERS.count("dode") == 1
    assert comfy.k_diffusion.sampling.sample_dode is part("nodes.host.sampling").sample_dode
    assert "dode" not in comfy.samplers.KSampler.DISCARD_PENULTIMATE_SIGMA_SAMPLERS


# Which samplers are in the menus


def test_samplers_of_the_setting(models: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The variable goes before the file; the paper's five have a name for all."""
    settings, file = part("nodes.host.settings"), models / "dode" / "samplers.txt"
    monkeypatch.delenv("DODE_SAMPLERS", raising=False)
    assert settings.extra_samplers() == []
    file.write_text("\ufeff# mine\nheun, dode_ddim  # two\n\n heun\n", encoding="utf-8")
    assert settings.extra_samplers() == ["heun", "ddim"]
    monkeypatch.setenv("DODE_SAMPLERS", "Paper dpmpp_2m")
    paper = ["ddim", "ipndm", "deis", "dpm_solver_2", "heun"]
    assert settings.extra_samplers() == [*paper, "dpmpp_2m"]
    monkeypatch.setenv("DODE_SAMPLERS", "")
    assert settings.extra_samplers() == []


def test_unknown_samplers_are_said(
    models: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("DODE_SAMPLERS", "ddmi;heun")
    assert part("nodes.host.settings").extra_samplers() == ["heun"]
    assert "sampler 'ddmi' is unknown; use one of paper, ddim, ipndm" in caplog.text
    monkeypatch.delenv("DODE_SAMPLERS")
    (models / "dode" / "samplers.txt").write_bytes(b"\xff\xfe heun " + b"x" * 10_000)
    assert part("nodes.host.settings").extra_samplers() == ["heun"]


# Where tables go


def test_read_only_folder(models: Path) -> None:
    """A checkpoint folder that cannot be written: models/dode, and why."""
    store = part("nodes.host.store")
    (models / "a file").touch()
    who = identity(models / "a file" / "model.safetensors")
    file, note = store.save(table(), who, store.target(who))
    assert file == models / "dode" / "model-11111111.dode.json"
    assert "cannot be written" in note and "models/dode was used" in note
    assert len(store.tables_in(file)) == 1


def test_nowhere_to_write(models: Path) -> None:
    store = part("nodes.host.store")
    (models / "dode").rmdir()
    (models / "dode").touch()
    who = identity(models / "dode" / "model.safetensors")
    with pytest.raises(part("dode_core.errors").TableError, match="choose another folder"):
        store.save(table(), who, store.target(who))


def test_names_stay_inside(models: Path) -> None:
    store, who = part("nodes.host.store"), identity()
    assert store.target(who, " My table v1.2 ") == models / "dode" / "My table v1.2.dode.json"
    assert store.target(who, "x.dode.json") == models / "dode" / "x.dode.json"
    assert store.target(who) == models / "dode" / "Model-11111111.dode.json"
    for name in ("../x", "a/b", "a\\b", "/etc/x", ".hidden", "C:x", "x" * 200, "a\0b", "~/x"):
        with pytest.raises(part("dode_core.errors").TableError, match="is not usable"):
            store.target(who, name)


def test_listing_sees_changes(models: Path) -> None:
    store = part("nodes.host.store")
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
    store, who = part("nodes.host.store"), identity()
    (models / "dode" / "bad.dode.json").write_text("{")
    mine = table(model_fingerprint=who.fingerprint)
    store.save(mine, who, models / "dode" / "good.dode.json")
    store.save(table(), who, models / "dode" / "of nobody.dode.json")
    assert [each.file.name for each in store.find(who)] == ["good.dode.json"]
    assert "bad.dode.json: not valid JSON" in caplog.text
