"""``dode.sample``: dtypes, ranks, arguments, and that a distilled sampler is the better one."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from problems import (
    EpsWrapper,
    LowPrecision,
    Recorded,
    VWrapper,
    grid_for,
    karras,
    mixture,
    randn,
    rms,
    start,
)
from tables import made_up
from torch import Tensor

import dode_core as dode
from dode_core.fit.teacher import Teacher
from dode_core.solve.noise import infer_parametrization

SHAPE = (2, 3, 3)
EVERY = pytest.mark.parametrize("solver", dode.SOLVERS)
BOTH = pytest.mark.parametrize("parametrization", ["ve", "flow"])


def sampled(model: Any, x: Tensor, sigmas: Any, **options: Any) -> Tensor:
    return dode.sample(model, x, sigmas, disable=True, **options)


# What goes in comes out


@EVERY
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_dtype(solver: str, dtype: torch.dtype) -> None:
    """The model sees x's dtype, sigma as well; the state between is float32 or better."""
    sigmas, model = karras(6), mixture(shape=SHAPE, std=0.5)
    x = start("ve", sigmas, 4, *SHAPE).to(dtype)
    table = made_up(solver, sigmas)
    low = sampled(LowPrecision(model, dtype), x, sigmas, table=table)
    assert low.dtype == dtype and low.shape == x.shape
    exact = sampled(model, x.double(), sigmas, table=table)
    rounding = torch.finfo(dtype).eps * float(x.abs().max())
    assert float((low.double() - exact).abs().max()) < 20 * rounding


def test_the_state_is_kept_in_float32() -> None:
    """200 half-precision steps: rounding does not pile up in the state."""
    model, sigmas = mixture(shape=SHAPE, std=0.5), karras(200)
    x = start("ve", sigmas, 4, *SHAPE).half()
    low = sampled(LowPrecision(model, torch.float16), x, sigmas).double()
    assert rms(low - sampled(model, x.double(), sigmas)) < 1e-3


@EVERY
@pytest.mark.parametrize("shape", [(18,), (2, 9), (1, 18), (2, 3, 3), (2, 1, 3, 3)])
def test_rank(solver: str, shape: tuple[int, ...]) -> None:
    sigmas, table = karras(4), made_up(solver, karras(4))
    x = start("ve", sigmas, 3, 18)
    found = sampled(mixture(), x.reshape(3, *shape), sigmas, table=table)
    assert found.shape == (3, *shape)
    assert torch.equal(found.reshape(3, 18), sampled(mixture(), x, sigmas, table=table))


@EVERY
def test_samples_are_independent(solver: str) -> None:
    """A batch is its samples: nothing is mixed across them."""
    sigmas, table = karras(5), made_up(solver, karras(5))
    x = start("ve", sigmas, 3, *SHAPE)
    whole = sampled(mixture(), x, sigmas, table=table)
    alone = torch.cat([sampled(mixture(), row[None], sigmas, table=table) for row in x])
    torch.testing.assert_close(whole, alone, rtol=1e-9, atol=1e-9)


@EVERY
def test_x_is_left_alone(solver: str) -> None:
    sigmas = karras(4)
    x = start("ve", sigmas, 2, *SHAPE)
    before = x.clone()
    sampled(mixture(), x, sigmas, table=made_up(solver))
    assert torch.equal(x, before)


def test_on_the_device_of_x() -> None:
    """Sigmas on the CPU, x elsewhere: the meta device stands in for a GPU."""

    def model(x: Tensor, sigma: Tensor) -> Tensor:
        assert x.device.type == sigma.device.type == "meta"
        return x * 0.5

    for solver in dode.SOLVERS:
        x = torch.zeros(2, 4, 8, 8, device="meta", dtype=torch.float16)
        found = sampled(model, x, karras(4), table=made_up(solver))
        assert (found.device.type, found.dtype, found.shape) == ("meta", x.dtype, x.shape)


def test_inference_mode_and_no_grad() -> None:
    """The Forge family samples in inference mode; others may have gradients on."""
    sigmas, table = karras(4), made_up("ipndm")
    x = start("ve", sigmas, 2, *SHAPE)
    with torch.inference_mode():
        inside = sampled(mixture(), x, sigmas, table=table)
    assert torch.equal(inside, sampled(mixture(), x.requires_grad_(), sigmas, table=table))
    assert not sampled(mixture(), x, sigmas, table=table).requires_grad


# Arguments


def test_extra_args_reach_the_model_whole() -> None:
    model = Recorded(mixture(shape=SHAPE))
    extra = {"cond": object(), "cond_scale": 7.5, "rows": torch.arange(2)}
    dode.sample(model, randn(2, *SHAPE) * 15, karras(3), extra, None, True)
    assert len(model.calls) == 3
    for _, _, given, _ in model.calls:
        assert given.keys() == extra.keys() and all(given[key] is extra[key] for key in extra)


