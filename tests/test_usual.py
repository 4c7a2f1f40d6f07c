"""Built-in rows as plans: where long runs begin, and what is expected of them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from test_profile import HIGH, LOW, profile

from dode_core.response import design
from dode_core.response.design import Designer
from dode_core.response.optimise import predicted
from dode_core.response.simulate import Plan, Simulation
from dode_core.response.usual import even_sigma, plain_plans, usual_grids

KINDS = ("ve", "flow")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("steps", [2, 4, 7, 20])
@pytest.mark.parametrize("part", [1.0, 0.3])
def test_usual_grids_are_runs(kind: str, steps: int, part: float) -> None:
    """So many steps from where the run begins to 0, falling, above the lowest sigma."""
    first, low = (HIGH, LOW) if kind == "ve" else (1.0, 0.0001)
    grids = usual_grids(first * part, low, steps, kind)
    assert len(grids) >= 3
    for grid in grids:
        assert len(grid) == steps + 1 and grid[0] == first * part and grid[-1] == 0
        assert all(a > b for a, b in zip(grid, grid[1:], strict=False))
        assert grid[-2] >= 0.999 * low


def test_grids_that_leave_the_range_are_none() -> None:
    even, cosine = usual_grids(1.0, 0.03, 20, "flow")[1:], usual_grids(1.0, 0.001, 20, "flow")[2]
    assert len(even) == 1 and cosine[-2] < 0.03  # the half cosine is left out
    for kind in KINDS:
        assert usual_grids(0.0031, 0.003, 9, kind) == []


def test_one_step_has_one_grid() -> None:
    assert usual_grids(3.0, 0.1, 1, "ve") == [[3.0, 0.0]]


@pytest.mark.parametrize("kind", KINDS)
def test_plain_plans_are_the_samplers(kind: str) -> None:
    """What is expected of a plan is what is expected of the sampler's own stages: DEIS at any
    number of steps; iPNDM, but for its fourth order, where its last step to 0 is the fourth.
    """
    found = profile(kind)
    simulation = Designer(found.response).judge
    for steps, names in ((4, ("deis", "ipndm")), (9, ("deis",))):
        grids = usual_grids(found.sigma_max, found.sigma_min, steps, kind)
        plans = plain_plans(grids, kind)
        errors = predicted(simulation, plans).reshape(len(grids), 2)
        for grid, both in zip(grids, errors, strict=True):
            for name, error in zip(names, both, strict=False):
                assert error == pytest.approx(found.expected_plain(name, grid), rel=1e-6)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("steps", [16, 24])
def test_a_long_run_begins_at_built_in_rows(kind: str, steps: int) -> None:
    """Less is expected of what is designed from them than of any of them, and its last inner sigma
    stays in the range.
    """
    found = profile(kind)
    plan = found.plan(steps)
    plain = plain_plans(usual_grids(found.sigma_max, found.sigma_min, steps, kind), kind)
    least = predicted(Designer(found.response).judge, plain).min()
    assert plan.expected < 0.8 * least
    assert plan.sigmas[-2] >= found.sigma_min and np.all(np.diff(plan.sigmas) < 0)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("steps", "share", "count"), [(3, 0.2, 2), (9, 0.2, 2), (9, None, 0)])
def test_a_partial_run_begins_there_as_well(
    kind: str, steps: int, share: float | None, count: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of all beginnings the one is taken of which the product of both beliefs is least."""
    found = profile(kind)
    designer = Designer(found.response, found.weight)
    begun: list[Plan] = []
    ended: list[Plan] = []

    def optimise(simulation: Simulation, plan: Plan, *arguments: Any) -> Plan:
        begun.append(plan)
        ended.append(optimised(simulation, plan, *arguments))
        return ended[-1]

    optimised = design.optimise
    monkeypatch.setattr(design, "optimise", optimise)
    start = found.sigma_max * (share or 1)
    plan = designer.own(steps, share and start)
    usual = [tuple(grid) for grid in usual_grids(start, designer.low, steps, kind)]
    assert len(begun) == 3 + count and sum(each.sigmas in usual for each in begun) == count
    least = min(
        designer.predict(each) * float(predicted(designer.simulation, [each])[0]) for each in ended
    )
    product = plan.expected * float(predicted(designer.simulation, [plan])[0])
    assert product == pytest.approx(least, rel=1e-6)


def test_image_to_image_begins_where_signal_and_noise_are_even() -> None:
    assert even_sigma("ve", 80.0, 0.002) == even_sigma("ve", 14.6, 0.03) == 1.0
    assert even_sigma("flow", 1.0, 0.002) == 0.5
    assert even_sigma("ve", 15.0, 2.0) == pytest.approx(30**0.5)  # nothing is even in that range
    assert even_sigma("flow", 0.6, 0.1) == pytest.approx(1 / (1 + 6**0.5))


@pytest.mark.parametrize("kind", KINDS)
def test_a_run_is_measured_from_there(kind: str) -> None:
    found = profile(kind)
    even = even_sigma(kind, found.sigma_max, found.sigma_min)
    assert [m.start for m in found.measured if m.start is not None] == [even]


@given(st.sampled_from(KINDS), st.floats(1e-3, 0.999), st.floats(1e-3, 0.999))
def test_it_lies_in_the_range(kind: str, a: float, b: float) -> None:
    high, low = max(a, b), min(a, b)
    if high > 1.001 * low:
        assert low < even_sigma(kind, high, low) < high
