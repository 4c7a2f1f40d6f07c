"""One round of learning: a Jacobian by finite differences, then quasi-Newton steps on it.

The residuals are :meth:`Student.path`: final state minus teacher's, and with less weight those of
the states before it. Their parameters are the inner nodes of the grid and the lambdas. One column
of the Jacobian is one run with one parameter changed, from the first stage that it changes.

A step is damped Gauss-Newton (Levenberg 1944, Marquardt 1963). A Jacobian costs many runs and a
step one, so several steps are taken with one Jacobian, which Broyden's rank-one update (1965)
corrects after each by what the step really did. There is no backpropagation, so that any host and
any quantised or offloaded model can be learned from.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..fit import distributed
from ..solve.noise import from_minus_log_snr, minus_log_snr
from ..tables.fields import MAX_LAMBDA
from .student import Row, Run, Student, robust_weights

PERTURBATION = 0.15  # of the gap to the nearer neighbour, in log sigma (logit for flow)
LAMBDA_PERTURBATION = 0.05
MAX_MOVE = 0.45  # of the gap, per step: the order of the grid is kept
DAMPINGS = (0.0025, 0.04)  # tried in the first step of a round
STEPS = 4  # quasi-Newton steps of a round
WORTH = 0.995  # a step that lowers the error by less ends the round


def gaps(nodes: Sequence[float], parametrization: str) -> list[float]:
    """For every inner node the distance to its nearer neighbour, in minus log-SNR."""
    line = [minus_log_snr(sigma, parametrization) for sigma in nodes if sigma > 0]
    line += [line[-1] - 1.5] * (len(nodes) - len(line))  # 0 lies far below
    return [min(line[j - 1] - line[j], line[j] - line[j + 1]) for j in range(1, len(line) - 1)]


def moved(
    nodes: Sequence[float], steps: Sequence[float], parametrization: str, low: float = 0.0
) -> list[float]:
    """Inner nodes moved in minus log-SNR, by at most MAX_MOVE of the gap to their neighbours.

    None goes below ``low``, unless it lay there.
    """
    out = [float(nodes[0])]
    room = gaps(nodes, parametrization)
    for sigma, step, gap in zip(nodes[1:-1], steps, room, strict=True):
        step = max(-MAX_MOVE * gap, min(MAX_MOVE * gap, step))
        to = sigma
        if step:
            log = minus_log_snr(sigma, parametrization) + step
            to = from_minus_log_snr(log, parametrization)
        out.append(max(min(sigma, low), to))
    return [*out, float(nodes[-1])]


@dataclass
class Jacobian:
    """d residual / d parameter, (parameters, samples, elements) float32 on the CPU.

    Parameters: the inner nodes in minus log-SNR, then the lambdas at ``places`` (stage, column).
    """

    values: Tensor
    places: list[tuple[int, int]]

    def products(self, residual: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
        """(J'WJ, -J'Wr), summed sample by sample in float64, over all processes."""
        size = len(self.values)
        gram = torch.zeros(size, size, dtype=torch.float64)
        rhs = torch.zeros(size, dtype=torch.float64)
        for b, weight in enumerate(distributed.mine(weights, len(residual)).tolist()):
            rows = self.values[:, b].double()
            gram += weight * (rows @ rows.T)
            rhs -= weight * (rows @ residual[b])
        return distributed.total(gram), distributed.total(rhs)

    def correct(self, step: Tensor, scale: Tensor, change: Tensor) -> None:
        """Broyden's update: afterwards J step = change. Parameters are measured by ``scale``."""
        direction = step * scale.square()
        size = float(step @ direction)
        if size == 0:
            return
        for b in range(self.values.shape[1]):
            missing = change[b] - step @ self.values[:, b].double()
            self.values[:, b] += torch.outer(direction / size, missing).to(self.values)


def lambda_places(run: Run, columns: int) -> list[tuple[int, int]]:
    """Where the lambdas that are moved lie: the first ``columns`` of every stage that has them."""
    rows = [(k, i, row) for k, stage in enumerate(run.stages) for i, row in enumerate(stage.c)]
    return [(k, i) for k, i, row in rows if row and i < columns]