@EVERY
def test_sigma_is_a_vector_of_the_nodes(solver: str) -> None:
    model, sigmas = Recorded(mixture(shape=SHAPE)), karras(5)
    sampled(model, start("ve", sigmas, 3, *SHAPE), sigmas, solver=solver)
    seen = [call[1] for call in model.calls]
    nodes = sigmas.tolist()
    expected = (
        nodes[:1] + [s for s in nodes[1:-1] for _ in (0, 1)] if solver == "heun" else nodes[:-1]
    )
    assert seen == expected


def test_defaults() -> None:
    """No table and no solver: plain DDIM."""
    sigmas = karras(5)
    x = start("ve", sigmas, 2, *SHAPE)
    plain = sampled(mixture(), x, sigmas, solver="ddim")
    assert torch.equal(sampled(mixture(), x, sigmas), plain)
    assert torch.equal(sampled(mixture(), x, sigmas, table=None), plain)
    zeros = dode.LambdaTable("ddim", sigmas, torch.zeros(5, 1))
    assert torch.equal(sampled(mixture(), x, sigmas, table=zeros), plain)
    assert not torch.allclose(sampled(mixture(), x, sigmas, table=made_up(sigmas=sigmas)), plain)


def test_solver_and_table_must_agree() -> None:
    x, sigmas = randn(1, *SHAPE), karras(4)
    with pytest.raises(dode.DodeError, match="table is for heun, but ddim was asked for"):
        sampled(mixture(), x, sigmas, table=made_up("heun"), solver="ddim")
    agreed = sampled(mixture(), x, sigmas, table=made_up("heun"), solver="heun")
    assert torch.equal(agreed, sampled(mixture(), x, sigmas, table=made_up("heun")))
    with pytest.raises(dode.DodeError, match="'euler' is unknown"):
        sampled(mixture(), x, sigmas, solver="euler")
    with pytest.raises(dode.SigmasError, match="1-D"):
        sampled(mixture(), x, torch.ones(2, 2))


@pytest.mark.parametrize("wrapper", [EpsWrapper, VWrapper])
@EVERY
def test_network_parametrisations(solver: str, wrapper: type[EpsWrapper]) -> None:
    sigmas, model = karras(5), mixture(shape=SHAPE)
    x, table = start("ve", sigmas, 2, *SHAPE), made_up(solver, karras(5))
    found = sampled(wrapper(model), x, sigmas, table=table)
    torch.testing.assert_close(found, sampled(model, x, sigmas, table=table), rtol=0, atol=1e-9)


def test_parametrisation_is_inferred() -> None:
    class Wrapped:
        def __init__(self, **attributes: Any) -> None:
            self.__dict__.update(attributes)

    eps, flow = torch.linspace(0.03, 14.6, 9), torch.linspace(0.001, 1, 9)
    bare = Wrapped()
    assert infer_parametrization(bare, [14.6, 1.0]) == "ve"
    assert infer_parametrization(bare, [1.0, 0.5]) == "flow"
    assert infer_parametrization(Wrapped(parametrization="ve"), [1.0, 0.5]) == "ve"
    assert infer_parametrization(Wrapped(sigmas=eps), [1.0, 0.5]) == "ve"
    assert infer_parametrization(Wrapped(sigmas=flow), [0.6, 0.3]) == "flow"
    assert infer_parametrization(Wrapped(inner_model=Wrapped(sigmas=flow)), [0.6]) == "flow"
    table = made_up(sigmas=grid_for("flow", 5), parametrization="flow")
    x = randn(2, *SHAPE)
    found = sampled(mixture("flow", SHAPE), x, table.sigmas, table=table)
    named = sampled(mixture("flow", SHAPE), x, table.sigmas, table=table, parametrization="flow")
    assert torch.equal(found, named)


# What it is all for


@BOTH
@pytest.mark.parametrize("steps", [5, 8, 10])
def test_distilled_ddim_is_nearer_to_the_teacher(steps: int, parametrization: str) -> None:
    """On noise that the calibration never saw."""
    sigmas = grid_for(parametrization, steps)
    model = mixture(parametrization, SHAPE, std=0.6)
    x = start(parametrization, sigmas, 16, *SHAPE)
    table = dode.distill(model, x, sigmas, "ddim", parametrization=parametrization)
    new = start(parametrization, sigmas, 64, *SHAPE, seed=99)
    teacher = Teacher("heun", 20)
    goal = teacher.states(model, new, sigmas.tolist(), parametrization)[-1]
    plain = rms(sampled(model, new, sigmas, parametrization=parametrization) - goal)
    distilled = rms(sampled(model, new, sigmas, table=table) - goal)
    assert table.helps and distilled < 0.7 * plain
