"""The k-diffusion signature around the loop."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from .match.resolve import Resolution, resolve
from .solve.integrate import Denoiser, State, Watch, integrate, nothing
from .solve.noise import check_sigmas, infer_parametrization
from .solve.solvers import get_solver
from .solve.stages import Row, Stage, plain

if TYPE_CHECKING:
    from .tables.table import LambdaTable

Callback = Callable[[dict[str, Any]], None]


@torch.no_grad()
def sample(
    model: Denoiser,
    x: Tensor,
    sigmas: Tensor | Sequence[float],
    extra_args: Mapping[str, Any] | None = None,
    callback: Callback | None = None,
    disable: bool | None = None,
    *,
    table: LambdaTable | None = None,
    solver: str | None = None,
    parametrization: str | None = None,
) -> Tensor:
    """Integrate x from sigmas[0] to sigmas[-1]: k-diffusion's signature, plus a table.

    model: ``model(x, sigma, **extra_args) -> denoised``, sigma of shape (B,). x: (B, ...), noise
    already scaled. ``table=None`` is the plain ``solver`` (``ddim`` when not named). A table made
    for other sigmas is sliced or interpolated (:mod:`.match.resolve`). Returns x at
    sigmas[-1], in x's dtype. Raises :class:`SigmasError` for a grid that cannot be run, and
    :class:`DodeError` for an unknown solver or one that is not the table's.
    """
    grid = check_sigmas(sigmas)
    parametrization = parametrization or (
        table.parametrization if table else infer_parametrization(model, grid)
    )
    if table is None:
        stages = get_solver(solver or "ddim").stages(grid, parametrization)
        resolution = of_stages(stages, parametrization)
        return run_resolved(model, x, resolution, extra_args, callback, disable)
    how: Any = {"parametrization": parametrization, "channels": x.shape[1]}
    resolution = resolve([table], grid, solver=solver, **how)
    return run_resolved(model, x, resolution, extra_args, callback, disable)


@torch.no_grad()
def run_resolved(
    model: Denoiser,
    x: Tensor,
    resolution: Resolution,
    extra_args: Mapping[str, Any] | None = None,
    callback: Callback | None = None,
    disable: bool | None = None,
) -> Tensor:
    """Sample with what :func:`dode_core.match.resolve.resolve` chose, or :func:`of_stages` made.

    The callback gets {"x", "i", "sigma", "sigma_hat", "denoised"} once per step, at the step's
    first model evaluation, x being the state that was evaluated.
    """
    from tqdm.auto import tqdm

    stages, rows = resolution.stages, resolution.lambdas
    if not stages:
        return x
    if not any(any(row) for row in rows):
        stages, rows = plain(stages), [()] * len(stages)

    def choose(k: int, stage: Stage, states: Sequence[State]) -> Sequence[float]:
        return rows[k]

    state = State.begin(x, extra_args)
    how: Any = {"watch": reporting(callback), "parametrization": resolution.parametrization}
    loop = integrate(model, [state], stages, choose, **how)
    for _ in tqdm(loop, total=len(stages), disable=disable):
        pass
    return state.x.to(x.dtype)


def of_stages(
    stages: Sequence[Stage], parametrization: str = "ve", lambdas: Sequence[Row] = ()
) -> Resolution:
    """Stages to be run as they are, with a row of lambdas each; without, the plain solver."""
    return Resolution("given", "", parametrization, list(stages), list(lambdas), None, "")


def reporting(callback: Callback | None) -> Watch:
    """Tells a k-diffusion callback of every step, once, when its first evaluation is there."""
    if callback is None:
        return nothing
    reported = -1

    def watch(k: int, stage: Stage, states: Sequence[State]) -> None:
        nonlocal reported
        if stage.step <= reported:
            return
        reported = stage.step
        sigma = torch.tensor(stage.sigma, dtype=torch.float32)
        report = {"x": states[0].x, "i": stage.step, "sigma": sigma, "sigma_hat": sigma}
        callback({**report, "denoised": states[0].denoised})

    return watch
