"""What a table costs: model evaluations and held-out error, ours against the paper's teacher.

Errors are RMS to converged samples on noise that no fit saw, on the demo model at cfg 1. The
paper's calibration is a DDIM teacher with C = 10 (aligned to the student's noise levels), nothing
held out: 11 N evaluations a sample. Ours counts everything, the plain solver's check included.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tqdm import tqdm

import dode_core as dode
from dode_core.demo.run import SIGMA_HIGH, SIGMA_LOW, DemoNoises, DemoSettings, start_noise
from dode_core.report import text_table
from dode_core.solve.schedules import karras

from .common import write_result

STEPS = (5, 8, 10)
PAPER_SAMPLES, OUR_SAMPLES, HELD_OUT, SEEDS = (4, 16), (4, 8, 16), 32, (1, 2, 3, 4, 5)
PAPER = dode.Teacher("ddim", 10)


def main(arguments: Sequence[str] = ()) -> None:
    held_out = DemoNoises(HELD_OUT, 999, DemoSettings())
    fine = karras(64, SIGMA_LOW, SIGMA_HIGH)
    reference = held_out.sample(fine, solver="heun")
    jobs = [
        (steps, name, samples, seed)
        for steps in STEPS
        for name, counts in (("paper", PAPER_SAMPLES), ("ours", OUR_SAMPLES))
        for samples in counts
        for seed in SEEDS
    ]
    results: dict[tuple[int, str, int], list[dict[str, float]]] = {}
    for steps, name, samples, seed in tqdm(jobs):
        sigmas = karras(steps, SIGMA_LOW, SIGMA_HIGH)
        noise, classes = start_noise(samples, seed)
        options: dict[str, Any] = {"extra_args": {"labels": classes}, "batch_size": 16}
        if name == "paper":
            options |= {"teacher": PAPER, "holdout": 0}
        table = dode.distill(held_out.model, noise, sigmas, "ddim", **options)
        out = held_out.sample(sigmas, table=table)
        error = float((out - reference).double().square().mean().sqrt())
        cost = 11 * steps * samples if name == "paper" else table.evaluations * samples
        results.setdefault((steps, name, samples), []).append({"error": error, "cost": cost})
    rows, found = [], []
    for (steps, name, samples), runs in results.items():
        errors = sorted(run["error"] for run in runs)
        cost = runs[0]["cost"]
        found.append(
            {"steps": steps, "who": name, "samples": samples, "errors": errors, "evaluations": cost}
        )
        middle, worst = errors[len(errors) // 2], errors[-1]
        label = f"{steps} steps, {name}"
        rows.append([label, str(samples), f"{cost:.0f}", f"{middle:.4f}", f"{worst:.4f}"])
    header = ["D-DDIM", "samples", "evaluations", "error, median seed", "worst seed"]
    print(text_table(header, rows))
    write_result("calibration", found)