def jacobian_cost(run: Run, columns: int) -> int:
    """Model evaluations per sample of one Jacobian."""
    n = len(run.stages)
    cost = sum(n - 1 - k for k, _ in lambda_places(run, columns))
    for sigma in run.sigmas[1:-1]:
        first = next(k for k, stage in enumerate(run.stages) if stage.sigma_next == sigma)
        cost += n - 1 - first
    return cost + (n if run.look_ahead is not None else 0)


def differences(student: Student, run: Run, columns: int) -> Jacobian:
    """The Jacobian at ``run``, by forward differences."""
    places = lambda_places(run, columns)
    base = student.path(run)
    inner = len(run.nodes) - 2
    values = torch.empty(inner + len(places), *base.shape, dtype=torch.float32)
    for j, gap in enumerate(gaps(run.nodes, student.parametrization)):
        delta = PERTURBATION * gap
        steps = [delta * (i == j) for i in range(inner)]
        nodes = moved(run.nodes, steps, student.parametrization)
        other = student.run(nodes, run.lambdas, run)
        values[j] = (student.path(other) - base) / delta
    for p, (k, i) in enumerate(places):
        lambdas = [list(row) for row in run.lambdas]
        lambdas[k][i] += LAMBDA_PERTURBATION
        other = student.run(run.nodes, lambdas, run)
        values[inner + p] = (student.path(other) - base) / LAMBDA_PERTURBATION
    return Jacobian(values, places)


def improve(
    student: Student, run: Run, low: float, steps: int, columns: int | None = None
) -> Run | None:
    """One round from ``run``: the run of least (robustly weighted) final error that it meets.

    ``columns`` moves only the first lambdas of every stage, and the nodes.
    None when no step lowers the error. At most ``steps`` + 1 runs after the Jacobian; no inner
    sigma goes below ``low``.
    """
    residual = student.path(run)
    weights = robust_weights(squares(residual))
    error = size(residual, weights)
    jacobian = differences(student, run, student.width if columns is None else columns)
    dampings: Sequence[float] = DAMPINGS
    best = None
    for _ in range(min(STEPS, steps)):
        gram, rhs = jacobian.products(residual, weights)
        scale = gram.diagonal().clamp(min=1e-30).sqrt()
        tried = []
        for damping in dampings:
            unit = gram / scale[:, None] / scale
            unit = unit + damping * torch.eye(len(unit), dtype=unit.dtype)
            wanted = torch.linalg.solve(unit, rhs / scale) / scale
            other, taken = _stepped(student, run, jacobian.places, wanted, low)
            found = student.path(other)
            tried.append((size(found, weights), other, found, taken, damping))
        lowered, other, found, taken, damping = min(
            tried, key=lambda t: (not math.isfinite(t[0]), t[0])
        )
        if not math.isfinite(lowered):
            break
        jacobian.correct(taken, scale, found - residual)
        if lowered < error:
            worth = lowered < WORTH * error
            best = run = other
            residual, error, dampings = found, lowered, (damping,)
            if not worth:
                break
        else:
            dampings = (8 * damping,)
    return best


def squares(residual: Tensor) -> Tensor:
    """Mean squares of residuals (this process's samples, elements), for all processes' samples."""
    return distributed.gather(residual.square().mean(1))


def size(residual: Tensor, weights: Tensor) -> float:
    """RMS of residuals with a weight for every sample of all processes."""
    return math.sqrt(float((squares(residual) * weights).mean()))


def _stepped(
    student: Student, run: Run, places: Sequence[tuple[int, int]], wanted: Tensor, low: float
) -> tuple[Run, Tensor]:
    """The run after a step, and the step that was really taken in minus log-SNR."""
    inner, kind = len(run.nodes) - 2, student.parametrization
    values = wanted.tolist()
    nodes = moved(run.nodes, values[:inner], kind, low)
    lambdas: list[Row] = [list(row) for row in run.lambdas]
    for (k, i), value in zip(places, values[inner:], strict=True):
        lambdas[k][i] = max(-MAX_LAMBDA, min(MAX_LAMBDA, lambdas[k][i] + value))
    taken = wanted.clone()
    for j in range(inner):
        taken[j] = minus_log_snr(nodes[j + 1], kind) - minus_log_snr(run.nodes[j + 1], kind)
    for p, (k, i) in enumerate(places):
        taken[inner + p] = lambdas[k][i] - run.lambdas[k][i]
    return student.run(nodes, lambdas), taken
