"""Solvers of several evaluations a step: EDM's Heun, and DPM-Solver of orders 2 and 3."""

from __future__ import annotations

import math

from .solver import Grid
from .stages import Row, Stage

_SAME_LOG = 1e-9  # closer in log sigma than this, or turning back: no divided differences


def heun(grid: Grid) -> list[Stage]:
    """EDM's Heun: an Euler stage, then the trapezoid from the step's start; last step Euler.

    Karras et al. 2022, arXiv 2206.00364, algorithm 1; written in denoised outputs because the
    correction is (arXiv 2309.16421, appendix, D-EDM). 2N - 1 evaluations for N steps to 0.
    """
    stages: list[Stage] = []
    for i in range(len(grid.sigmas) - 1):
        s, t = grid.sigmas[i], grid.sigmas[i + 1]
        w = 1 - t / s
        c = (w, -w) if stages else ()
        stages.append(grid.step(i, "denoised", (w,), c, "euler" if t else "final"))
        if t:
            stages.append(_corrector(i, s, t))
    return stages


def _corrector(i: int, s: float, t: float) -> Stage:
    """Heun's second half, from the step's start at s to t: x_start + h (d_s + d_t), h = (t - s)/2,
    with d = (x - D) / sigma.
    """
    h = (t - s) / 2
    own = -h / t
    return Stage(
        step=i,
        sigma_start=s,
        sigma=t,
        sigma_next=t,
        output="denoised",
        start=1 + h / s,
        here=h / t,
        b=(own, -h / s),
        c=((own, -own),),
        role="corrector",
    )


def dpm_solver_2(grid: Grid) -> list[Stage]:
    """DPM-Solver-2, two evaluations a step. Lu et al. 2022, arXiv 2206.00927, algorithm 1."""
    return _dpm_solver(grid, 2)


def dpm_solver_3(grid: Grid) -> list[Stage]:
    """DPM-Solver-3, three evaluations a step. Lu et al. 2022, arXiv 2206.00927, algorithm 2."""
    return _dpm_solver(grid, 3)


def _groups(grid: Grid, order: int) -> list[int]:
    """How many evaluations each DPM-Solver step takes, as in the code of arXiv 2309.16421."""
    n = len(grid.sigmas) - 1
    if n == 0:
        return []
    if order == 2:
        sizes = [2] * (n // 2) + [1] * (n % 2)
    else:
        k = n // 3 + 1
        sizes = {0: [3] * (k - 2) + [2, 1], 1: [3] * (k - 1) + [1], 2: [3] * (k - 1) + [2]}[n % 3]
    if grid.sigmas[-1] == 0 and sizes[-1] > 1:  # no log-SNR at 0: the last step is Euler
        sizes[-1:] = [sizes[-1] - 1, 1]
    return sizes


def _dpm_solver(grid: Grid, order: int) -> list[Stage]:
    stages, first = [], 0
    for size in _groups(grid, order):
        stages += _dpm_step(grid, first, size)
        first += size
    return stages


def _dpm_step(grid: Grid, first: int, size: int) -> list[Stage]:
    """One DPM-Solver step of order ``size``, in eps, nodes s0 .. s_size, log-SNR = -log sigma."""
    s = grid.sigmas[first : first + size + 1]
    logs = [-math.log(sigma) for sigma in s] if s[-1] else []
    gaps = [b - a for a, b in zip(logs, logs[1:], strict=False)]
    if size > 1 and not (min(gaps) > _SAME_LOG or max(gaps) < -_SAME_LOG):
        return [stage for i in range(size) for stage in _dpm_step(grid, first + i, 1)]

    def euler(t: float) -> float:
        return t - s[0]

    def stage(j: int, b: Row, c: Row) -> Stage:
        return Stage(
            step=first + j,
            sigma_start=s[0],
            sigma=s[j],
            sigma_next=s[j + 1],
            output="eps",
            start=float(j > 0),  # later stages go back to where the step began
            here=float(j == 0),
            b=b,
            c=(c,),
            role=f"order {size} stage {j + 1}",
        )

    stages = [stage(0, (euler(s[1]),), (euler(s[1]), -euler(s[1])))]
    if size == 1:
        return stages
    span = logs[-1] - logs[0]
    r1 = (logs[1] - logs[0]) / span
    if size == 2:
        own = euler(s[2]) / (2 * r1)
        return [*stages, stage(1, (own, euler(s[2]) - own), (own, -own))]
    r2 = (logs[2] - logs[0]) / span
    own = -(r2 / r1) * s[2] * (math.expm1(r2 * span) / (r2 * span) - 1)
    stages.append(stage(1, (own, euler(s[2]) - own), (own, -own)))
    own = -(1 / r2) * s[3] * (math.expm1(span) / span - 1)
    return [*stages, stage(2, (own, 0.0, euler(s[3]) - own), (own, -own))]
