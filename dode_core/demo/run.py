"""The demo: distill the paper's five solvers on the embedded model, compare, draw."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from ..distillation import distill
from ..methods import METHODS
from ..report import picture_grid, plot_errors, plot_table, save_figure, text_table
from ..sampler import sample
from ..solve.schedules import make_sigmas
from ..solve.solvers import get_solver
from ..tables.table import LambdaTable, save_tables
from .model import CLASSES, IMAGE_SHAPE, load_demo
from .peers import Sampler, peer_evaluations, peers

SIGMA_LOW, SIGMA_HIGH = 0.002, 80.0  # what the network was trained for
SCHEDULES = {"karras": 0.002, "karras 0.03": 0.03, "exponential": 0.03}  # and their lowest sigma
TEACHER_STEPS = 64  # of EDM's Heun, 127 evaluations: what everything is measured against


@dataclass(frozen=True)
class DemoSettings:
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


def run_demo(settings: DemoSettings) -> None:
    """Everything, with one progress bar; files go to ``settings.out``."""
    began = time.monotonic()
    settings.out.mkdir(parents=True, exist_ok=True)
    jobs = list(_jobs(settings))
    with tqdm(total=len(jobs) + 1, desc="distill and compare", unit="job") as bar:
        bar.set_postfix_str("converged samples")
        contest = Contest(settings)
        bar.update()
        for kind, name, nfe, schedule in jobs:
            bar.set_postfix_str(f"{kind} {name}, {nfe} evaluations")
            if kind == "peer":
                contest.peer(name, nfe, schedule)
            else:
                contest.distilled(name, nfe, learn=kind == "learn sigmas")
            bar.update()
    _write(contest)
    print(f"{time.monotonic() - began:.0f} s in all")


def _jobs(settings: DemoSettings) -> Iterator[tuple[str, str, int, str]]:
    for nfe in settings.nfe:
        for solver in settings.solvers:
            yield "distill", solver, nfe, settings.schedule
        yield "learn sigmas", "ddim", nfe, settings.schedule
        for name in peers():
            for schedule in SCHEDULES:
                if peer_evaluations(name, steps_for_peer(name, nfe)) == nfe:
                    yield "peer", name, nfe, schedule


def steps_for_peer(name: str, nfe: int) -> int:
    return (nfe + 1) // 2 if peer_evaluations(name, 2) == 3 else nfe


class DemoNoises:
    """Noises of the demo model with their labels, sampled in batches that suit a CPU."""

    def __init__(self, count: int, seed: int, settings: DemoSettings) -> None:
        self.model, self.settings = load_demo(), settings
        self.x, self.labels = start_noise(count, seed)

    def run(self, sampler: Sampler, sigmas: Tensor) -> Tensor:
        """``sampler(model, x, sigmas, extra_args, disable=True)`` on all of them."""
        parts, size = [], self.settings.batch
        for i in range(0, len(self.x), size):
            args = {"labels": self.labels[i : i + size], "cfg": self.settings.cfg}
            parts.append(sampler(self.model, self.x[i : i + size], sigmas, args, disable=True))
        return torch.cat(parts)

    def sample(self, sigmas: Tensor, **how: Any) -> Tensor:
        """With :func:`dode_core.sample`'s ``solver`` or ``table``."""
        return self.run(partial(sample, **how), sigmas)


class Contest:
    """The converged samples, and who came how near to them."""

    def __init__(self, settings: DemoSettings) -> None:
        self.settings = settings
        self.samples = DemoNoises(settings.held_out, settings.seed + 1_000_000, settings)
        fine = make_sigmas("karras", TEACHER_STEPS, SIGMA_LOW, SIGMA_HIGH)
        self.reference = self.samples.sample(fine, solver="heun")
        self.scores = Scores()
        self.tables: list[LambdaTable] = []
        self.best: dict[int, tuple[float, str]] = {}  # the best peer by evaluations

    def peer(self, name: str, nfe: int, schedule: str) -> None:
        """Run a peer on one of its grids."""
        sigmas = grid(schedule, steps_for_peer(name, nfe)).float()
        found = self.samples.run(peers()[name], sigmas)
        error = float((found - self.reference).double().square().mean().sqrt())
        if error < self.best.get(nfe, (float("inf"), ""))[0]:
            self.best[nfe] = error, f"{name}, {schedule}"

    def distilled(self, solver: str, nfe: int, learn: bool) -> None:
        """Distill one table; score plain and distilled solver on noise the fit never saw."""
        settings = self.settings
        sigmas = grid(settings.schedule, get_solver(solver).steps_for(nfe))
        table = self._table(solver, sigmas, learn)
        self.tables.append(table)
        label = get_solver(solver).label
        runs: dict[str, LambdaTable | None] = {f"{label}, own sigmas" if learn else label: table}
        if not learn:
            runs = {f"plain {label.removeprefix('D-')}": None, **runs}
        for name, used in runs.items():
            nodes = sigmas if used is None else used.sigmas
            found = self.samples.sample(nodes, solver=None if used else solver, table=used)
            self.scores.add(name, nfe, found, self.reference)
            if nfe == settings.nfe[0]:
                self.scores.pictures[name] = found[: settings.pictures]

    def _table(self, solver: str, sigmas: Tensor, learn: bool) -> LambdaTable:
        settings = self.settings
        noise, classes = start_noise(settings.samples, settings.seed)
        method = METHODS["columns and sigmas" if learn else "one lambda"]
        table = distill(
            self.samples.model,
            noise,
            sigmas,
            solver,
            extra_args={"labels": classes, "cfg": settings.cfg},
            batch_size=settings.batch,
            directions=method.directions,
            learn_sigmas=method.learn_sigmas,
        )
        return replace(table, cfg=settings.cfg, model_name="demo emoji (EDM)", seed=settings.seed)


def _write(contest: Contest) -> None:
    """The table of errors, the table file, the plots and the picture."""
    settings, scores, best = contest.settings, contest.scores, contest.best
    scores.errors["best built-in peer"] = {nfe: error for nfe, (error, _) in best.items()}
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
    save_tables(out / "demo.dode.json", contest.tables)
    title = f"Demo model, cfg {settings.cfg:g}, {settings.held_out} held-out noises"
    curves = plot_errors(scores.errors, title, "RMS error to the converged samples")
    save_figure(curves, out / "errors.png")
    save_figure(plot_table(contest.tables[0]), out / "lambdas.png")
    converged = {f"teacher, {2 * TEACHER_STEPS - 1}": contest.reference[: settings.pictures]}
    title = f"{settings.nfe[0]} evaluations per image; the teacher's {2 * TEACHER_STEPS - 1}"
    picture_grid(converged | scores.pictures, title=title).save(out / "samples.png")
    for name in ("errors.txt", "errors.png", "lambdas.png", "samples.png", "demo.dode.json"):
        print(f"wrote {out / name}")
