"""The demo: distil the paper's five solvers on the embedded model, compare, draw."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from ..distillation import distill
from ..report import picture_grid, plot_errors, plot_table, save_figure, text_table
from ..sampler import sample
from ..solve.schedules import make_sigmas
from ..solve.solvers import get_solver
from ..tables.table import LambdaTable, save_tables
from .model import CLASSES, IMAGE_SHAPE, EmojiDenoiser, load_demo
from .peers import peer_evaluations, peers

SIGMA_LOW, SIGMA_HIGH = 0.002, 80.0  # what the network was trained for
SCHEDULES = {"karras": 0.002, "karras 0.03": 0.03, "exponential": 0.03}  # and their lowest sigma
TEACHER_STEPS = 64  # of EDM's Heun, 127 evaluations: what everything is measured against


@dataclass(frozen=True)
class Settings:
    """What to run. Odd evaluation counts, so that Heun's 2N - 1 can match them."""

    out: Path = Path("demo_output")
    cfg: float = 1.0
    samples: int = 16
    held_out: int = 48
    seed: int = 0
    nfe: tuple[int, ...] = (5, 7, 9)
    solvers: tuple[str, ...] = ("ddim", "ipndm", "deis", "dpm_solver_2", "heun")
    schedule: str = "karras 0.03"
    pictures: int = 9
    batch: int = 16


@dataclass
class Scores:
    """RMS errors to the converged samples by name and evaluations, and some pictures."""

    errors: dict[str, dict[int, float]] = field(default_factory=dict)
    pictures: dict[str, Tensor] = field(default_factory=dict)

    def add(self, name: str, nfe: int, samples: Tensor, reference: Tensor) -> None:
        error = float((samples - reference).double().square().mean().sqrt())
        self.errors.setdefault(name, {})[nfe] = error


