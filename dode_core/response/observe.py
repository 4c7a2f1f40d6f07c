"""From samples to a response: inner products of the teacher's states and of observed outputs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from torch import Tensor

from ..fit import distributed
from ..fit.guarded import CountingModel
from ..fit.trajectory import Trajectory
from ..learn.student import robust_weights
from ..solve.integrate import State, complete, integrate
from ..solve.scheme import Scheme
from ..solve.stages import LookAhead, Stage
from ..tables.table import LambdaTable
from .bands import Bands
from .frame import coordinates
from .model import Array, Points, Response, default_curve, line, unit
from .simulate import HISTORY, Plan, available

SOLVER, COLUMNS = "ddim", 2  # whose rows, with a gain, are three free numbers


@dataclass
class Seen:
    """An observed run: its plan, every evaluation's outputs of every micro-batch, its errors."""

    plan: Plan
    outputs: list[list[Tensor]] = field(repr=False)  # [evaluation][micro-batch]
    squares: Tensor  # (samples,) mean square final errors

    @property
    def error(self) -> float:
        """RMS of the final errors."""
        return float(self.squares.mean().sqrt())


@dataclass
class Observer:
    """Micro-batches whose teacher is known, and the runs that were observed on them."""

    model: CountingModel
    states: Sequence[State]  # at the first sigma
    trajectories: Sequence[Trajectory]
    parametrization: str
    mean: tuple[float, ...] | None
    shape: tuple[int, ...]
    seen: list[Seen] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.bands = Bands(self.shape)
        self.robust = True

    @property
    def samples(self) -> int:
        rows = sum(len(trajectory.final) for trajectory in self.trajectories)
        return int(distributed.total(torch.tensor(float(rows))))

    def run(self, plan: Plan) -> Seen:
        """Run a plan on all micro-batches; what it shows is not kept unless it is added."""
        stages, lambdas = stages_of(plan, self.parametrization, self.mean)
        states = [
            self._begin(state, trajectory, plan.sigmas[0])
            for state, trajectory in zip(self.states, self.trajectories, strict=True)
        ]
        outputs: list[list[Tensor]] = []

        def choose(k: int, stage: Stage, running: Sequence[State]) -> Sequence[float]:
            outputs.append([state.denoised for state in running])
            return lambdas[k]

        for _ in integrate(
            self.model, states, stages, choose, parametrization=self.parametrization
        ):
            pass
        return Seen(plan, outputs, self._squares(states))

    def run_table(self, table: LambdaTable) -> Tensor:
        """(samples,) mean square final errors of a table's run on all micro-batches."""
        pairs = list(zip(self.states, self.trajectories, strict=True))
        states = [self._begin(*pair, float(table.sigmas[0])) for pair in pairs]
        rows = table.lambdas.tolist()

        def choose(k: int, stage: Stage, running: Sequence[State]) -> Sequence[float]:
            return rows[k]

        complete(self.model, states, table.stages, choose, parametrization=self.parametrization)
        return self._squares(states)

    def _squares(self, states: Sequence[State]) -> Tensor:
        """(samples,) mean square final errors."""
        pairs = zip(states, self.trajectories, strict=True)
        squares = [mean_square(state.x - trajectory.final) for state, trajectory in pairs]
        return distributed.gather(torch.cat(squares))

    def _begin(self, state: State, trajectory: Trajectory, sigma: float) -> State:
        state = state.copy()
        x = state.x if sigma == trajectory.sigmas[0] else trajectory.at(sigma)
        state.x = state.start = state.denoised = x.to(state.x)
        return state

    def response(self, runs: Sequence[Seen] | None = None) -> Response:
        """What the teacher and ``runs`` (all that were added) show."""
        runs = self.seen if runs is None else runs
        weights = self._weights(runs)
        knots = np.array(self.trajectories[0].sigmas)
        count = len(knots)
        grams = self._grams(runs, weights)
        frame = coordinates(grams.numpy())
        states, slopes = frame[:, :count], frame[:, count : 2 * count]
        final, mean = frame[:, 2 * count], frame[:, 2 * count + 1]
        curve = default_curve(knots, self._variances(frame), self.parametrization)
        blank = Response(knots, states, slopes, final, mean, curve, self.parametrization)
        first, parts = 2 * count + 2, []
        for run in runs:
            outputs = frame[:, first : first + run.plan.stages]
            first += run.plan.stages
            parts.append(replay(blank, run.plan, outputs))
        if not parts:
            return blank
        logs, dx, answer = zip(*parts, strict=True)
        points = Points(np.concatenate(logs), np.concatenate(dx, 1), np.concatenate(answer, 1))
        return replace(blank, points=points)

    def _weights(self, runs: Sequence[Seen]) -> Tensor:
        if not runs or not self.robust:
            return torch.ones(self.samples, dtype=torch.float64)
        logs = torch.stack([run.squares.clamp(min=1e-30).log() for run in runs]).mean(0)
        return robust_weights(logs.exp())

    def _variances(self, frame: Array) -> Array:
        """The data's variance by band and element, roughly: the final states about their mean."""
        final = frame[:, 2 * len(self.trajectories[0].sigmas)]
        share = np.bincount(self.bands.index.numpy(), minlength=self.bands.count)
        return (final**2).sum(1) / (share / share.sum())

    def _grams(self, runs: Sequence[Seen], weights: Tensor) -> Tensor:
        """Weighted inner products by band of all vectors, per element and sample."""
        mean = torch.zeros(self.shape, dtype=torch.float64)
        for channel, value in enumerate(self.mean or ()):
            mean[channel] = value
        size = 2 * len(self.trajectories[0].sigmas) + 2 + sum(run.plan.stages for run in runs)
        total = torch.zeros(self.bands.count, size, size, dtype=torch.float64)
        mine = distributed.mine(weights, sum(len(t.final) for t in self.trajectories))
        number = 0
        for p, trajectory in enumerate(self.trajectories):
            for row in range(len(trajectory.final)):
                vectors = [x[row] for x in trajectory.x] + [s[row] for s in trajectory.slope]
                vectors += [trajectory.final[row], mean]
                vectors += [outputs[p][row] for run in runs for outputs in run.outputs]
                total += self.bands.grams(vectors) * mine[number]
                number += 1
        return distributed.total(total) / (float(weights.sum()) * mean.numel())


