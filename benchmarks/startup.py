"""What importing the numerics costs, in a fresh process that has torch loaded like the host."""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
from collections.abc import Sequence

from .common import ROOT, write_result

CODE = """
import json, sys, time
import torch, numpy
began = time.perf_counter()
import dode_core
lazy = time.perf_counter() - began
dode_core.sample, dode_core.LambdaTable, dode_core.SOLVERS, dode_core.resolve
print(json.dumps([lazy, time.perf_counter() - began]))
"""
ROUNDS = 7


def main(arguments: Sequence[str] = ()) -> None:
    lazy, full = [], []
    for _ in range(ROUNDS):
        command = [sys.executable, "-c", CODE]
        out = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
        a, b = json.loads(out)
        lazy.append(1e3 * a)
        full.append(1e3 * b)
    result = {"import_ms": statistics.median(lazy), "with_sampler_ms": statistics.median(full)}
    print(
        f"import {result['import_ms']:.1f} ms, with everything sampling needs "
        f"{result['with_sampler_ms']:.1f} ms (torch already loaded)"
    )
    write_result("startup", result)