def start_noise(count: int, seed: int) -> tuple[Tensor, Tensor]:
    """(x at sigma 80, labels cycling through the classes), seeded."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(count, *IMAGE_SHAPE, generator=generator) * SIGMA_HIGH
    return x, torch.arange(count) % len(CLASSES)


def grid(schedule: str, steps: int) -> Tensor:
    return make_sigmas(schedule.split()[0], steps, SCHEDULES[schedule], SIGMA_HIGH)


def steps_for(solver: str, nfe: int) -> int:
    """Steps that cost ``nfe`` evaluations."""
    return get_solver(solver).steps_for(nfe)


def run_demo(settings: Settings) -> None:
    """Everything, with one progress bar; files go to ``settings.out``."""
    began = time.monotonic()
    settings.out.mkdir(parents=True, exist_ok=True)
    model = load_demo()
    x, labels = start_noise(settings.held_out, settings.seed + 1_000_000)
    jobs = list(_jobs(settings))
    with tqdm(total=len(jobs) + 1, desc="distil and compare", unit="job") as bar:
        bar.set_postfix_str("converged samples")
        fine = make_sigmas("karras", TEACHER_STEPS, SIGMA_LOW, SIGMA_HIGH)
        reference = _sample(model, x, labels, fine, settings, "heun")
        bar.update()
        scores, tables, best = Scores(), [], {}
        for kind, name, nfe, schedule in jobs:
            bar.set_postfix_str(f"{kind} {name}, {nfe} evaluations")
            if kind == "peer":
                samples = _peer(model, x, labels, name, nfe, schedule, settings)
                error = float((samples - reference).double().square().mean().sqrt())
                if error < best.get(nfe, (float("inf"), ""))[0]:
                    best[nfe] = error, f"{name}, {schedule}"
            else:
                learn = kind == "learn sigmas"
                tables.append(
                    _compare(model, x, labels, reference, name, nfe, settings, scores, learn)
                )
            bar.update()
    scores.errors["best built-in peer"] = {nfe: error for nfe, (error, _) in best.items()}
    _write(settings, scores, tables, best, reference)
    print(f"{time.monotonic() - began:.0f} s in all")


def _jobs(settings: Settings) -> Iterator[tuple[str, str, int, str]]:
    for nfe in settings.nfe:
        for solver in settings.solvers:
            yield "distil", solver, nfe, settings.schedule
        yield "learn sigmas", "ddim", nfe, settings.schedule
        for name in peers():
            for schedule in SCHEDULES:
                if peer_evaluations(name, steps_for_peer(name, nfe)) == nfe:
                    yield "peer", name, nfe, schedule


def steps_for_peer(name: str, nfe: int) -> int:
    return (nfe + 1) // 2 if peer_evaluations(name, 2) == 3 else nfe


def _sample(
    model: EmojiDenoiser,
    x: Tensor,
    labels: Tensor,
    sigmas: Tensor,
    settings: Settings,
    solver: str | None = None,
    table: LambdaTable | None = None,
) -> Tensor:
    """Sample in batches that suit a CPU."""
    parts = []
    for i in range(0, len(x), settings.batch):
        args = {"labels": labels[i : i + settings.batch], "cfg": settings.cfg}
        chunk = x[i : i + settings.batch]
        parts.append(sample(model, chunk, sigmas, args, disable=True, solver=solver, table=table))
    return torch.cat(parts)


def _peer(
    model: EmojiDenoiser,
    x: Tensor,
    labels: Tensor,
    name: str,
    nfe: int,
    schedule: str,
    settings: Settings,
) -> Tensor:
    sampler = peers()[name]
    sigmas = grid(schedule, steps_for_peer(name, nfe)).float()
    parts = []
    for i in range(0, len(x), settings.batch):
        args = {"labels": labels[i : i + settings.batch], "cfg": settings.cfg}
        parts.append(sampler(model, x[i : i + settings.batch], sigmas, args, disable=True))
    return torch.cat(parts)


def _compare(
    model: EmojiDenoiser,
    x: Tensor,
    labels: Tensor,
    reference: Tensor,
    solver: str,
    nfe: int,
    settings: Settings,
    scores: Scores,
    learn: bool,
) -> LambdaTable:
    """Distil one table; score plain and distilled solver on noise the fit never saw."""
    sigmas = grid(settings.schedule, steps_for(solver, nfe))
    noise, classes = start_noise(settings.samples, settings.seed)
    args = {"labels": classes, "cfg": settings.cfg}
    more: dict[str, Any] = {"columns": 2, "gain": True, "learn_sigmas": True} if learn else {}
    batch = settings.batch
    table = distill(model, noise, sigmas, solver, extra_args=args, batch_size=batch, **more)
    table = replace(table, cfg=settings.cfg, model_name="demo emoji (EDM)", seed=settings.seed)
    label = get_solver(solver).label
    runs = {f"{label}, own sigmas" if learn else label: table}
    if not learn:
        runs = {f"plain {label.removeprefix('D-')}": None, **runs}
    for name, used in runs.items():
        nodes = sigmas if used is None else used.sigmas
        found = _sample(model, x, labels, nodes, settings, None if used else solver, used)
        scores.add(name, nfe, found, reference)
        if nfe == settings.nfe[0]:
            scores.pictures[name] = found[: settings.pictures]
    return table


def _write(
    settings: Settings,
    scores: Scores,
    tables: list[LambdaTable],
    best: dict[int, tuple[float, str]],
    reference: Tensor,
) -> None:
    """The table of errors, the table file, the plots and the picture."""
    header = ["held-out RMS error", *(f"{nfe} evaluations" for nfe in settings.nfe)]
    rows = [
        [name, *(f"{points[nfe]:.4f}" for nfe in settings.nfe)]
        for name, points in scores.errors.items()
    ]
    rows.append(["  which is", *(best[nfe][1] for nfe in settings.nfe)])
    text = text_table(header, rows)
    print(f"\n{text}\n")
    out = settings.out
    (out / "errors.txt").write_text(text + "\n", encoding="utf-8")
    save_tables(out / "demo.dode.json", tables)
    title = f"Demo model, cfg {settings.cfg:g}, {settings.held_out} held-out noises"
    curves = plot_errors(scores.errors, title, "RMS error to the converged samples")
    save_figure(curves, out / "errors.png")
    save_figure(plot_table(tables[0]), out / "lambdas.png")
    converged = {f"teacher, {2 * TEACHER_STEPS - 1}": reference[: settings.pictures]}
    title = f"{settings.nfe[0]} evaluations per image; the teacher's {2 * TEACHER_STEPS - 1}"
    picture_grid(converged | scores.pictures, title=title).save(out / "samples.png")
    for name in ("errors.txt", "errors.png", "lambdas.png", "samples.png", "demo.dode.json"):
        print(f"wrote {out / name}")
