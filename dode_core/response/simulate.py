"""Any run in closed form: the expected error of many candidates at once, without the network.

A candidate is a plan: sigmas, where its first evaluation looks, and rows. Stage k goes

    x_{k+1} = x_k + (sigma_{k+1} - sigma_k) sum_j c_kj m_{k-j},   m = (x - denoised) / sigma

with m_{-1} the noise guess x_0 / hypot(alpha, sigma_0), three outputs at most: what D-DDIM's two
columns and gain express exactly. What the response does not predict is carried as one more
coordinate a stage and band, with its variance.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from .model import Array, Response, line, unit

HISTORY = 3
Look = Callable[[int, Array, Array], Array]


@dataclass(frozen=True)
class Plan:
    """One run: sigmas (n + 1), rows (n, HISTORY), where it looks first (None: where it starts).

    ``expected`` is the predicted RMS of its final error.
    """

    sigmas: tuple[float, ...]
    rows: Array
    ahead: float | None = None
    expected: float = float("nan")

    @property
    def stages(self) -> int:
        return len(self.sigmas) - 1


@dataclass
class Batch:
    """Candidates of one size: sigmas (c, n + 1), rows (c, n, HISTORY), ahead (c,) or None."""

    sigmas: Array
    rows: Array
    ahead: Array | None

    @classmethod
    def of(cls, plans: Sequence[Plan]) -> Batch:
        ahead = None
        if plans[0].ahead is not None:
            ahead = np.array([plan.ahead for plan in plans])
        sigmas = np.array([plan.sigmas for plan in plans])
        return cls(sigmas, np.stack([plan.rows for plan in plans]), ahead)


@dataclass
class Outcome:
    """What a simulation found for every candidate.

    ``final`` (c, elements): residuals whose squares sum to the expected mean square of the final
    error; ``way``: the same of the states on the way, averaged over them; ``rows`` (c, n, HISTORY).
    """

    final: Array
    way: Array
    rows: Array

    def errors(self) -> Array:
        return np.sqrt((self.final**2).sum(1))

    def residuals(self, weight: float) -> Array:
        """Final and, with the root of ``weight``, those on the way."""
        if weight == 0:
            return self.final
        return np.concatenate([self.final, np.sqrt(weight) * self.way], 1)


@dataclass
class _State:
    """States of all candidates: coordinates, and weights of the unpredicted parts."""

    x: Array  # (bands, c, rank)
    noise: Array  # (bands, c, n)

    def plus(self, weight: Array, other: _State) -> _State:
        w = weight[None, :, None]
        return _State(self.x + w * other.x, self.noise + w * other.noise)

    def minus(self, other: _State, scale: Array) -> _State:
        s = scale[None, :, None]
        return _State((self.x - other.x) * s, (self.noise - other.noise) * s)


def available(k: int) -> int:
    """How many outputs stage k may use, the noise guess included."""
    return min(HISTORY, k + 2)


class Simulation:
    """Runs candidates through a response."""

    def __init__(self, response: Response, way: bool = False) -> None:
        self.response, self.way = response, way

    def run(self, batch: Batch, fit: float | None = None) -> Outcome:
        """Simulate; with ``fit``, a ridge, rows are least squares to the teacher at every stage."""
        n, count = batch.rows.shape[1], len(batch.sigmas)
        start = self.response.state(batch.sigmas[:, 0])
        zeros = np.zeros((*start.shape[:2], n))
        state, variance = _State(start, zeros), zeros.copy()
        kind = self.response.parametrization
        norm = np.array([unit(s, kind) for s in batch.sigmas[:, 0]])
        past = [_State(start / norm[None, :, None], zeros)]
        rows, way = np.zeros((count, n, HISTORY)), []
        for k in range(n):
            s, t = batch.sigmas[:, k], batch.sigmas[:, k + 1]
            output = self._output(batch, k, state, variance)
            past = [state.minus(output, 1 / s), *past][:HISTORY]
            used = past[: available(k)]
            goal = self.response.state(t)
            if fit is None:
                rows[:, k] = batch.rows[:, k]
            else:
                rows[:, k, : len(used)] = _least_squares(state, used, goal, t - s, variance, fit)
            for j, m in enumerate(used):
                state = state.plus((t - s) * rows[:, k, j], m)
            if self.way and k + 1 < n:
                way.append(_residual(state, goal, variance) / np.sqrt(n))
        final = _residual(state, goal, variance)
        return Outcome(final, np.concatenate(way, 1) if way else final[:, :0], rows)

    def _output(self, batch: Batch, k: int, state: _State, variance: Array) -> _State:
        s = batch.sigmas[:, k]
        if k == 0 and batch.ahead is None:  # the teacher's own state: nothing is left to guess
            x = state.x - self.response.slope(s)
            return _State(x, np.zeros_like(state.noise))
        at, seen = s, state
        if k == 0 and batch.ahead is not None:
            at = batch.ahead
            ratio = (at / s)[None, :, None]
            x = state.x * ratio + (1 - ratio) * self.response.mean[:, None]
            seen = _State(x, state.noise)
        out, noise, added = self.response.denoised(at, seen.x, seen.noise, variance)
        noise[:, :, k] = 1.0
        variance[:, :, k] = added
        return _State(out, noise)


def _residual(state: _State, goal: Array, variance: Array) -> Array:
    """(c, elements): squares sum to the mean square distance from the goal."""
    parts = np.concatenate([state.x - goal, state.noise * np.sqrt(variance)], 2)
    return parts.transpose(1, 0, 2).reshape(parts.shape[1], -1)


def _least_squares(
    state: _State, used: Sequence[_State], goal: Array, h: Array, variance: Array, ridge: float
) -> Array:
    """Rows (c, len(used)) that bring the state nearest to the goal; shrunk towards DDIM."""
    root = np.sqrt(variance)
    flat = [np.concatenate([m.x, m.noise * root], 2) for m in used]
    want = np.concatenate([goal - state.x, -state.noise * root], 2) / h[None, :, None] - flat[0]
    q = np.stack(flat).transpose(2, 0, 1, 3).reshape(len(h), len(used), -1)
    r = want.transpose(1, 0, 2).reshape(len(h), -1, 1)
    gram, rhs = q @ q.transpose(0, 2, 1), (q @ r)[:, :, 0]
    size = np.sqrt(np.einsum("cii->ci", gram)) + 1e-150
    scaled = gram / size[:, :, None] / size[:, None, :] + ridge * np.eye(len(used))
    found = np.linalg.solve(scaled, (rhs / size)[:, :, None])[:, :, 0] / size
    found[:, 0] += 1
    return found


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


def with_expected(plan: Plan, error: float) -> Plan:
    return replace(plan, expected=float(error))
