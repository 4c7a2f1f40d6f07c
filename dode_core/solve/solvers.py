"""Solvers as tables of numbers: a function from a sigma grid to a list of affine stages.

A new solver is a function here and a line in SOLVERS: docs/new-solver.md has an example.

One stage per model evaluation k, newest output first:

    x_next = start * x_start + here * x + sum_j b_j m_j + sum_i lambda_i sum_j c_ij m_j

x_start is the state the step started from, x the state the model was evaluated at. m is
eps = (x - denoised) / sigma (the velocity, for flow models) or denoised itself. lambda = 0 is the
plain solver; the correction directions c come with every solver, so each has its D- version.
Source: Kim, Tang, Yu, CVPR 2024, arXiv 2309.16421, section 4.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import cache

import numpy as np

from ..errors import DodeError
from .singlestep import dpm_solver_2, dpm_solver_3, heun
from .solver import Grid, Solver
from .stages import Row, Stage

_CLOSE_LOG = 1e-4  # DEIS: nodes that differ by rounding only would get weights of 1e7


def _minus(new: Row, old: Row) -> Row:
    """new - (old shifted one output back)."""
    size = max(len(new), len(old) + 1)
    row = [0.0] * size
    for j, value in enumerate(new):
        row[j] += value
    for j, value in enumerate(old):
        row[j + 1] -= value
    return tuple(row)


def _extrapolated(grid: Grid, mean: Callable[[int], Row]) -> list[Stage]:
    """x + h E_k with correction h (E_k - E_{k-1}); E_{-1} is the noise guess.

    ``mean(i)`` gives E_i as weights of the outputs, newest first. A step that ends at 0 returns
    the denoised image: it is first order, corrected by the last difference.
    """
    stages, old = [], (1.0,)
    for i in range(len(grid.sigmas) - 1):
        h = grid.sigmas[i + 1] - grid.sigmas[i]
        if grid.sigmas[i + 1] == 0:
            new = old = (1.0,)
        else:
            new = mean(i)
        b = tuple(h * w for w in new)
        c = tuple(h * w for w in _minus(new, old))
        stages.append(grid.step(i, "eps", b, c, f"order {len(new)}"))
        old = new
    return stages


def ddim(grid: Grid) -> list[Stage]:
    """x + h eps_k, correction h (eps_k - eps_{k-1}). Song et al. 2021, arXiv 2010.02502."""
    stages, s = [], grid.sigmas
    for i in range(len(s) - 1):
        h = s[i + 1] - s[i]
        first_order = i == 0 or s[i + 1] == 0 or s[i] == s[i - 1]
        ab = 0.0 if first_order else h / (2 * (s[i] - s[i - 1]))
        stages.append(grid.step(i, "eps", (h,), (h, -h), ab=ab))
    return stages


ADAMS_BASHFORTH = (
    (1.0,),
    (3 / 2, -1 / 2),
    (23 / 12, -16 / 12, 5 / 12),
    (55 / 24, -59 / 24, 37 / 24, -9 / 24),
)


def ipndm(grid: Grid) -> list[Stage]:
    """x + h E_k, E_k fixed-step Adams-Bashforth of orders 1 to 4.

    Liu et al. 2022, arXiv 2202.09778, with the start of Zhang and Chen, arXiv 2204.13902.
    """
    return _extrapolated(grid, lambda i: ADAMS_BASHFORTH[min(i, 3)])


@cache
def _quadrature() -> tuple[np.ndarray, np.ndarray]:
    return np.polynomial.legendre.leggauss(48)


def deis(grid: Grid, order: int = 3) -> list[Stage]:
    """tAB-DEIS: x + sum_j C_kj eps_{k-j}, C_kj = integral of Lagrange basis in time d sigma.

    Zhang and Chen 2023, arXiv 2204.13902, equation 15. The integral runs over log sigma by
    Gauss-Legendre quadrature, exact to rounding for the smooth time maps.
    """
    points, weights = _quadrature()

    def mean(i: int) -> Row:
        s, t = grid.sigmas[i], grid.sigmas[i + 1]
        nodes = [grid.time(grid.sigmas[i - j]) for j in range(min(order, i + 1))]
        low, high = math.log(s), math.log(t)
        used = [high, *(math.log(grid.sigmas[i - j]) for j in range(len(nodes)))]
        close = min((abs(a - b) for a, b in zip(used, used[1:], strict=False)), default=1.0)
        if s == t or close < _CLOSE_LOG or len(set(nodes)) < len(nodes):
            return (1.0,)
        sigma = np.exp(low + (high - low) * (points + 1) / 2)
        measure = weights * (high - low) / 2 * sigma / (t - s)  # d sigma / h
        times = np.array([grid.time(float(value)) for value in sigma])
        row = []
        for j, node in enumerate(nodes):
            others = [other for k, other in enumerate(nodes) if k != j]
            basis = np.prod([(times - other) / (node - other) for other in others], axis=0)
            row.append(float(np.sum(measure * basis)))
        return tuple(row)

    return _extrapolated(grid, mean)


def _log_step_ratio(grid: Grid, i: int) -> float:
    """(log-SNR step) / (2 x last log-SNR step); 0 where either has none."""
    if i == 0 or grid.sigmas[i + 1] == 0:
        return 0.0
    last = grid.log_snr(i) - grid.log_snr(i - 1)
    return (grid.log_snr(i + 1) - grid.log_snr(i)) / (2 * last) if last else 0.0


def ddim_x0(grid: Grid) -> list[Stage]:
    """(t/s) x + (1 - t/s) D_k, correction (1 - t/s)(D_k - D_{k-1}); none at k = 0."""
    stages = []
    for i in range(len(grid.sigmas) - 1):
        w = 1 - grid.sigmas[i + 1] / grid.sigmas[i]
        c = (w, -w) if i else ()
        stages.append(grid.step(i, "denoised", (w,), c, ab=_log_step_ratio(grid, i)))
    return stages


def dpmpp_2m(grid: Grid) -> list[Stage]:
    """DPM-Solver++(2M): ddim_x0 with the newest output extrapolated in log-SNR.

    Lu et al. 2022, arXiv 2211.01095, algorithm 2.
    """
    stages = []
    for i in range(len(grid.sigmas) - 1):
        w = 1 - grid.sigmas[i + 1] / grid.sigmas[i]
        r = _log_step_ratio(grid, i)
        own = w * (1 + r)
        b, c = ((own, -w * r), (own, -own)) if i else ((w,), ())
        stages.append(grid.step(i, "denoised", b, c))
    return stages


SOLVERS: dict[str, Solver] = {
    solver.name: solver
    for solver in (
        Solver("ddim", "D-DDIM", "DDIM / Euler", "eps", ddim, first_order=True),
        Solver("ipndm", "D-PNDM", "iPNDM, order 4", "eps", ipndm),
        Solver("deis", "D-DEIS", "DEIS (tAB), order 3", "eps", deis),
        Solver("dpm_solver_2", "D-DPM-Solver-2", "DPM-Solver, order 2", "eps", dpm_solver_2),
        Solver("dpm_solver_3", "D-DPM-Solver-3", "DPM-Solver, order 3", "eps", dpm_solver_3),
        Solver(
            name="heun",
            label="D-EDM",
            summary="EDM's Heun, 2N-1 evaluations",
            output="denoised",
            build=heun,
            stages_a_step=2,
        ),
        Solver(
            name="ddim_x0",
            label="D-DDIM (x0)",
            summary="DDIM, data prediction",
            output="denoised",
            build=ddim_x0,
            first_order=True,
        ),
        Solver("dpmpp_2m", "D-DPM++ 2M", "DPM-Solver++(2M)", "denoised", dpmpp_2m),
    )
}


def get_solver(name: str) -> Solver:
    """The solver of that name. Raises :class:`DodeError` that lists the known ones."""
    try:
        return SOLVERS[name]
    except (KeyError, TypeError):
        known = ", ".join(SOLVERS)
        raise DodeError(f"Solver {name!r} is unknown; use one of {known}.") from None
