"""Inner products of one stage, streamed over micro-batches, and the closed-form solution.

lambda = argmin sum over samples || residual - sum_i lambda_i q_i ||^2
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..errors import CalibrationError
from ..solve.integrate import State, direction, update
from ..solve.stages import Stage
from . import distributed
from .batches import Batch


@dataclass
class Products:
    """Inner products of one stage, per sample: G (n, C, C), r (n, C), |q| floors, held-out mask."""

    gram: Tensor
    rhs: Tensor
    noise: Tensor
    held_out: Tensor

    def solve(
        self, ridge: float = 0.0, active: int | None = None, weights: Tensor | None = None
    ) -> Tensor:
        """argmin lambda' G lambda - 2 r' lambda over the fit samples, shape (C,).

        ``ridge`` is relative to each direction's own size; ``active`` uses the first columns only;
        ``weights`` (fit samples,) replace the plain sum. Directions no larger than their own
        rounding error take 0.
        """
        gram, rhs = self.gram[~self.held_out], self.rhs[~self.held_out]
        if weights is not None:
            gram, rhs = gram * weights[:, None, None], rhs * weights[:, None]
        gram, rhs = gram.sum(0), rhs.sum(0)
        size = gram.diagonal()
        use = (size > self.noise[~self.held_out].sum(0)).nonzero()[:, 0]
        use = use if active is None else use[use < active]
        found = torch.zeros_like(rhs)
        if len(use) == 1:
            found[use] = rhs[use] / (size[use] * (1 + ridge))
        elif len(use):
            scale = size[use].sqrt()
            unit = gram[use][:, use] / scale[:, None] / scale
            unit = unit + (ridge + 1e-12) * torch.eye(len(use), dtype=unit.dtype)
            found[use] = torch.linalg.solve(unit, rhs[use] / scale) / scale
        return found

    def change(self, lambdas: Tensor) -> float:
        """By how much lambdas change the held-out samples' squared distance to their targets."""
        gram, rhs = self.gram[self.held_out].sum(0), self.rhs[self.held_out].sum(0)
        return float(lambdas @ gram @ lambdas - 2 * rhs @ lambdas)


def stage_products(
    batches: Sequence[Batch], k: int, stage: Stage, states: Sequence[State], width: int
) -> Products | None:
    """Inner products of this stage's directions and residuals, sample by sample, float64.

    None where the stage has no direction (no history yet). Raises :class:`CalibrationError` when
    a product overflows.
    """
    rows = [(i, row) for i, row in enumerate(stage.c) if row]
    if not rows:
        return None
    parts = []
    for state, batch in zip(states, batches, strict=True):
        residual = flat(batch.target(k, stage) - update(state, stage))
        q = torch.stack([flat(direction(state, row)) for _, row in rows], 1)
        size = flat(state.denoised).square().sum(1, keepdim=True)
        if stage.output == "eps":  # (x - denoised) / sigma rounds as x / sigma does
            size = flat(state.x).square().sum(1, keepdim=True) / stage.sigma**2
        reach = torch.tensor([abs(row[0]) or abs(row[-1]) for _, row in rows]).double()
        rounding = 4 * torch.finfo(state.x.dtype).eps
        products = (q @ q.mT, (q @ residual[:, :, None])[:, :, 0], size)
        gram, rhs, size = (value.cpu() for value in products)
        held = torch.full((len(q), 1), float(batch.held_out), dtype=torch.float64)
        parts.append((gram, rhs, size * (rounding * reach) ** 2, held))
    n = len(rows)
    parts = [torch.cat([g.flatten(1), *rest], 1) for g, *rest in parts]  # one exchange, not four
    packed = distributed.gather(torch.cat(parts))
    gram, rhs, noise, held = packed.split([n * n, n, n, 1], 1)
    gram, held_out = gram.reshape(-1, n, n), held[:, 0] > 0
    if not (gram.isfinite().all() and rhs.isfinite().all()):
        raise CalibrationError(
            f"The states are not finite at sigma {stage.sigma:g}; check the model's precision (an "
            "fp16 overflow?) or use other calibration noise."
        )
    index = torch.tensor([i for i, _ in rows])
    full = torch.zeros(len(rhs), width, width, dtype=torch.float64)
    full[:, index[:, None], index] = gram
    wide = torch.zeros(2, len(rhs), width, dtype=torch.float64)
    wide[0, :, index], wide[1, :, index] = rhs, noise
    return Products(full, wide[0], wide[1], held_out)


def flat(x: Tensor) -> Tensor:
    """(b, ...) to (b, n) in float64; on the CPU where the device has no float64 (MPS)."""
    if x.device.type == "mps":
        x = x.cpu()
    return x.flatten(1).double()
