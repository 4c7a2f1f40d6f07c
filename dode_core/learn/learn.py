"""Distilled sigmas: inner sigmas move together with the lambdas to lower the final error.

A few samples choose among families of grids (:mod:`.starts`), with the lambdas fitted in closed
form along every run. From the best of them, rounds of Gauss-Newton with Broyden updates
(:mod:`.gauss_newton`) move sigmas and lambdas together on the fit samples, then from the next best.
Samples whose run ends far off (under guidance a few fork to another image) weigh less. Held-out
samples decide which round is kept, and whether the given grid was better after all.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import accumulate
from typing import TYPE_CHECKING

from ..errors import Enough
from ..fit.batches import Batch
from ..fit.guarded import CountingModel
from ..fit.stagewise import NEGLIGIBLE, start_size
from ..fit.trajectory import Trajectory
from ..solve.scheme import Scheme
from ..tables.fields import MAX_LAMBDA, Errors
from .choice import best_run
from .gauss_newton import improve, jacobian_cost
from .starts import LONG, Start, rank_starts
from .student import Run, Student

if TYPE_CHECKING:
    from ..solve.stages import Row

DEFAULT_BUDGET = 300  # model evaluations per sample, teacher included
REFINE_BUDGET = 150  # the same from lambdas that are known
MANY_BUDGET = 1500  # of many tables together
SCOUTS = 4  # samples that choose among starts
STARTS_SHARE = 0.2  # of the budget, at most, for choosing a start
LONGEST, LONG_SHARE = 16, 0.12  # the same beyond 16 stages, whose Jacobian hardly fits
STARTS_KEPT = 2  # starts that are learned from, while the budget lasts
STALLED = 0.99  # a round that lowers the error by less is the last from its start


@dataclass(frozen=True)
class Learned:
    """What :func:`learn` found: the run, its errors, and whether held-out samples prefer it.

    ``given`` is set when the given grid is kept, with lambdas fitted on it.
    """

    run: Run
    errors: Errors
    helps: bool
    given: bool


@dataclass(frozen=True)
class Material:
    """What is learned from: a session's samples with their targets, and the teacher's run of each.

    ``mean`` is what runs that look ahead guess; None where none should.
    """

    model: CountingModel
    batches: Sequence[Batch]
    trajectories: Sequence[Trajectory]
    mean: Row | None = None

    @property
    def low(self) -> float:
        """The teacher's lowest sigma: no node goes below."""
        return self.trajectories[0].sigmas[-1]