def replay(response: Response, plan: Plan, outputs: Array) -> tuple[Array, Array, Array]:
    """What an observed run says: places on the line (n,), dx and dD (bands, n, rank).

    ``outputs`` (bands, n, rank) are the coordinates of its denoised outputs. The first evaluation
    of a run that does not look ahead says nothing and is left out.
    """
    sigmas = np.array(plan.sigmas)
    x = response.state(sigmas[:1])
    past = [x / unit(sigmas[0], response.parametrization)]
    logs, moved, answers = [], [], []
    for k in range(plan.stages):
        s, at, seen = sigmas[k], sigmas[k], x
        if k == 0 and plan.ahead is not None:
            at, ratio = plan.ahead, plan.ahead / s
            seen = x * ratio + (1 - ratio) * response.mean[:, None]
        teacher = response.state(np.array([at]))
        out = outputs[:, k : k + 1]
        if k or plan.ahead is not None:
            logs.append(line(np.array(at), response.parametrization))
            moved.append(seen - teacher)
            answers.append(out - teacher + response.slope(np.array([at])))
        past = [(x - out) / s, *past][:HISTORY]
        h = sigmas[k + 1] - s
        x = x + h * sum(w * m for w, m in zip(plan.rows[k], past[: available(k)], strict=False))
    return np.array(logs), np.concatenate(moved, 1), np.concatenate(answers, 1)


def mean_square(x: Tensor) -> Tensor:
    return x.flatten(1).double().square().mean(1).cpu()


def scheme(parametrization: str) -> Scheme:
    """What a plan's rows are lambdas of."""
    return Scheme.of(SOLVER, parametrization, COLUMNS, gain=True)


def lambdas_of(plan: Plan) -> list[list[float]]:
    """The rows as D-DDIM's lambdas: two differences and a gain."""
    found = []
    for c0, c1, c2 in plan.rows.tolist():
        found.append([-c1 - c2, -c2, c0 + c1 + c2 - 1])
    return found


def rows_of(lambdas: Sequence[Sequence[float]]) -> Array:
    """The inverse of :func:`lambdas_of`."""
    return np.array([[1 + g + a, b - a, -b] for a, b, g in lambdas])


def stages_of(
    plan: Plan, parametrization: str, mean: tuple[float, ...] | None
) -> tuple[list[Stage], list[list[float]]]:
    """What the one loop runs."""
    ahead = None if plan.ahead is None else LookAhead(plan.ahead, mean or ())
    return scheme(parametrization).stages(plan.sigmas, ahead), lambdas_of(plan)
