"""The one loop against the recurrence written out naively: every output kept, nothing in place."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch
from problems import Recorded, grid_for, mixture, noise_guess, randn, start
from torch import Tensor

import dode_core as dode
from dode_core.solve.integrate import State, integrate
from dode_core.solve.stages import plain

SHAPE = (2, 3, 3)
EVERY = pytest.mark.parametrize("solver", dode.SOLVERS)
BOTH = pytest.mark.parametrize("parametrization", ["ve", "flow"])


def naive(
    model: Recorded, x: Tensor, stages: Sequence[dode.Stage], lambdas: Sequence[Sequence[float]]
) -> Tensor:
    """x_next = start x_start + here x + sum_j b_j m_j + sum_i lambda_i sum_j c_ij m_j"""
    parametrization = model.model.parametrization
    outputs, x_start = [], x
    if stages[0].output == "eps":
        outputs = [noise_guess(x, stages[0].sigma, parametrization)]
    for stage, row in zip(stages, lambdas, strict=True):
        x_start = x if stage.start == 0 else x_start
        denoised = model(x, torch.full((len(x),), stage.sigma, dtype=x.dtype))
        m = denoised if stage.output == "denoised" else (x - denoised) / stage.sigma
        outputs = [m, *outputs]
        after = stage.start * x_start + stage.here * x
        for j, weight in enumerate(stage.b):
            after = after + weight * outputs[j]
        for value, direction in zip(row, stage.c, strict=True):
            for j, weight in enumerate(direction):
                after = after + value * weight * outputs[j]
        x = after
    return x


def looped(
    model: Recorded, x: Tensor, stages: Sequence[dode.Stage], lambdas: Sequence[Sequence[float]]
) -> Tensor:
    state = State.begin(x)
    parametrization = model.model.parametrization
    loop = integrate(
        model, [state], stages, lambda k, *_: lambdas[k], parametrization=parametrization
    )
    assert [k for k, _ in loop] == list(range(len(stages)))
    return state.x


GRIDS = {
    "usual": [14.0, 6.0, 2.5, 1.1, 0.5, 0.2, 0.06, 0.0],
    "above 0": [14.0, 6.0, 2.5, 1.1, 0.5, 0.2, 0.06],
    "repeated": [14.0, 6.0, 6.0, 2.5, 1.1, 1.1, 0.5, 0.2, 0.1, 0.04],
    "ascending": [0.04, 0.2, 0.5, 1.1, 2.5, 6.0],
    "back and forth": [14.0, 3.0, 5.0, 2.0, 3.0, 1.0, 0.5, 0.2, 0.0],
}


@EVERY
@pytest.mark.parametrize("grid", GRIDS)
@pytest.mark.parametrize(("columns", "gain"), [(0, False), (1, False), (3, False), (2, True)])
def test_ve(solver: str, grid: str, columns: int, gain: bool) -> None:
    """``columns`` 0 is the plain solver, which keeps less history."""
    sigmas = GRIDS[grid]
    stages = dode.SOLVERS[solver].stages(sigmas, columns=max(1, columns), gain=gain)
    stages = stages if columns else plain(stages)
    lambdas = (0.3 * randn(len(stages), 4)).tolist()
    lambdas = [row[: len(stage.c)] for row, stage in zip(lambdas, stages, strict=True)]
    model, x = Recorded(mixture(shape=SHAPE)), randn(3, *SHAPE) * sigmas[0]
    expected = naive(model, x, stages, lambdas)
    found = looped(model, x, stages, lambdas)
    scale = float(torch.cat([call[0] for call in model.calls]).abs().max())
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-10 * scale)
    states, own = [call[0] for call in model.calls[: len(stages)]], model.calls[len(stages) :]
    for state, call in zip(states, own, strict=True):
        torch.testing.assert_close(call[0], state, rtol=1e-9, atol=1e-10 * scale)


@EVERY
@pytest.mark.parametrize("columns", [1, 3])
def test_flow(solver: str, columns: int) -> None:
    sigmas = grid_for("flow", 7)
    stages = dode.SOLVERS[solver].stages(sigmas, "flow", columns=columns)
    lambdas = (0.3 * randn(len(stages), columns)).tolist()
    model, x = Recorded(mixture("flow", SHAPE)), start("flow", sigmas, 3, *SHAPE)
    expected = naive(model, x, stages, lambdas)
    torch.testing.assert_close(looped(model, x, stages, lambdas), expected, rtol=1e-9, atol=1e-9)


@EVERY
def test_memory(solver: str) -> None:
    """No more outputs are kept than the rows ahead can read."""
    stages = plain(dode.SOLVERS[solver].stages(GRIDS["usual"]))
    state = State.begin(randn(2, *SHAPE) * 14)
    most = {"ddim": 1, "ddim_x0": 1, "heun": 2, "dpmpp_2m": 2, "ipndm": 4}.get(solver, 3)
    for _ in integrate(mixture(shape=SHAPE), [state], stages):
        assert len(state.outputs) <= most


def test_several_states_advance_alike() -> None:
    """Micro-batches take the same lambdas, stage by stage."""
    stages = dode.SOLVERS["ipndm"].stages(GRIDS["usual"])
    x = randn(4, *SHAPE) * 14
    states = [State.begin(x[:1]), State.begin(x[1:])]
    seen: list[int] = []

    def choose(k: int, stage: dode.Stage, now: Sequence[State]) -> Sequence[float]:
        assert [len(state.outputs) for state in now] == [len(now[0].outputs)] * 2
        seen.append(k)
        return [0.2]

    for _ in integrate(mixture(shape=SHAPE), states, stages, choose):
        pass
    model = Recorded(mixture(shape=SHAPE))
    whole = looped(model, x, stages, [[0.2]] * len(stages))
    torch.testing.assert_close(torch.cat([s.x for s in states]), whole, rtol=1e-12, atol=1e-12)
    assert seen == list(range(len(stages)))
