"""Built-in rows as plans: where long runs begin, and what is expected of them."""

from __future__ import annotations

import numpy as np
import pytest
from test_profile import HIGH, LOW, profile

from dode_core.response.design import Designer
from dode_core.response.optimise import predicted
from dode_core.response.usual import plain_plans, usual_grids

KINDS = ("ve", "flow")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("steps", [2, 4, 7, 20])
@pytest.mark.parametrize("part", [1.0, 0.3])
def test_usual_grids_are_runs(kind: str, steps: int, part: float) -> None:
    """So many steps from where the run begins to 0, falling, above the lowest sigma."""
    first, low = (HIGH, LOW) if kind == "ve" else (1.0, 0.01)
    grids = usual_grids(first * part, low, steps, kind)
    assert len(grids) >= 3
    for grid in grids:
        assert len(grid) == steps + 1 and grid[0] == first * part and grid[-1] == 0
        assert all(a > b for a, b in zip(grid, grid[1:], strict=False))
        assert grid[-2] >= 0.999 * low or kind == "flow"


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
