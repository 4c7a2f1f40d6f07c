"""Any run in closed form: the expected error of many candidates at once, without the network.

A candidate is a plan: sigmas, where its first evaluation looks, and rows. Stage k goes

    x_{k+1} = x_k + (sigma_{k+1} - sigma_k) sum_j c_kj m_{k-j},   m = (x - denoised) / sigma

with m_{-1} the noise guess x_0 / hypot(alpha, sigma_0), three outputs at most: what D-DDIM's two
columns and gain express exactly. What the response does not predict is carried as one more
coordinate a stage and band, with its variance.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from .model import Around, Array, Response, unit

HISTORY = 3


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

    def plus(self, weights: Array, others: Sequence[_State]) -> _State:
        """With ``weights`` (c, others)."""
        found = _State(self.x.copy(), self.noise.copy())
        for w, other in zip(weights.T[:, None, :, None], others, strict=True):
            found.x += w * other.x
            found.noise += w * other.noise
        return found

    def minus(self, other: _State, scale: Array) -> _State:
        s = scale[None, :, None]
        found = _State(self.x - other.x, self.noise - other.noise)
        found.x *= s
        found.noise *= s
        return found

    def with_copies(self, more: int) -> _State:
        """So many candidates more, where the first one is."""
        return _State(_with_copies(self.x, more), _with_copies(self.noise, more))


def _with_copies(values: Array, more: int) -> Array:
    return np.concatenate([values, np.repeat(values[:, :1], more, 1)], 1)


def available(k: int) -> int:
    """How many outputs stage k may use, the noise guess included."""
    return min(HISTORY, k + 2)


class Simulation:
    """Runs candidates through a response."""

    def __init__(self, response: Response, way: bool = False) -> None:
        self.response, self.way = response, way

    def run(self, batch: Batch, fit: float | None = None) -> Outcome:
        """Simulate; with ``fit``, a ridge, rows are least squares to the teacher at every stage."""
        n, way = batch.rows.shape[1], []
        if fit is not None:
            batch = replace(batch, rows=np.zeros_like(batch.rows))
        for k, reached in enumerate(self._stages(batch, fit)):
            if k + 1 == n:
                final = _residual(*reached)
            elif self.way:
                way.append(_residual(*reached) / np.sqrt(n))
        return Outcome(final, np.concatenate(way, 1) if way else final[:, :0], batch.rows)

    def normal_equations(
        self, batch: Batch, since: Array, delta: float, weight: float
    ) -> tuple[Array, Array]:
        """J J^T (p, p) and -J r (p,) of the residuals r of the first of a batch of p + 1 plans.

        The others are it with one parameter moved by ``delta``: forward differences.
        A plan goes as the first does before stage ``since`` (p + 1,), which rises from plan to plan
        and is 0 for the first. ``weight`` is that of the states on the way.
        """
        n, count = batch.rows.shape[1], len(since) - 1
        gram, rhs = np.zeros((count, count)), np.zeros(count)
        for k, reached in enumerate(self._stages(batch, None, since)):
            share = 1.0 if k + 1 == n else weight / n
            if share == 0:
                continue
            residual = _residual(*reached)
            jacobian = residual[1:] - residual[0]
            jacobian /= delta
            moved = len(jacobian)
            gram[:moved, :moved] += share * (jacobian @ jacobian.T)
            rhs[:moved] -= share * (jacobian @ residual[0])
        return gram, rhs

    def _stages(
        self, batch: Batch, fit: float | None, since: Array | None = None
    ) -> Iterator[tuple[_State, Array, Array]]:
        """After every stage the states, the teacher's, and the variance of the unpredicted parts,
        of the plans that left the first one's way by then. With ``fit`` it fills the batch's rows.
        """
        n, count = batch.rows.shape[1], len(batch.sigmas)
        active = count if since is None else int((since <= 0).sum())
        seen = [batch.sigmas] if batch.ahead is None else [batch.sigmas, batch.ahead[:, None]]
        few, places = np.unique(np.concatenate(seen, 1), return_inverse=True)  # mostly shared
        around, places = self.response.at(few), places.reshape(count, -1)
        start = around.state[:, places[:active, 0]]
        zeros = np.zeros((*start.shape[:2], n))
        state, variance = _State(start, zeros), zeros.copy()
        kind = self.response.parametrization
        norm = np.array([unit(s, kind) for s in batch.sigmas[:active, 0]])
        past = [_State(start / norm[None, :, None], zeros)]
        for k in range(n):
            more = 0 if since is None else int((since <= k).sum()) - active
            if more:
                active, variance = active + more, _with_copies(variance, more)
                state, past = state.with_copies(more), [m.with_copies(more) for m in past]
            s, t = batch.sigmas[:active, k], batch.sigmas[:active, k + 1]
            output = self._output(batch, k, state, variance, around, places[:active])
            past = [state.minus(output, 1 / s), *past][:HISTORY]
            used = past[: available(k)]
            goal = around.state[:, places[:active, k + 1]]
            rows = batch.rows[:active, k]
            if fit is not None:
                rows[:, : len(used)] = _least_squares(state, used, goal, t - s, variance, fit)
            state = state.plus((t - s)[:, None] * rows[:, : len(used)], used)
            yield state, goal, variance

    def _output(
        self,
        batch: Batch,
        k: int,
        state: _State,
        variance: Array,
        around: Around,
        places: Array,
    ) -> _State:
        """The denoised output of stage k; ``places`` (c, n + 1 or n + 2) of the sigmas in
        ``around``, the look ahead's last.
        """
        at, x = places[:, k], state.x
        if k == 0 and batch.ahead is None:  # the teacher's own state: nothing is left to guess
            x = x - around.state[:, at] + around.output[:, at]
            return _State(x, np.zeros_like(state.noise))
        if k == 0 and batch.ahead is not None:
            at = places[:, -1]
            ratio = (batch.ahead / batch.sigmas[:, 0])[None, : len(at), None]
            x = x * ratio + (1 - ratio) * self.response.mean[:, None]
        out, noise, added = around.denoised(at, x, state.noise, variance)
        noise[:, :, k] = 1.0
        variance[:, :, k] = added
        return _State(out, noise)


def _residual(state: _State, goal: Array, variance: Array) -> Array:
    """(c, elements): squares sum to the mean square distance from the goal."""
    bands, count, rank = goal.shape
    parts = np.empty((count, bands, rank + variance.shape[2]))
    np.subtract(state.x.swapaxes(0, 1), goal.swapaxes(0, 1), out=parts[:, :, :rank])
    noise = (state.noise.swapaxes(0, 1), np.sqrt(variance).swapaxes(0, 1))
    np.multiply(*noise, out=parts[:, :, rank:])
    return parts.reshape(count, -1)


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


def with_expected(plan: Plan, error: float) -> Plan:
    return replace(plan, expected=float(error))
