"""Distilling once: a few runs of the model from which every later run's table follows.

One dense teacher, then student runs on the fit samples, each designed with what was seen so far:
they show how the model answers off the teacher's path (:mod:`.response.model`). At the end held-out
samples measure some tables against what the profile expected of them.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from .errors import CalibrationError, Enough
from .fit.batches import Samples
from .fit.dropping import dropping_samples
from .fit.guarded import Progress, args_of
from .fit.trajectory import DENSE_STEPS
from .learn.learn import SCOUTS
from .response.design import Designer
from .response.in_advance import with_tables
from .response.measured import Measured
from .response.measuring import measure, reserved
from .response.observe import Observer
from .response.profile import Profile, look_of
from .response.simulate import Plan
from .session import Session
from .solve.integrate import Denoiser
from .tables.table import LambdaTable

QUICK_BUDGET = 64
LEAST_BUDGET = 56
LEAST_SAMPLES = 8  # that a host or a command takes; fewer say too little
LEAST_LEARNED = 5  # samples; half of those given: more runs of fewer samples show more
FAR, NEAR = 0.48, 0.8  # of the first sigma: where first evaluations of short and long runs look
# Steps of the runs that are observed, and no more: of 150 evaluations profiles were further off.
OBSERVED = (9, 6, 12, 8, 5, 8)
LARGE_BUDGET = 120  # from here on samples that are not learned from measure as well
WEIGHT = 1.0  # of the states on the way: 0.3 left plans that look well only on what was seen


@torch.no_grad()
@dropping_samples
def calibrate(
    model: Denoiser,
    x: Tensor,
    sigma_max: float,
    sigma_min: float,
    *,
    extra_args: Mapping[str, Any] | None = None,
    parametrization: str | None = None,
    holdout: float = 0.25,
    budget: float = QUICK_BUDGET,
    progress: Progress | None = None,
    batch_size: int = SCOUTS,
) -> Profile:
    """One calibration for every run of a model: any steps, start and grid.

    model: ``model(x, sigma, **extra_args) -> denoised``, sigma of shape (b,). x: the noise at
    ``sigma_max``, shape (B, ...), of 8 samples or more; latents of any rank. ``sigma_min`` is the
    lowest sigma above 0 that a run may use. Tensors in ``extra_args`` whose first dimension is B
    belong to the samples. The last ``round(holdout * B)`` samples only measure; of the others half
    of B, at least %d, are learned from, evenly chosen. The rest pays for more runs of those; from a
    budget of %d on it measures as well, and more numbers of steps are measured. Measured runs that
    do not end nearer than built-in rows on the same samples are left to those rows. Tables may be
    made in advance: see :func:`.response.in_advance.with_tables`.

    At most ``budget`` model evaluations per sample of x in all, %d of each that is followed.
    ``progress(done, total, denoised)`` is called after every model call; raising from it stops the
    calibration, and raising :class:`Enough` after the first student run ends it with what is known.
    Raises :class:`SigmasError` and :class:`CalibrationError`.
    """
    if not 0 < sigma_min < sigma_max:
        raise CalibrationError(
            f"The sigmas go from {sigma_max} to {sigma_min}; the first must be "
            "the larger one, both above 0."
        )
    if budget < LEAST_BUDGET:
        raise CalibrationError(
            f"A budget of {budget:g} evaluations per sample is too small; a calibration takes at "
            f"least {LEAST_BUDGET}."
        )
    began, grid = time.monotonic(), (float(sigma_max), float(sigma_min), 0.0)
    given = Samples(x, extra_args, holdout, min(batch_size, SCOUTS))
    samples = _fewer(given, budget)
    session = Session(model, samples, grid, parametrization, progress)
    session.model.total = session.most_calls(budget * len(given) / len(samples))
    found = Calibrator(session, budget, len(given)).profile()
    with suppress(Enough):
        if session.model.progress is progress:  # nobody had enough
            found = with_tables(found, time.monotonic() - began, session.model)
        session.model.finish()
    return found


calibrate.__doc__ = (calibrate.__doc__ or "") % (LEAST_LEARNED, LARGE_BUDGET, DENSE_STEPS)


def check_samples(samples: int) -> None:
    """Raises :class:`CalibrationError` for so few that they say too little of every run."""
    if samples < LEAST_SAMPLES:
        raise CalibrationError(
            f"{samples} samples are too few to serve any number of steps; use {LEAST_SAMPLES} or "
            "more, or distill for one number of steps."
        )


def _fewer(samples: Samples, budget: float) -> Samples:
    """The samples that a calibration follows: half to learn from, and those held out.

    A large budget measures on all that it does not learn from.
    """
    learned = max(LEAST_LEARNED, len(samples) // 2)
    if samples.fit <= learned:
        return samples
    spread = [i * samples.fit // learned for i in range(learned)]
    others = [i for i in range(samples.fit) if i not in spread]
    measuring = [*others, *range(samples.fit, len(samples))]
    if budget < LARGE_BUDGET or not samples.held_out:
        measuring = measuring[len(others) :]
    rows = torch.tensor([*spread, *measuring])
    args = args_of(samples.extra_args, rows, len(samples))
    share = len(measuring) / len(rows)
    return replace(samples, x=samples.x[rows.to(samples.x.device)], extra_args=args, holdout=share)


@dataclass
class Calibrator:
    """The runs of one calibration, in order, as far as the budget goes."""

    session: Session
    budget: float  # evaluations per sample that was given
    given: int
    looks: tuple[float, ...] = field(default=(), init=False)

    def profile(self) -> Profile:
        session = self.session
        held = [session.samples.is_held_out(part) for part in session.parts]
        fit = [i for i, out in enumerate(held) if not out]
        self.fit = self._observer(fit)
        self.held = self._observer([i for i, out in enumerate(held) if out])
        if session.mean is not None:
            self.looks = FAR * session.grid[0], NEAR * session.grid[0]
        try:
            self._explore()
        except Enough:
            if not self.fit.seen:
                raise
            session.model.progress = None
        return self._finish()

    def _observer(self, parts: list[int]) -> Observer:
        session = self.session
        return Observer(
            session.model,
            [session.samples.state(session.parts[i]) for i in parts],
            [session.trajectories[i] for i in parts],
            session.parametrization,
            session.mean,
            tuple(session.samples.x.shape[1:]),
        )

    @property
    def left(self) -> float:
        """Evaluations, of all samples, the last check taken off."""
        return self.budget * self.given - self.session.model.evaluations - 1

    def _explore(self) -> None:
        """Runs of the fit samples, the later ones designed with what the earlier ones show."""
        for steps in OBSERVED:
            self._follow(steps)

    def _follow(self, steps: int) -> None:
        """Design a run, run it, and add what it shows, where the budget pays for it."""
        if self.left - reserved(self.held.samples) < steps * self.fit.samples:
            return
        known = [run.plan for run in self.fit.seen if run.plan.stages == steps][-1:]
        look = look_of(self.looks, steps)
        plan = Designer(self.fit.response(), WEIGHT).next(steps, look, known)
        self.fit.seen.append(self.fit.run(plan))

    def _finish(self) -> Profile:
        measured: list[Measured] = []
        tables: list[LambdaTable] = []
        alone: list[Plan] = []  # of runs that were not measured beside built-in rows
        self.session.model.begin("measuring some runs on samples that were kept apart")
        try:
            for found, plan, table in measure(self._profile(), self.held, lambda: self.left):
                measured.append(found)
                if table is None:
                    alone.append(plan)
                else:
                    tables.append(table)
        except Enough:
            self.session.model.progress = None
        self.session.model.check_unchanged()
        profile = replace(self._profile(), measured=tuple(measured), tables=tuple(tables))
        return replace(profile, tables=(*tables, *map(profile.chosen, alone)))

    def _profile(self) -> Profile:
        session = self.session
        return Profile(
            self.fit.response(),
            session.mean,
            self.looks,
            WEIGHT,
            session.model.evaluations / self.given,
            session.samples.fit,
            session.samples.held_out,
            latent_shape=tuple(session.samples.x.shape[1:]),
        )
