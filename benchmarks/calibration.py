"""What a table costs: model evaluations and held-out error, ours against the paper's teacher.

Errors are RMS to converged samples on noise that no fit saw, on the demo model at cfg 1. The
paper's calibration is a DDIM teacher with C = 10 (aligned to the student's noise levels), nothing
held out: 11 N evaluations a sample. Ours counts everything, the plain solver's check included.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from tqdm import tqdm

import dode_core as dode
from dode_core.demo.model import load_demo
from dode_core.demo.run import SIGMA_HIGH, SIGMA_LOW, Settings, _sample, start_noise
from dode_core.report import text_table
from dode_core.schedules import karras

from .common import write_result

STEPS = (5, 8, 10)
PAPER_SAMPLES, OUR_SAMPLES, HELD_OUT, SEEDS = (4, 16), (4, 8, 16), 32, (1, 2, 3, 4, 5)
PAPER = dode.Teacher("ddim", 10)


def main(arguments: Sequence[str] = ()) -> None:
    model, settings = load_demo(), Settings()
    x, labels = start_noise(HELD_OUT, 999)
    fine = karras(64, SIGMA_LOW, SIGMA_HIGH)
    reference = _sample(model, x, labels, fine, settings, "heun")
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
        table = dode.distill(model, noise, sigmas, "ddim", **options)
        out = _sample(model, x, labels, sigmas, settings, table=table)
        error = float((out - reference).double().square().mean().sqrt())
        cost = 11 * steps * samples if name == "paper" else table.evaluations * samples
        results.setdefault((steps, name, samples), []).append({"error": error, "cost": cost})
    rows, found = [], []
    for (steps, name, samples), runs in results.items():
        error = float(torch.tensor([run["error"] for run in runs]).mean())
        cost = runs[0]["cost"]
        found.append(
            {"steps": steps, "who": name, "samples": samples, "error": error, "evaluations": cost}
        )
        rows.append([f"{steps} steps, {name}", str(samples), f"{cost:.0f}", f"{error:.4f}"])
    print(text_table(["D-DDIM", "samples", "evaluations", "held-out error"], rows))
    for steps in STEPS:
        ours = next(r for r in found if r["steps"] == steps and r["who"] == "ours")
        matches = [
            r["evaluations"]
            for r in found
            if r["steps"] == steps and r["who"] == "paper" and r["error"] <= ours["error"]
        ]
        most = max(r["evaluations"] for r in found if r["steps"] == steps and r["who"] == "paper")
        if matches:
            ratio = ours["evaluations"] / min(matches)
            print(f"{steps} steps: {ratio:.2f} of the paper's evaluations for the same error")
        else:
            ratio = ours["evaluations"] / most
            print(f"{steps} steps: the paper's calibration never got as low; under {ratio:.2f}")
    write_result("calibration", found)
