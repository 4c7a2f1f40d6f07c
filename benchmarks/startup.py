"""What loading costs, in fresh processes: the numerics beside torch, the pack inside ComfyUI."""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
from collections.abc import Sequence

from .common import ROOT, write_result

NUMERICS = """
import json, sys, time
import torch, numpy
began = time.process_time()
import dode_core
lazy = time.process_time() - began
dode_core.sample, dode_core.LambdaTable, dode_core.SOLVERS, dode_core.resolve
print(json.dumps([lazy, time.process_time() - began]))
"""
# The host has loaded its nodes and its server by the time it comes to custom nodes.
PACK = f"""
import json, sys, time
sys.path[:0] = [{str(ROOT / "tests")!r}, {str(ROOT)!r}]
sys.argv = ["main.py", "--cpu"]
from comfy_pack import load_pack
from hosts.install import comfy_root
sys.path.insert(0, str(comfy_root()))
import comfy.options
comfy.options.enable_args_parsing()
import utils.extra_config, server, nodes, latent_preview, comfy_api.latest, comfy_extras
began = time.process_time()
load_pack(comfy_root())
print(json.dumps([time.process_time() - began]))
"""
ROUNDS = 7


def measure(program: str) -> list[float]:
    """Medians in ms of processor time that a program prints, over fresh processes."""
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONDONTWRITEBYTECODE"}
    rounds = []
    for _ in range(ROUNDS + 1):
        command = [sys.executable, "-c", program]
        done = subprocess.run(
            command, cwd=ROOT, env=environment, capture_output=True, text=True, check=True
        )
        rounds.append(json.loads(done.stdout.splitlines()[-1]))
    rounds = rounds[1:]  # the first one compiles, as after an installation
    return [1e3 * statistics.median(column) for column in zip(*rounds, strict=True)]


def main(arguments: Sequence[str] = ()) -> None:
    lazy, full = measure(NUMERICS)
    (pack,) = measure(PACK)
    result = {"import_ms": lazy, "with_sampler_ms": full, "comfyui_pack_ms": pack}
    print(
        f"import {lazy:.1f} ms, with everything sampling needs {full:.1f} ms (torch already "
        f"loaded); the whole pack with its nodes in ComfyUI {pack:.1f} ms"
    )
    write_result("startup", result)
