"""Tables at a guidance scale that nobody calibrated: nearest, interpolated, or made for it.

Calibrated at cfg 1, 3 and 7; asked for at 2 and 5. Demo model, 6 evaluations.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

import dode_core as dode
from dode_core.report import text_table
from dode_core.solve.schedules import karras

from .common import write_result
from .problems import LOW, Problem
from .scores import Scores

CALIBRATED, ASKED, STEPS, HELD_OUT, BATCH = (1.0, 3.0, 7.0), (2.0, 5.0), 6, 64, 32
REFERENCE_STEPS = 48
METHODS: dict[str, dict[str, Any]] = {
    "one lambda": {},
    "columns and sigmas": {"columns": 2, "gain": True, "learn_sigmas": True},
}


def at(cfg: float) -> Problem:
    return Problem(f"EDM, cfg {cfg:g}", "ve", cfg, "emoji_edm")


def table_for(cfg: float, how: dict[str, Any], starts: Sequence[Tensor] = ()) -> dode.LambdaTable:
    problem = at(cfg)
    x, args = problem.noise(16, 1)
    sigmas = karras(STEPS, 0.03, problem.high)
    more: dict[str, Any] = {"starts": starts} if how else {}
    table = dode.distill(problem.model, x, sigmas, extra_args=args, batch_size=16, **how, **more)
    return replace(table, cfg=cfg)


def samples(problem: Problem, run: Any) -> Tensor:
    x, args = problem.noise(HELD_OUT, 999)
    parts = []
    for i in range(0, HELD_OUT, BATCH):
        own = {k: v[i : i + BATCH] if isinstance(v, Tensor) else v for k, v in args.items()}
        parts.append(run(x[i : i + BATCH], own))
    return torch.cat(parts)


def main(arguments: Sequence[str] = ()) -> None:
    results: dict[str, Any] = {}
    with tqdm(total=len(METHODS) * (len(CALIBRATED) + len(ASKED))) as bar:
        scores = {}
        for method, how in METHODS.items():
            tables: list[dode.LambdaTable] = []
            for cfg in CALIBRATED:  # each from the last one's grid, so that they can be mixed
                tables.append(table_for(cfg, how, [t.sigmas for t in tables[-1:]]))
                bar.update()
            for cfg in ASKED:
                if cfg not in scores:
                    scores[cfg] = Scores(reference(at(cfg)), images=True)
                results[f"{method}, cfg {cfg:g}"] = compare(cfg, how, tables, scores[cfg])
                bar.update()
    header = ["RMS / median error at a cfg between", "plain", "nearest", "interpolated", "own"]
    rows = [
        [name, *(f"{v['rms']:.4f} / {v['median']:.4f}" if v else "" for v in found.values())]
        for name, found in results.items()
    ]
    print(text_table(header, rows))
    write_result("guidance", results)


def reference(problem: Problem) -> Tensor:
    fine = karras(REFERENCE_STEPS, LOW, problem.high)
    return samples(
        problem, lambda x, a: dode.sample(problem.model, x, fine, a, disable=True, solver="heun")
    )


def compare(
    cfg: float, how: dict[str, Any], tables: Sequence[dode.LambdaTable], scores: Scores
) -> dict[str, Any]:
    problem, grid = at(cfg), karras(STEPS, 0.03, at(cfg).high)

    def score(known: Sequence[dode.LambdaTable]) -> dict[str, float]:
        found = dode.resolve(known, grid.tolist(), cfg=cfg)
        run = lambda x, a: dode.run_resolved(problem.model, x, found, a, disable=True)  # noqa: E731
        return scores.quick(samples(problem, run))

    nearest = min(tables, key=lambda table: abs((table.cfg or 0.0) - cfg))
    mixed = dode.resolve(tables, grid.tolist(), cfg=cfg)
    plain = samples(
        problem, lambda x, a: dode.sample(problem.model, x, grid, a, disable=True, solver="ddim")
    )
    return {
        "plain": scores.quick(plain),
        "nearest": score([nearest]),
        "interpolated": score(tables) if mixed.between_cfgs else None,
        "own": score([table_for(cfg, how, [nearest.sigmas])]),
    }


if __name__ == "__main__":
    main()
