"""Stages: the affine rows that every solver is made of, on any grid a host may send."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from problems import grid_for, karras

import dode_core as dode
from dode_core.solve.solvers import get_solver

EVERY = pytest.mark.parametrize("solver", dode.SOLVERS)
BOTH = pytest.mark.parametrize("parametrization", ["ve", "flow"])


def sums(stage: dode.Stage) -> tuple[float, float]:
    """(weight of all states, noise level): what must be 1 and sigma_next for eps solvers."""
    noise = stage.start * stage.sigma_start + stage.here * stage.sigma
    return stage.start + stage.here, noise


@EVERY
@BOTH
@pytest.mark.parametrize("zero", [True, False])
@pytest.mark.parametrize("columns", [1, 2, 3])
@pytest.mark.parametrize("gain", [False, True])
def test_rows(solver: str, parametrization: str, zero: bool, columns: int, gain: bool) -> None:
    """The checks of the design that need no model, written down again."""
    sigmas = grid_for(parametrization, 7, zero)
    stages = dode.SOLVERS[solver].stages(sigmas, parametrization, columns=columns, gain=gain)
    for k, stage in enumerate(stages):
        states, noise = sums(stage)
        if stage.output == "eps":
            assert states == pytest.approx(1, abs=1e-12)
            assert noise + sum(stage.b) == pytest.approx(stage.sigma_next, abs=1e-11)
        else:
            assert states + sum(stage.b) == pytest.approx(1, abs=1e-9)
            assert noise == pytest.approx(stage.sigma_next, abs=1e-9)
        assert len(stage.c) == columns + gain
        differences = stage.c[:-1] if gain else stage.c
        for row in differences:
            assert sum(row) == pytest.approx(0, abs=1e-9 * max(map(abs, row), default=1))
            assert len(row) <= k + 1 + (stage.output == "eps"), "more history than there is"
        if gain:
            assert stage.c[-1] == (stage.b[0],)
        if columns > 1:  # as many differences as there is history for, the noise guess included
            available = k + 1 + (stage.output == "eps")
            assert [bool(row) for row in differences] == [
                j + 2 <= available for j in range(columns)
            ]


@BOTH
@pytest.mark.parametrize("solver", [s for s in dode.SOLVERS if s not in ("ipndm", "deis")])
def test_the_correction_replaces_the_newest_output(solver: str, parametrization: str) -> None:
    """m by m + lambda (m - m_prev): the newest coefficient times (1, -1), whatever the base."""
    stages = dode.SOLVERS[solver].stages(grid_for(parametrization, 7), parametrization)
    first, *rest = stages
    assert first.c == (((first.b[0], -first.b[0]),) if first.output == "eps" else ((),))
    assert all(stage.c == ((stage.b[0], -stage.b[0]),) for stage in rest)


@BOTH
@pytest.mark.parametrize("solver", ["ipndm", "deis"])
def test_the_correction_replaces_the_mean(solver: str, parametrization: str) -> None:
    """h (E_k - E_{k-1}): this row's weights less the last row's, one output back."""
    sigmas = grid_for(parametrization, 7, zero=False)
    stages = dode.SOLVERS[solver].stages(sigmas, parametrization)
    old = (1.0,)
    for stage in stages:
        h = stage.sigma_next - stage.sigma
        new = tuple(value / h for value in stage.b)
        size = max(len(new), len(old) + 1)
        wide, back = (*new, *[0.0] * (size - len(new))), (0.0, *old, *[0.0] * (size - 1 - len(old)))
        expected = [h * (a - b) for a, b in zip(wide, back, strict=True)]
        assert stage.c[0] == pytest.approx(expected, abs=1e-12)
        old = new


@EVERY
@BOTH
def test_stages_follow_the_grid(solver: str, parametrization: str) -> None:
    """Steps chain: each starts where the last one ended, at nodes of the grid alone."""
    sigmas = grid_for(parametrization, 7).tolist()
    stages = dode.SOLVERS[solver].stages(sigmas, parametrization)
    assert stages[0].sigma == sigmas[0] and stages[-1].sigma_next == sigmas[-1]
    for before, stage in zip(stages, stages[1:], strict=False):
        assert stage.sigma == before.sigma_next
        assert stage.sigma_start == (stage.sigma if stage.starts_step else before.sigma_start)
    assert [s.sigma for s in stages if solver != "heun" or s.role != "corrector"] == sigmas[:-1]
    assert all(stage.sigma_next == sigmas[stage.step + 1] for stage in stages)


@EVERY
@pytest.mark.parametrize("steps", range(0, 12))
def test_evaluations(solver: str, steps: int) -> None:
    expected = max(2 * steps - 1, 0) if solver == "heun" else steps
    assert dode.SOLVERS[solver].evaluations(steps) == expected
    if steps:
        assert len(dode.SOLVERS[solver].stages(karras(steps))) == expected


@EVERY
def test_one_sigma_makes_no_stage(solver: str) -> None:
    for sigmas in ([3.0], [0.0], torch.tensor([1.0])):
        assert dode.SOLVERS[solver].stages(sigmas) == []


@pytest.mark.parametrize(
    "change",
    [
        {"b": (-9.9,)},
        {"c": ((1.0, -0.9),)},
        {"c": ((1.0,),)},
        {"here": 0.9},
        {"start": 0.1},
        {"sigma": 14.0},
        {"sigma_next": 4.0},
        {"output": "denoised"},
        {"b": (math.nan,)},
        {"c": ((math.nan, 1.0),)},
        {"c": ((-10.0, 10.0), (1.0,)), "free": ()},
    ],
    ids=str,
)
def test_stages_check_themselves(change: dict[str, object]) -> None:
    stage = dode.Stage(0, 15.0, 15.0, 5.0, "eps", 0.0, 1.0, (-10.0,), ((-10.0, 10.0),))
    assert replace(stage, c=((-10.0, 10.0), (-10.0,)), free=(1,))
    with pytest.raises(dode.DodeError, match="inconsistent"):
        replace(stage, **change)  # type: ignore[arg-type]


def test_unknown_names() -> None:
    for name in ("euler", "", None, 3, ["ddim"]):
        with pytest.raises(dode.DodeError, match=r"unknown; use one of ddim, .*dpmpp_2m"):
            get_solver(name)  # type: ignore[arg-type]


SIGMA = st.floats(0, 1e6, exclude_min=True) | st.floats(0.01, 20.0)
UNIT = st.floats(0, 1, exclude_min=True)


@EVERY
@settings(max_examples=40)
@given(data=st.data())
def test_any_grid_has_finite_stages(solver: str, data: st.DataObject) -> None:
    """Descending, ascending, repeated, up and down, ending at 0 or not: a run is possible.

    Numbers too small to be noise levels may be refused, in our own words.
    """
    parametrization = data.draw(st.sampled_from(["ve", "flow"]))
    level = UNIT if parametrization == "flow" else SIGMA
    sigmas = data.draw(st.lists(level, min_size=1, max_size=8))
    near = [value for sigma in sigmas for value in (sigma, sigma * (1 - 1e-12))]
    sigmas = data.draw(
        st.sampled_from([sigmas, sorted(sigmas), sorted(sigmas, reverse=True), sigmas * 2, near])
    )
    sigmas += [0.0] * data.draw(st.booleans())
    try:
        stages = dode.SOLVERS[solver].stages(sigmas, parametrization, columns=2, gain=True)
    except dode.DodeError:
        assert min(sigma for sigma in sigmas if sigma) < 1e-6
        return
    numbers = [v for stage in stages for row in (stage.b, *stage.c) for v in row]
    numbers += [v for stage in stages for v in (stage.start, stage.here)]
    numbers += [stage.adams_bashforth or 0.0 for stage in stages]
    assert all(map(math.isfinite, numbers))


@EVERY
@pytest.mark.parametrize("gap", [1e-3, 1e-6, 1e-9, 1e-12, 1e-15, 0.0])
def test_nearly_repeated_sigmas(solver: str, gap: float) -> None:
    """Schedules that round two nodes together, at large and at small sigma."""
    for node in (5.0, 0.5, 1e-5):
        for end in (10.0, 1e-6, 0.0):
            sigmas = [20.0, node, node * (1 - gap), end]
            stages = dode.SOLVERS[solver].stages(sigmas)
            assert all(math.isfinite(value) for stage in stages for value in stage.b)
