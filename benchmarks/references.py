"""Converged samples and the states they pass, kept on disk outside of the repository."""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

import dode_core as dode

from .problems import PROBLEMS, Problem

CACHE = Path(os.environ.get("DODE_BENCH_CACHE", Path.home() / ".cache" / "dode-bench"))
PART = 32  # noises in a file
SEED = 999
STARTS = {"ve": (3.0, 1.0), "flow": (0.8, 0.5)}  # sigmas where partial runs begin


@dataclass(frozen=True)
class Reference:
    """Noise, its converged samples, and the converged states at the sigmas of STARTS."""

    noise: Tensor
    final: Tensor
    at: dict[float, Tensor]


def reference(problem: Problem, count: int) -> Reference:
    """The first ``count`` noises of SEED, a multiple of PART; what is not on disk is made."""
    x, args = problem.noise(256, SEED)
    parts = [_part(problem, x, args, i) for i in range(0, count, PART)]
    joined = {key: torch.cat([part[key] for part in parts]) for key in parts[0]}
    at = {start: joined[f"at {start}"] for start in STARTS[problem.parametrization]}
    return Reference(x[:count], joined["final"], at)


def _part(problem: Problem, x: Tensor, args: dict, first: int) -> dict[str, Tensor]:
    stem = problem.name.replace(", ", "_").replace(" ", "")
    path = CACHE / f"{stem}_{SEED}_{first}.safetensors"
    if path.exists():
        return load_file(path)
    rows = slice(first, first + PART)
    own = {k: v[rows] if isinstance(v, Tensor) else v for k, v in args.items()}
    grid, state, found = fine_grid(problem), x[rows], {}
    stops = [*STARTS[problem.parametrization], 0.0]
    how = {"solver": "heun", "disable": True, "parametrization": problem.parametrization}
    for stop in stops:
        i = grid.index(stop)
        state = dode.sample(problem.model, state, grid[: i + 1], own, **how)
        found["final" if stop == 0 else f"at {stop}"], grid = state, grid[i:]
    CACHE.mkdir(parents=True, exist_ok=True)
    save_file({k: v.contiguous() for k, v in found.items()}, path.with_suffix(".tmp"))
    path.with_suffix(".tmp").replace(path)
    return found


def fine_grid(problem: Problem) -> list[float]:
    """The reference's grid with the partial runs' starts among its nodes."""
    nodes = {*problem.fine_grid().tolist(), *STARTS[problem.parametrization]}
    return sorted(nodes, reverse=True)


def main(arguments: Sequence[str] = ()) -> None:
    parser = argparse.ArgumentParser(prog="references")
    parser.add_argument("--problems", nargs="+", choices=PROBLEMS, default=list(PROBLEMS))
    options = parser.parse_args(arguments)
    for count in (32, 64, 128, 256):
        for name in options.problems:
            reference(PROBLEMS[name], count)
            print(name, count, flush=True)


if __name__ == "__main__":
    import sys

    main(sys.argv[1:])
