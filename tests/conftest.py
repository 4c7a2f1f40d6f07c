"""What all tests share: import paths, threads, and the samplers of ComfyUI and k-diffusion."""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

import pytest
import torch
from hypothesis import settings

if TYPE_CHECKING:
    from hosts.comfy import ComfyServer
    from webui_host import Host

TESTS = Path(__file__).resolve().parent
for folder in (TESTS, TESTS.parent):  # `problems`, `hosts`; `dode_core`
    if str(folder) not in sys.path:
        sys.path.insert(0, str(folder))

torch.set_num_threads(1)  # the tensors are small, and sums do not depend on the machine's cores
settings.register_profile("tests", deadline=None, derandomize=True, print_blob=True)
settings.load_profile("tests")


def missing(what: str, error: Exception) -> None:
    """Skip a test whose peer is not installed; where CI runs, nothing may be skipped."""
    if os.environ.get("CI"):
        raise error
    pytest.skip(f"{what} is not available: {error}")


@pytest.fixture(scope="session")
def comfy_sampling() -> ModuleType:
    """ComfyUI's own samplers, imported from a real ComfyUI."""
    from hosts.install import InstallError, comfy_root

    argv = sys.argv
    try:
        root = str(comfy_root())
        if root not in sys.path:
            sys.path.append(root)  # last: ComfyUI has a `tests`, a `nodes` and a `utils` of its own
        sys.argv = [argv[0], "--cpu"]  # ComfyUI reads it while it is imported
        importlib.import_module("comfy.options").enable_args_parsing()
        return importlib.import_module("comfy.k_diffusion.sampling")
    except (InstallError, ImportError) as error:
        missing("ComfyUI", error)
        raise
    finally:
        sys.argv = argv


@pytest.fixture(scope="session")
def k_diffusion_sampling() -> ModuleType:
    """k-diffusion's sampling module without its package, which imports trainers and CLIP."""
    from dode_core.demo import peers

    try:
        return peers.k_diffusion_sampling()
    except ImportError as error:
        missing("k-diffusion", error)
        raise


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tests in test_comfy_*.py need a ComfyUI; ``-m "not comfy"`` leaves them out."""
    for item in items:
        if item.path.name.startswith("test_comfy_"):
            item.add_marker(pytest.mark.comfy)


@pytest.fixture(scope="session")
def comfy_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ComfyServer]:
    """One real ComfyUI server with this pack, for the whole run."""
    from hosts.comfy import CONDITIONING_PACK, ComfyServer
    from hosts.install import InstallError, comfy_root

    try:
        comfy_root()
    except InstallError as error:
        missing("ComfyUI", error)
    base = tmp_path_factory.mktemp("comfyui")
    arguments = ["--preview-method", "latent2rgb"]
    packs = [CONDITIONING_PACK]
    with ComfyServer(base, packs=packs, arguments=arguments, obey_permissions=True) as server:
        server.show_presets(False)
        yield server


@pytest.fixture(scope="session")
def rough_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ComfyServer]:
    """A server where much is unlike it should be: see ``hosts/rude_pack`` and below.

    The pack is there twice, one node file is broken, matplotlib cannot be imported, previews are
    off, other packs meddle, and the paper's samplers are asked for.
    """
    from hosts.comfy import CONDITIONING_PACK, REPOSITORY, RUDE_PACK, ComfyServer
    from hosts.install import InstallError, comfy_root, copy_pack

    try:
        comfy_root()
    except InstallError as error:
        missing("ComfyUI", error)
    base = tmp_path_factory.mktemp("rough")
    for name in ("dode", "dode_copy"):
        copy_pack(REPOSITORY, base / "custom_nodes" / name)
        broken = base / "custom_nodes" / name / "nodes" / "compare_node.py"
        broken.write_text("import a_module_that_is_gone\n")
    (base / "custom_nodes" / "dode_copy" / "lambdas" / "index.json").unlink()  # its presets
    packs, wanted = [CONDITIONING_PACK, RUDE_PACK], {"DODE_SAMPLERS": "paper"}
    with ComfyServer(base, packs=packs, environment=wanted) as server:
        server.show_presets(False)
        yield server


@pytest.fixture
def comfy(comfy_server: ComfyServer) -> ComfyServer:
    """That server without any table or profile."""
    for file in comfy_server.models.rglob("*.dode[.-]*"):
        file.unlink()
    return comfy_server


@pytest.fixture(scope="session")
def pack(comfy_sampling: ModuleType) -> ModuleType:
    """This repository imported as a pack, inside this process."""
    from comfy_pack import load_pack

    try:
        return load_pack(Path(comfy_sampling.__file__ or "").parents[2])
    except ImportError as error:
        missing("A requirement of ComfyUI", error)
        raise


@pytest.fixture
def models(pack: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Empty model folders that the ComfyUI inside this process believes to be its own."""
    known = importlib.import_module("folder_paths").folder_names_and_paths
    for name in ("checkpoints", "diffusion_models", "dode"):
        (tmp_path / name).mkdir()
        monkeypatch.setitem(known, name, ([str(tmp_path / name)], {".safetensors"}))
    for module in ("dode_core.tables.library", "nodes.host.store"):  # no presets but a test's own
        module = importlib.import_module(f"{pack.__name__}.{module}")
        monkeypatch.setattr(module, "PRESETS", tmp_path / "presets")
    return tmp_path


@pytest.fixture(params=["a1111", "forge", "reforge", "classic"])
def webui(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Host]:
    """Each WebUI in turn, its samplers registered; its own thread runs where it has one."""
    from webui_host import install, run_main_thread

    from dode_webui import host as adapter
    from dode_webui import samplers

    monkeypatch.setattr(adapter, "PRESETS", tmp_path / "presets")  # those shipped have own tests
    host = install(request.param, tmp_path)
    run_main_thread(host)
    samplers.register()
    yield host
    host.remove()
