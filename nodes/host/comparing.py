"""The runs behind D-ODE Compare: teacher, plain solver, D-ODE and a peer from the same noise."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import comfy.model_management as management
import comfy.samplers
from torch import Tensor

from ...dode_core.fit.teacher import Teacher
from ...dode_core.match.resolve import Resolution
from ...dode_core.sampler import of_stages, run_resolved
from ...dode_core.solve.solvers import get_solver
from ...dode_core.solve.stages import Stage, plain
from ...dode_core.tables.fields import PEER_LABELS
from .calibrate import schedule
from .live import Live
from .running import SeededLatent, sample


@dataclass(frozen=True)
class Entry:
    """One column of the comparison; ``error`` is the RMS distance to the teacher's latents."""

    name: str
    latent: dict[str, Any]
    evaluations: int
    error: float = 0.0

    def caption(self) -> str:
        """What stands above the column."""
        error = f"error {self.error:.4f}" if self.error else "the goal"
        return f"{self.name}\n{self.evaluations} evaluations\n{error}"


@dataclass(frozen=True)
class Contender:
    """What is to run: a name, the host's sampler object, its sigmas and how many steps it shows."""

    name: str
    sampler: Any
    sigmas: Tensor
    steps: int


class CountingGuider(comfy.samplers.CFGGuider):
    """The host's guider; counts the evaluations, and each can be interrupted."""

    evaluations = 0

    def predict_noise(self, *args: Any, **kwargs: Any) -> Tensor:
        management.throw_exception_if_processing_interrupted()
        self.evaluations += 1
        return super().predict_noise(*args, **kwargs)


def contenders(
    sigmas: Tensor, resolution: Resolution, teacher: Teacher, peer: Contender
) -> list[Contender]:
    """Teacher, plain solver, D-ODE and peer."""
    grid, kind = sigmas.tolist(), resolution.parametrization
    fine = teacher.stages(grid, kind)
    solver = get_solver(resolution.solver)
    own = solver.stages(grid, kind)
    name = solver.label.removeprefix("D-")
    ours = solver.label if resolution.table else "D-ODE, no table"
    steps = len(grid) - 1

    def resolved(model: Any, x: Tensor, sigmas: Tensor, **options: Any) -> Tensor:
        return run_resolved(model, x, resolution, **options)

    return [
        Contender("teacher", stages_sampler(fine, kind), sigmas, fine[-1].step + 1),
        Contender(f"plain {name}", stages_sampler(plain(own), kind), sigmas, steps),
        Contender(ours, comfy.samplers.KSAMPLER(resolved), sigmas, steps),
        peer,
    ]


def peer_contender(model: Any, name: str, scheduler: str, steps: int, denoise: float) -> Contender:
    """A sampler of the host's menus, on the noise levels that the stock KSampler would give it."""
    sigmas = schedule(model, scheduler, steps, denoise, name)
    label = PEER_LABELS.get(name, name)
    return Contender(label, comfy.samplers.sampler_object(name), sigmas, len(sigmas) - 1)


def stages_sampler(stages: list[Stage], kind: str) -> Any:
    """The host's sampler object that runs these stages without a table."""

    def sampler(model: Any, x: Tensor, sigmas: Tensor, **options: Any) -> Tensor:
        return run_resolved(model, x, of_stages(stages, kind), **options)

    return comfy.samplers.KSAMPLER(sampler)


def compare(
    make_guider: Callable[[], CountingGuider], work: list[Contender], plan: SeededLatent, live: Live
) -> list[Entry]:
    """Every run from the same noise, the first being the teacher, with one progress bar."""
    total, done, entries = sum(job.steps for job in work), 0, []
    for job in work:
        guider = make_guider()

        def report(step: int, steps: int, denoised: Tensor, done: int = done) -> None:
            live(done + step, total, denoised)

        live.begin(job.name)
        latent = sample(guider, job.sampler, job.sigmas, plan, live, report)
        entry = Entry(job.name, latent, guider.evaluations)
        if entries:
            entry = replace(entry, error=distance(latent, entries[0].latent))
        entries.append(entry)
        done += job.steps
    return entries


def distance(one: dict[str, Any], other: dict[str, Any]) -> float:
    """RMS over all elements of two LATENTs, nested ones part by part."""
    pairs = zip(parts(one["samples"]), parts(other["samples"]), strict=True)
    squares = [(a - b).double().square() for a, b in pairs]
    count = sum(square.numel() for square in squares)
    return (sum(float(square.sum()) for square in squares) / count) ** 0.5


def parts(latent: Any) -> list[Tensor]:
    """The tensors of a latent, plain or nested."""
    return latent.unbind() if latent.is_nested else [latent]
