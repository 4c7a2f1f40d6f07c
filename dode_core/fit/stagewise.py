"""The student's run with lambdas fitted on the way, and what held-out samples say of it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ..errors import CalibrationError
from ..solve.integrate import Choose, Denoiser, State, Watch, complete, no_lambdas, nothing, update
from ..solve.stages import Stage, plain
from ..tables.fields import MAX_LAMBDA, Errors
from . import distributed
from .batches import Batch
from .products import Products, flat, stage_products

SANE_LAMBDA = 100.0  # of a validated fit; anything larger is noise over noise
NEGLIGIBLE = 1e-7  # plain errors below this, relative to the noise, leave nothing to learn
_RIDGES = (0.0, 1e-4, 1e-3, 1e-2, 1e-1)  # tried where several columns are fitted


class StagewiseFit:
    """The student's run with lambdas fitted on the way, and what held-out samples say of it."""

    def __init__(
        self,
        model: Denoiser,
        batches: Sequence[Batch],
        stages: Sequence[Stage],
        parametrization: str,
    ) -> None:
        self.model, self.batches, self.stages = model, batches, stages
        self.parametrization = parametrization
        self.validate = any(batch.held_out for batch in batches)
        self.width = max((len(stage.c) for stage in stages), default=1)
        self.lambdas: list[list[float]] = []
        self.zeroed: set[int] = set()

    def run(self) -> tuple[Tensor, Errors]:
        """(lambdas (stages, columns), errors of the final states)."""
        before = self._errors(self._run(plain(self.stages)))
        checkpoints: list[list[State]] = []  # held-out states before each stage's update

        def keep(k: int, stage: Stage, states: Sequence[State]) -> None:
            pairs = zip(states, self.batches, strict=True)
            checkpoints.append([state.copy() for state, batch in pairs if batch.held_out])

        finals = self._run(self.stages, self._fit, keep)
        after = self._errors(finals)
        if self.validate and not self._improves(before, after):
            after = self._eliminate(checkpoints, before, after)
        rows = torch.tensor(self.lambdas, dtype=torch.float64).reshape(len(self.stages), self.width)
        holdout = (before[1], after[1]) if self.validate else (None, None)
        return rows, Errors(before[0], after[0], *holdout)

    def _improves(self, before: tuple[float, float], after: tuple[float, float]) -> bool:
        """Whether held-out samples gain, and by more than rounding."""
        return after[1] < before[1] and before[1] > NEGLIGIBLE * start_size(self.batches)

    def _fit(self, k: int, stage: Stage, states: Sequence[State]) -> Sequence[float]:
        """The lambdas of stage k, fitted where its states are now."""
        products = stage_products(self.batches, k, stage, states, self.width)
        if products is None:
            row = torch.zeros(self.width, dtype=torch.float64)
        elif self.validate:
            row = self._validated(k, products)
        else:
            row = products.solve()
            if not float(row.abs().max()) <= MAX_LAMBDA:  # its direction is noise
                row = torch.zeros_like(row)
        self.lambdas.append(row.tolist())
        return self.lambdas[-1]

    def _validated(self, k: int, products: Products) -> Tensor:
        """The candidate that brings held-out samples nearest to their targets; 0 is always one."""
        candidates = [products.solve()]
        if self.width > 1:
            active = range(1, self.width + 1)
            candidates = [products.solve(ridge, n) for n in active for ridge in _RIDGES]
        sane = [row for row in candidates if float(row.abs().max()) <= SANE_LAMBDA]
        best = min(sane, key=products.change, default=None)
        if best is None or not products.change(best) < 0:
            self.zeroed.add(k)
            return torch.zeros(self.width, dtype=torch.float64)
        return best

    def _eliminate(
        self,
        checkpoints: Sequence[Sequence[State]],
        before: tuple[float, float],
        after: tuple[float, float],
    ) -> tuple[float, float]:
        """Zero lambdas that do not help the held-out final error, last stage first.

        Each trial re-runs the held-out samples from that stage only. When the rest is still not
        better than the plain solver, nothing is left.
        """
        held = [batch for batch in self.batches if batch.held_out]
        for k in reversed(range(len(self.stages))):
            if not any(self.lambdas[k]):
                continue
            kept, self.lambdas[k] = self.lambdas[k], [0.0] * self.width
            states = [state.copy() for state in checkpoints[k]]
            trial = self._errors(self._finish(states, k), held)[1]
            if trial < after[1]:
                after = after[0], trial
                self.zeroed.add(k)
            else:
                self.lambdas[k] = kept
        if self._improves(before, after):
            finals = self._run(self.stages, self._own_lambdas)
            return self._errors(finals)
        self.zeroed.update(k for k, row in enumerate(self.lambdas) if any(row))
        self.lambdas = [[0.0] * self.width for _ in self.stages]
        return before

    def _finish(self, states: list[State], k: int) -> list[State]:
        """Run held-out states on, from after stage k's model call to the end."""
        for state in states:
            state.x = update(state, self.stages[k], self.lambdas[k])
        how: Any = {"parametrization": self.parametrization, "first": k + 1}
        complete(self.model, states, self.stages, self._own_lambdas, **how)
        return states

    def _own_lambdas(self, k: int, *_: Any) -> Sequence[float]:
        return self.lambdas[k]

    def _run(
        self, stages: Sequence[Stage], choose: Choose = no_lambdas, watch: Watch = nothing
    ) -> list[State]:
        states = [batch.state.copy() for batch in self.batches]
        how: Any = {"parametrization": self.parametrization, "watch": watch}
        complete(self.model, states, stages, choose, **how)
        return states

    def _errors(
        self, finals: Sequence[State], batches: Sequence[Batch] | None = None
    ) -> tuple[float, float]:
        """RMS distance of final states to the last target: (fit samples, held-out samples)."""
        squares: dict[bool, list[float]] = {False: [], True: []}
        for state, batch in zip(finals, self.batches if batches is None else batches, strict=True):
            distance = flat(state.x - batch.final).square().mean(1)
            squares[batch.held_out] += distance.tolist()
        rows = [torch.tensor(v, dtype=torch.float64) for v in (squares[False], squares[True])]
        every = [distributed.gather(row).tolist() for row in rows]
        means = [math.fsum(v) / len(v) if v else 0.0 for v in every]
        if not all(map(math.isfinite, means)):
            raise CalibrationError(
                "The final states are not finite; check the model's precision (an fp16 overflow?)."
            )
        return math.sqrt(means[0]), math.sqrt(means[1])


def start_size(batches: Sequence[Batch]) -> float:
    """RMS of the starting noise, over all elements."""
    squares = torch.cat([flat(batch.state.x).square().mean(1) for batch in batches])
    return math.sqrt(float(distributed.gather(squares.cpu()).mean()))
