"""On a CUDA device: what sampling and calibrations cost with an SDXL-shaped network.

Random weights, so no picture comes of it; shapes, types and costs are SDXL's at 1024x1024 in fp16
with guidance. Needs no network, takes some 8 minutes, prints every part when it is done and goes on
where it was stopped. Without a CUDA device nothing is measured and no result is written.

    python dev.py bench gpu                  # benchmarks/results/gpu.json
    python dev.py bench gpu --device cpu     # every part with a tiny network: does the script work?
    python dev.py bench gpu --minutes 15     # no part begins later than that
"""

from __future__ import annotations

import argparse
import time
import traceback
from collections.abc import Sequence
from pathlib import Path

import torch

from .common import RESULTS, add_result, load_results
from .gpu_parts import PARTS, Bench, Found


def main(arguments: Sequence[str] = ()) -> None:
    parser = argparse.ArgumentParser(prog="gpu")
    parser.add_argument("--device", choices=["cuda", "cpu"], default="cuda")
    parser.add_argument("--minutes", type=float, default=8.0, help="no part begins later (8)")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    options = parser.parse_args(arguments)
    if options.device == "cuda" and not torch.cuda.is_available():
        print("no CUDA device here: not run, nothing is written (--device cpu tries the script)")
        return
    path = RESULTS / "gpu.json" if options.device == "cuda" else None
    bench = Bench(options.device, time.monotonic() + 60 * options.minutes)
    if failed := run(bench, options.parts, path):
        raise SystemExit(f"failed: {', '.join(failed)}")


def run(bench: Bench, parts: Sequence[str], path: Path | None) -> list[str]:
    """Every part that is not in the file at ``path`` yet; the names of those that failed."""
    about: Found = {"on": "the CPU, a tiny network: no figures"}
    if bench.device == "cuda":
        about = {"on": torch.cuda.get_device_name(), "torch_cuda": torch.version.cuda}
    print(about["on"])
    known, failed = load_results(path) if path else {}, []
    for name in parts:
        if name in known:
            print(f"{name}: there already")
            continue
        if time.monotonic() > bench.ends:
            print(f"{name}: left out, the time is over")
            continue
        try:
            found = PARTS[name](bench)
        except Exception:
            failed.append(name)
            print(f"{name}: FAILED\n{traceback.format_exc()}", flush=True)
            continue
        print("\n".join([f"{name}:", *_lines(found)]), flush=True)
        if path:
            add_result(path, name, found, **about)
    return failed


def _lines(found: Found, indent: str = "  ") -> list[str]:
    lines = []
    for key, value in found.items():
        if isinstance(value, dict):
            lines += [f"{indent}{key}:", *_lines(value, indent + "  ")]
        else:
            lines.append(f"{indent}{key}: {value:.4g}" if isinstance(value, float) else "")
            lines[-1] = lines[-1] or f"{indent}{key}: {value}"
    return lines
