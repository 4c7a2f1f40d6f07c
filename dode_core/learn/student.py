"""A student on changing grids: whole runs, and runs from the first stage that differs."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from ..fit import distributed
from ..fit.batches import Batch
from ..fit.products import flat, stage_products
from ..solve.integrate import Denoiser, State, complete, update
from ..solve.scheme import Scheme
from ..solve.solvers import ADAMS_BASHFORTH, get_solver
from ..solve.stages import LookAhead, Stage

Row = list[float]
PATH = 0.2  # weight of the states on the way against the final one, in learning
RIDGE = 1e-4  # of the closed-form fits, relative to each direction's size


@dataclass
class Run:
    """A student run: its nodes, its lambdas, the states after each evaluation, the final states.

    Nodes are what learning moves, all but the first and the last: the grid, and of a student that
    looks ahead the sigma it looks at, between the first two.
    """

    nodes: list[float]
    stages: list[Stage]
    lambdas: list[Row]
    checkpoints: list[list[State]] = field(repr=False)
    finals: list[State] = field(repr=False)

    @property
    def look_ahead(self) -> LookAhead | None:
        return self.stages[0].look_ahead

    @property
    def sigmas(self) -> list[float]:
        """The grid."""
        return self.nodes if self.look_ahead is None else [self.nodes[0], *self.nodes[2:]]

    def part(self, count: int) -> Run:
        """The first ``count`` micro-batches of this run."""
        checkpoints = [states[:count] for states in self.checkpoints]
        return replace(self, checkpoints=checkpoints, finals=self.finals[:count])


class Student:
    """Runs one solver over changing grids from shared starting states.

    With ``mean`` (see :class:`LookAhead`) it looks ahead, and its nodes are one more than its grid.
    """

    def __init__(
        self,
        model: Denoiser,
        batches: Sequence[Batch],
        scheme: Scheme,
        mean: tuple[float, ...] | None = None,
    ) -> None:
        self.model, self.batches, self.scheme, self.mean = model, batches, scheme, mean
        self.parametrization, self.width = scheme.parametrization, scheme.width
        self.samples = sum(batch.samples for batch in batches)

    def stages(self, nodes: Sequence[float]) -> list[Stage]:
        grid, ahead = nodes, None
        if self.mean is not None:
            grid, ahead = [nodes[0], *nodes[2:]], LookAhead(nodes[1], self.mean)
        return self.scheme.stages(grid, ahead)

    def run(
        self,
        nodes: Sequence[float],
        lambdas: Sequence[Sequence[float]] | None = None,
        base: Run | None = None,
    ) -> Run:
        """Run over ``nodes`` with given lambdas, or fit them on the way.

        With ``base``, everything before the first stage that differs is taken from there.
        """
        stages = self.stages(nodes)
        first = 0
        if base is not None and base.look_ahead != stages[0].look_ahead:
            base = None
        if base is not None:
            first = _first_change(base, stages, lambdas)
        found: list[Row] = [] if base is None else [list(row) for row in base.lambdas[:first]]
        checkpoints = [] if base is None else base.checkpoints[:first]

        def keep(k: int, stage: Stage, states: Sequence[State]) -> None:
            checkpoints.append([state.copy() for state in states])

        def choose(k: int, stage: Stage, states: Sequence[State]) -> Sequence[float]:
            if lambdas is not None:
                found.append(list(lambdas[k]))
            else:
                products = stage_products(self.batches, k, stage, states, self.width)
                row = None if products is None else products.solve(RIDGE)
                found.append([0.0] * self.width if row is None else row.tolist())
            return found[-1]

        if base is None:
            states = [batch.state.copy() for batch in self.batches]
            start = 0
        else:
            states = [state.copy() for state in base.checkpoints[first]]
            keep(first, stages[first], states)
            row = choose(first, stages[first], states)
            for state in states:
                state.x = update(state, stages[first], row)
            start = first + 1
        how: Any = {"watch": keep, "parametrization": self.parametrization, "first": start}
        complete(self.model, states, stages, choose, **how)
        return Run(list(nodes), stages, found, checkpoints, states)

    def high_order(self, nodes: Sequence[float]) -> list[Row] | None:
        """Lambdas that make the rows those of a solver of order 3, not to fall behind it in long
        runs: DEIS, or for flow models iPNDM, which is far better there on the same grids.

        None where the columns do not reach them, and for students that look ahead.
        """
        base, newest = self.scheme.base, ("difference_1", "difference_2")
        expressible = base.first_order and base.output == "eps"
        if self.mean is not None or not expressible or self.scheme.directions[:2] != newest:
            return None
        rows = []
        others = get_solver("deis").stages(nodes, self.parametrization)
        for k, (stage, deis) in enumerate(zip(self.stages(nodes), others, strict=True)):
            if self.parametrization == "flow":
                weights = ADAMS_BASHFORTH[min(k, 2)]
            else:
                weights = tuple(b / stage.b[0] for b in deis.b)
            _, older, oldest = (*weights, 0.0, 0.0)[:3]
            rows.append([-older - oldest, -oldest] + [0.0] * (self.width - 2))
        return rows

    @property
    def validates(self) -> bool:
        return any(batch.held_out for batch in self.batches)

    def run_plain(self, sigmas: Sequence[float]) -> Run:
        """The plain solver's run."""
        stages = self.scheme.plain(sigmas)
        states = [batch.state.copy() for batch in self.batches]
        complete(self.model, states, stages, parametrization=self.parametrization)
        return Run(list(sigmas), stages, [], [], states)

    def residuals(self, run: Run, held_out: bool = False) -> Tensor:
        """x_final - teacher, shape (this process's samples, elements), float64."""
        pairs = zip(run.finals, self.batches, strict=True)
        rows = [flat(s.x - b.final).cpu() for s, b in pairs if b.held_out == held_out]
        return torch.cat(rows) if rows else torch.zeros(0, 1, dtype=torch.float64)

    def path(self, run: Run) -> Tensor:
        """What learning minimises: the final residual, and PATH times those on the way there.

        shape (fit samples, about twice the elements), float64. The states on the way are in it so
        that a lambda does not learn to undo late what went wrong early: that fits these samples
        and does not carry over to new noise, where a path that turned early ends at another image.
        Of the state after stage k only every n-th element is kept, n the number of stages, from
        the k-th on, and scaled to stand for all of them: it takes an n-th of the memory.
        """
        parts, stages = [self.residuals(run)], len(run.stages)
        for k, (stage, states) in enumerate(zip(run.stages, run.checkpoints[1:], strict=False)):
            rows = [
                flat(state.x - batch.target(k, stage))[:, k::stages].cpu()
                for state, batch in zip(states, self.batches, strict=True)
                if not batch.held_out
            ]
            parts.append(torch.cat(rows) * (PATH * math.sqrt(stages)))
        return torch.cat(parts, 1)

    def squares(self, run: Run, held_out: bool = False) -> Tensor:
        """Every sample's squared RMS final error."""
        return distributed.gather(self.residuals(run, held_out).square().mean(1))

    def error(self, run: Run, held_out: bool = False) -> float:
        """RMS final error."""
        squares = self.squares(run, held_out)
        return math.sqrt(float(squares.mean())) if len(squares) else 0.0

    def typical_error(self, run: Run, held_out: bool = False) -> float:
        """The geometric mean over samples of the RMS final error: a sample that forks is one in n,
        however far off it ends.
        """
        return math.exp(float(self.logs(run, held_out).mean()))

    def logs(self, run: Run, held_out: bool = False) -> Tensor:
        """Every sample's log RMS final error."""
        return log_errors(self.squares(run, held_out))


def _first_change(
    base: Run, stages: Sequence[Stage], lambdas: Sequence[Sequence[float]] | None
) -> int:
    """The first stage whose rows, landing point or lambdas differ from ``base``'s."""
    for k, (old, new) in enumerate(zip(base.stages, stages, strict=True)):
        if old != new or (lambdas is not None and base.lambdas[k] != list(lambdas[k])):
            return k
    return len(stages) - 1


def log_errors(squares: Tensor) -> Tensor:
    """Log RMS errors from their squares."""
    return squares.clamp(min=1e-60).log() / 2


def robust_weights(squares: Tensor) -> Tensor:
    """1 / (1 + e^2 / (2 median)^2), mean 1: Geman-McClure-like, for samples that fork."""
    weights = 1 / (1 + squares / (4 * squares.median()).clamp(min=1e-30))
    return weights / weights.mean()
