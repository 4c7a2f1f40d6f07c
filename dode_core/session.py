"""One calibration run: the samples in micro-batches, the counted model, the teachers."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from .errors import CalibrationError
from .fit import distributed
from .fit.batches import Batch, Samples, listed
from .fit.guarded import CountingModel, Progress
from .fit.peers import PEERS, hosts_kind, peer_error
from .fit.stagewise import StagewiseFit
from .fit.teacher import Teacher
from .fit.trajectory import DENSE_NAME, DENSE_STEPS, Trajectory, dense_teacher, reaching_grid
from .learn.learn import Material, learn, least_budget
from .learn.starts import Start
from .solve.integrate import Denoiser
from .solve.noise import infer_parametrization
from .solve.scheme import Scheme
from .solve.stages import MAX_CHANNELS, Stage
from .tables.fields import Errors
from .tables.table import LambdaTable
from .version import PROGRAM

FOLLOWING = "following the model in many small steps"


class Session:
    """One calibration run on ``samples``, whose noise is at the first sigma of ``grid``."""

    def __init__(
        self,
        model: Denoiser,
        samples: Samples,
        grid: Sequence[float],
        parametrization: str | None = None,
        progress: Progress | None = None,
        peers: Sequence[str] = (),
    ) -> None:
        if len(grid) < 2:
            raise CalibrationError("One sigma makes no step; give at least two.")
        self.samples, self.parts, self.grid = samples, samples.parts, grid
        self.parametrization = parametrization or infer_parametrization(model, grid)
        self.model = CountingModel(model, progress, 0, samples.per_sample)
        self.may_look_ahead = bool(getattr(model, "look_ahead", True))  # a denoiser may say no
        self.counted, self.peers = 0, peers

    def calls(self, evaluations: int) -> int:
        """Model calls that so many evaluations per sample take."""
        return len(self.parts) * evaluations

    def student_calls(self, stages: int) -> int:
        """The most calls that fitting a student and checking it takes."""
        held = sum(self.samples.is_held_out(part) for part in self.parts)
        return self.calls(3 * stages) + held * stages * (stages + 1) // 2

    def most_calls(self, budget: float) -> int:
        """The most model calls that so many evaluations per sample make, whichever samples run."""
        smallest = min(part.stop - part.start for part in self.parts)
        return math.ceil(budget * len(self.samples) / smallest)

    def check_budget(self, stages: int, budget: float) -> None:
        """Refuse a budget that cannot pay for a table, before anything is run."""
        if budget < (least := least_budget(stages)):
            raise CalibrationError(
                f"A budget of {budget + DENSE_STEPS:g} evaluations per sample is too small: "
                f"{stages} stages take at least {least + DENSE_STEPS}; raise it, or "
                "turn learn_sigmas off."
            )

    def aligned(
        self,
        grid: Sequence[float],
        stages: Sequence[Stage],
        teacher: Teacher,
        targets: Tensor | None,
    ) -> list[Batch]:
        """Batches whose targets are an aligned teacher's states, or given ones."""
        shape = (len(stages), *self.samples.x.shape)
        if targets is not None and targets.shape != shape:
            raise CalibrationError(
                f"targets have shape {tuple(targets.shape)}, expected "
                f"{shape}: one state per model evaluation and sample."
            )
        batches = []
        self.model.begin(FOLLOWING)
        for part in self.parts:
            state = self.samples.state(part)
            if targets is None:
                nodes = teacher.states(self.model, state, grid, self.parametrization)
                states = [nodes[stage.step] for stage in stages]
            else:
                states = list(targets[:, distributed.share(part)])
            batches.append(self.samples.batch(part, *listed(states, state.x), state))
        return batches

    @cached_property
    def trajectories(self) -> list[Trajectory]:
        """The dense teacher's run, once for the whole session."""
        fine = reaching_grid(self.grid, self.parametrization)
        self.model.begin(FOLLOWING)
        return [
            dense_teacher(self.model, self.samples.state(part), fine, self.parametrization)
            for part in self.parts
        ]

    @cached_property
    def mean(self) -> tuple[float, ...] | None:
        """The mean of every channel of the teacher's first denoised output, over the fit samples.

        What a run that looks ahead guesses; None where none should be tried: flow models, whose
        first sigma is 1 whatever they were trained on (see docs/benchmarks.md), and denoisers whose
        own ``look_ahead`` is False.
        """
        if self.parametrization == "flow" or not self.may_look_ahead:
            return None
        x = self.samples.x
        if x.ndim < 3 or x.shape[1] > MAX_CHANNELS:
            return ()
        pairs = zip(self.trajectories, self.parts, strict=True)
        first = [t.x[0] - t.slope[0] for t, part in pairs if not self.samples.is_held_out(part)]
        sums = sum(d.cpu().double().transpose(0, 1).flatten(1).sum(1) for d in first)
        each = math.prod(x.shape[2:])
        total = distributed.total(torch.as_tensor(sums))
        return tuple((total / (self.samples.fit * each)).tolist())

    def dense(self) -> list[Batch]:
        """Batches whose targets are read off the dense teacher at whatever sigma is asked for."""
        pairs = zip(self.parts, self.trajectories, strict=True)
        return [self.samples.batch(part, dense_target(t), t.final) for part, t in pairs]

    def fixed(
        self, grid: Sequence[float], scheme: Scheme, batches: Sequence[Batch], teacher: str
    ) -> LambdaTable:
        """A table on the given grid."""
        fit = StagewiseFit(self.model, batches, scheme.stages(grid), self.parametrization)
        self.model.begin("learning one step after the other")
        lambdas, errors = fit.run()
        zeroed = tuple(sorted(fit.zeroed))
        others = self._peer_errors(scheme, grid, batches, errors)
        what = {"teacher": teacher, "zeroed": zeroed, "peer_errors": others}
        return self._table(scheme, grid, lambdas, errors, **what)

    def learned(
        self, grid: Sequence[float], scheme: Scheme, budget: float, starts: Sequence[Start] = ()
    ) -> LambdaTable:
        """A table with learned inner sigmas, or the given grid's where those do not help."""
        material = Material(self.model, self.dense(), self.trajectories, self.mean)
        spent = (self.model.evaluations - self.counted) / len(self.samples)
        last = 1 + len(self._other_peers(scheme)) * self.samples.held_out * (len(grid) - 1)
        left = budget - spent - last / len(self.samples)  # the model is checked, and peers run
        found = learn(material, grid, scheme, left, starts)
        rows, errors = torch.tensor(found.run.lambdas, dtype=torch.float64), found.errors
        if not found.helps:
            rows = torch.zeros_like(rows)
            errors = replace(
                errors, distilled_fit=errors.plain_fit, distilled_holdout=errors.plain_holdout
            )
        learned = found.helps and not found.given
        sigmas = found.run.sigmas if learned else grid
        ahead = found.run.look_ahead if learned else None
        what = {"teacher": DENSE_NAME, "learned_sigmas": learned, "look_ahead": ahead}
        what["asked_sigmas"] = tuple(grid) if learned else None
        what["peer_errors"] = self._peer_errors(scheme, grid, material.batches, errors)
        return self._table(scheme, sigmas, rows, errors, **what)

    def _peer_errors(
        self, scheme: Scheme, grid: Sequence[float], batches: Sequence[Batch], errors: Errors
    ) -> dict[str, float]:
        """What was asked for, by name; a peer that is the plain solver itself is known already."""
        if errors.plain_holdout is None:
            return {}
        others, how = self._other_peers(scheme), (grid, self.parametrization)
        return {
            name: peer_error(self.model, batches, name, *how)
            if name in others
            else errors.plain_holdout
            for name in self.peers
        }

    def _other_peers(self, scheme: Scheme) -> list[str]:
        """The peers that are not the plain solver itself."""
        kind = self.parametrization
        own = scheme.solver if hosts_kind(scheme.solver, kind) == kind else None
        return [name for name in self.peers if PEERS[name] != own]

    def _table(
        self, scheme: Scheme, grid: Sequence[float], lambdas: Tensor, errors: Errors, **more: Any
    ) -> LambdaTable:
        self.model.check_unchanged()
        evaluations, self.counted = self.model.evaluations - self.counted, self.model.evaluations
        return LambdaTable.of(
            scheme,
            grid,
            lambdas,
            errors=errors,
            samples_fit=self.samples.fit,
            samples_holdout=self.samples.held_out,
            evaluations=evaluations / len(self.samples),
            latent_shape=tuple(self.samples.x.shape[1:]),
            program=PROGRAM,
            **more,
        )


def dense_target(trajectory: Trajectory) -> Callable[[int, Stage], Tensor]:
    """The teacher's state wherever a stage lands."""
    return lambda k, stage: trajectory.at(stage.sigma_next)