@dataclass
class Learner:
    """One table in the making, and what it may still cost."""

    material: Material
    scheme: Scheme
    allowed: float  # evaluations in all
    model: CountingModel = field(init=False)
    batches: Sequence[Batch] = field(init=False)
    spent_before: int = field(init=False)
    begun: Run | None = field(default=None, init=False)  # by the first start that brought lambdas

    def __post_init__(self) -> None:
        self.model, self.batches = self.material.model, self.material.batches
        self.spent_before = self.model.evaluations

    @property
    def left(self) -> float:
        return self.allowed - (self.model.evaluations - self.spent_before)

    def student(self, batches: Sequence[Batch], mean: Row | None = None) -> Student:
        return Student(self.model, batches, self.scheme, mean)

    def rounds(self, sigmas: Sequence[float], extra: Sequence[Start]) -> list[Run]:
        """Starts and the best run of every round, on all samples, as far as the budget goes.

        The first is the given grid's. Runs that were finished count when the user has enough.
        """
        everyone = self.student(self.batches)
        found = [everyone.run(sigmas)]
        try:
            self._learn(sigmas, extra, found)
        except Enough:
            self.model.progress = None
        return found

    def _learn(self, sigmas: Sequence[float], extra: Sequence[Start], found: list[Run]) -> None:
        fit = [batch for batch in self.batches if not batch.held_out]
        stages = len(found[0].stages)
        ready = [start for start in extra if start.rows is not None and self._runs(start)]
        starts = ready or self._ranked(sigmas, extra, fit, stages)
        begun = []
        for start in starts[:STARTS_KEPT]:
            everyone = self.student(self.batches, self._mean(start))
            if self.left < stages * everyone.samples:
                break
            given = start == Start(tuple(sigmas))
            run = found[0] if given else everyone.run(start.nodes, start.rows)
            found.append(run)
            self.begun = self.begun or (run if ready else None)
            high = stages > LONG and not begun and not ready
            rows = everyone.high_order(start.nodes) if high else None
            if rows is not None and self.left >= stages * everyone.samples:
                found.append(everyone.run(start.nodes, rows))
                run = min(run, found[-1], key=everyone.typical_error)
            begun.append((everyone.typical_error(run), everyone, run))
        # Those that look ahead end lower, also where they begin a little higher: but in long runs.
        begun.sort(key=lambda each: (stages <= LONG and each[2].look_ahead is None, each[0]))
        for error, everyone, run in begun:
            while (better := self._round(everyone, fit, run)) is not None:
                found.append(better)
                last, error = error, everyone.typical_error(better)
                if error > STALLED * last:
                    break
                run = better

    def _ranked(
        self, sigmas: Sequence[float], extra: Sequence[Start], fit: Sequence[Batch], stages: int
    ) -> list[Start]:
        """The starts of all families, tried on the first few samples."""
        few = fit[: _groups(fit)[0]]
        scouts, mean = self.student(few), self.material.mean
        share = STARTS_SHARE if stages <= LONGEST else LONG_SHARE
        trials = share * self.left / (stages * scouts.samples)
        pairs = zip(self.material.trajectories, self.batches, strict=True)
        known = [trajectory for trajectory, batch in pairs if not batch.held_out]
        ahead = None if mean is None else self.student(few, mean)
        self.model.begin("trying schedules to start from")
        extra = [start for start in extra if self._runs(start)]
        return rank_starts(scouts, ahead, known, sigmas, extra, self.material.low, trials)

    def _mean(self, start: Start) -> Row | None:
        if not start.ahead:
            return None
        return self.material.mean if start.mean is None else start.mean

    def _runs(self, start: Start) -> bool:
        """Whether this model may be run as a start says."""
        return not start.ahead or self.material.mean is not None

    def _round(self, everyone: Student, fit: Sequence[Batch], run: Run) -> Run | None:
        """One round, run again on all samples; None where it finds nothing or costs too much.

        On as many fit samples as the budget pays for. Where it does not pay for the first few,
        long runs, only the first lambda of every stage moves with the nodes.
        """
        n = len(run.stages)
        left = self.left - n * everyone.samples
        for columns in (everyone.width, 1):
            each = jacobian_cost(run, columns) + 2 * n
            affordable = [k for k in _groups(fit) if left >= self.student(fit[:k]).samples * each]
            if affordable:
                break
        else:
            return None
        count = affordable[-1]
        learners = self.student(fit[:count], everyone.mean)
        room = left / learners.samples - jacobian_cost(run, columns)
        base = run.part(count)  # fit samples come first
        self.model.begin("learning where to step, and how")
        best = improve(learners, base, self.material.low, int(room / n) - 1, columns)
        return None if best is None else everyone.run(best.nodes, best.lambdas)


def _groups(batches: Sequence[Batch]) -> list[int]:
    """How many micro-batches make the first group of SCOUTS samples, the first two, and so on.

    Learning goes by groups, so that it does not depend on the size of micro-batches.
    """
    ends = list(accumulate(batch.samples for batch in batches))
    found = [k for k, end in enumerate(ends, 1) if end % SCOUTS < batches[k - 1].samples]
    return found if found and found[-1] == len(ends) else [*found, len(ends)]


def learn(
    material: Material,
    sigmas: Sequence[float],
    scheme: Scheme,
    budget: float,
    extra: Sequence[Start] = (),
) -> Learned:
    """Move the inner sigmas of a grid together with the lambdas, within ``budget`` evaluations
    per sample. ``extra`` are more starts; where some bring lambdas, learning goes on from those
    and tries no others. Compared with the plain solver on the given grid.
    """
    everyone = Student(material.model, material.batches, scheme)
    material.model.begin("measuring the solver as it is")
    before = everyone.run_plain(sigmas)
    learner = Learner(material, scheme, (budget - len(before.stages)) * everyone.samples)
    runs = learner.rounds(sigmas, extra)
    held_out = everyone.validates
    sane = [run for run in runs if all(abs(v) <= MAX_LAMBDA for row in run.lambdas for v in row)]
    begun = learner.begun if any(run is learner.begun for run in sane) else None
    kept = best_run(everyone, sane or runs[:1], begun)
    pairs = [(everyone.error(before, held), everyone.error(kept, held)) for held in (False, True)]
    judge = pairs[held_out]
    helps = (
        bool(sane) and judge[1] < judge[0] and judge[0] > NEGLIGIBLE * start_size(material.batches)
    )
    errors = Errors(*pairs[0], *pairs[1]) if held_out else Errors(*pairs[0])
    given = kept.look_ahead is None and kept.sigmas == runs[0].sigmas
    return Learned(kept, errors, helps, given)


def least_budget(stages: int) -> float:
    """Evaluations per sample without any learning: plain and fitted run on the given grid."""
    return 2 * stages
