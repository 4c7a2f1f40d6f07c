"""The pack inside this process, imported as ComfyUI imports it."""

from __future__ import annotations

import asyncio
import importlib
import importlib.util
import sys
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

from hosts.checkpoints import SD3, write_diffusion_model

ROOT = Path(__file__).resolve().parent.parent
NAME = "pack_under_test"


@cache
def load_pack(comfy: Path) -> ModuleType:
    """This repository as a pack of the ComfyUI in ``comfy``, which is on the path by now."""
    path = sys.path[:]
    try:
        # ComfyUI's own nodes, server and utils, not this repository's.
        sys.path[:] = [str(comfy), *(p for p in path if p not in (str(ROOT), ""))]
        importlib.import_module("utils.extra_config")
        importlib.import_module("server")
        spec = importlib.util.spec_from_file_location(
            NAME, ROOT / "__init__.py", submodule_search_locations=[str(ROOT)]
        )
        assert spec and spec.loader
        pack = importlib.util.module_from_spec(spec)
        sys.modules[NAME] = pack
        spec.loader.exec_module(pack)
        load_nodes(pack)
        return pack
    finally:
        sys.path[:] = path


def load_nodes(pack: ModuleType) -> list[Any]:
    """The node classes that ComfyUI would get."""

    async def ask() -> list[Any]:
        return await (await pack.comfy_entrypoint()).get_node_list()

    return asyncio.run(ask())


def part(name: str) -> Any:
    """A module of the pack."""
    return importlib.import_module(f"{NAME}.{name}")


def table(**changes: Any) -> Any:
    """A small table."""
    fields = {"solver": "ddim", "sigmas": [10.0, 1.0, 0.0], "lambdas": [[0.1], [0.2]], **changes}
    return part("dode_core.tables.table").LambdaTable(**fields)


def identity(path: Path | None = None, weights: str = "1") -> Any:
    """Some model's."""
    name = path.name if path else "Model"
    return part("nodes.host.models").Identity(path, name, f"weights:{weights * 16}")


def patcher(tmp_path: Path, seed: int = 0) -> Any:
    """A tiny SD3 as ComfyUI loads it."""
    import comfy.sd

    name = write_diffusion_model(tmp_path, SD3, f"{seed}.safetensors", seed)
    return comfy.sd.load_diffusion_model(str(tmp_path / "diffusion_models" / name))
