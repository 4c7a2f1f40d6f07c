"""Shared by the benchmarks: where results go, and the real ComfyUI's sampling functions."""

from __future__ import annotations

import json
import platform
import sys
from pathlib import Path
from typing import Any

import torch

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "benchmarks" / "results"


def tests_on_path() -> None:
    """The tests' own modules are importable: closed-form problems, the real hosts."""
    if str(ROOT / "tests") not in sys.path:
        sys.path.insert(0, str(ROOT / "tests"))


def comfy_sampling() -> Any:
    """``comfy.k_diffusion.sampling`` of the real ComfyUI that the tests use, on the CPU."""
    tests_on_path()
    from hosts.install import comfy_root

    sys.path.insert(0, str(comfy_root()))
    if "--cpu" not in sys.argv:
        sys.argv = [sys.argv[0], "--cpu"]
    import comfy.options

    comfy.options.enable_args_parsing()
    import comfy.k_diffusion.sampling

    return comfy.k_diffusion.sampling


def machine() -> dict[str, Any]:
    """What a reader must know to compare figures."""
    return {
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
        "processor": platform.processor() or platform.machine(),
        "python": platform.python_version(),
    }


def load_results(path: Path) -> dict[str, Any]:
    """Every finished job of a resumable benchmark, by its key."""
    return json.loads(path.read_text(encoding="utf-8"))["result"] if path.exists() else {}


def add_result(path: Path, key: str, found: Any, **about: Any) -> None:
    """Add one job's result to the file, atomically; ``about`` stands beside the results."""
    document = {"machine": machine(), **about, "result": load_results(path) | {key: found}}
    temporary = path.with_suffix(".tmp")
    temporary.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
    temporary.replace(path)


def write_result(name: str, result: Any) -> Path:
    """Write benchmarks/results/<name>.json."""
    RESULTS.mkdir(parents=True, exist_ok=True)
    path = RESULTS / f"{name}.json"
    text = json.dumps({"machine": machine(), "result": result}, indent=1)
    path.write_text(text + "\n", encoding="utf-8")
    print(f"wrote {path.relative_to(ROOT)}")
    return path
