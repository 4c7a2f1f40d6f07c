"""What is believed of a response: runs are made with hope, and foretold without."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from test_profile import profile

from benchmarks.belief import left_out
from dode_core.calibration import OBSERVED, PARTIAL
from dode_core.response.belief import EXPECTED, HOPED
from dode_core.response.design import Designer
from dode_core.response.model import left_out as left_out_knots
from dode_core.response.optimise import predicted
from dode_core.response.usual import even_sigma

KINDS = ("ve", "flow")


@pytest.mark.parametrize("kind", KINDS)
def test_a_run_is_foretold_by_the_others(kind: str) -> None:
    """As far off as was believed, on a mixture that no constant was chosen on."""
    ratio, explained = left_out(profile(kind), EXPECTED)
    assert 0.4 < ratio < 2.5 and explained > 0.6  # 0.94 and 0.78, 0.81 and 0.78 on one machine
    assert left_out(profile(kind), HOPED)[0] > 10


@pytest.mark.parametrize("kind", KINDS)
def test_one_of_them_is_image_to_image(kind: str) -> None:
    """It begins where signal and noise are even; from there a run is measured as well."""
    found = profile(kind)
    points, first = found.response.points, 0 if found.looks else 1
    unseen = [1 if i == PARTIAL else first for i in range(len(OBSERVED))]
    assert points is not None and len(points.logs) == sum(OBSERVED) - sum(unseen)
    begins = sum(OBSERVED[:PARTIAL]) - sum(unseen[:PARTIAL])
    assert (points.logs[begins : begins + OBSERVED[PARTIAL] - 1] < 0).all()
    even = even_sigma(kind, found.sigma_max, found.sigma_min)
    assert [m.start for m in found.measured if m.start is not None] == [even]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("steps", [1, 6, 15])
def test_what_is_told_is_what_is_expected(kind: str, steps: int) -> None:
    """Not what the run was made with."""
    found = profile(kind)
    plan, table = found.plan(steps), found.table(steps)
    designer = Designer(found.response, found.weight)
    assert plan.expected == pytest.approx(float(predicted(designer.judge, [plan])[0]), rel=1e-9)
    hoped = float(predicted(designer.simulation, [plan])[0])
    assert steps == 1 or plan.expected > 1.01 * hoped
    if table.gain:
        assert table.errors and table.errors.distilled_fit == pytest.approx(plan.expected, rel=1e-9)
        assert found.expected(table) == pytest.approx(plan.expected, rel=1e-6)


def test_the_teachers_own_error_is_told() -> None:
    """Halfway between knots a cubic through four misses a quartic by what one left out tells."""
    logs = np.linspace(3.0, -3.0, 13)
    cubic, quartic = ((logs**power)[None, :, None] for power in (3, 4))
    assert left_out_knots(logs, cubic).max() < 1e-18
    found = replace(profile().response, knots=np.exp(logs), slopes=quartic, points=None)
    halfway = logs[2:-3] - 0.25
    missed = found.slope(np.exp(halfway))[:, :, 0] - halfway**4
    assert np.sqrt(found.off(halfway)) == pytest.approx(np.abs(missed), rel=1e-6)


@pytest.mark.parametrize("kind", KINDS)
def test_a_point_that_says_nothing_changes_nearly_nothing(kind: str) -> None:
    """Seen nearer to the teacher than the teacher's own error: its answer is all error."""
    found = profile(kind)
    points = found.response.points
    assert points is not None
    rng = np.random.default_rng(1)
    dx = 1e-9 * rng.normal(size=points.dx[:, :1].shape)
    more = replace(
        points,
        logs=np.append(points.logs, -0.5),
        dx=np.append(points.dx, dx, 1),
        answer=np.append(points.answer, 1e4 * dx, 1),
    )
    response = replace(found.response, points=more)
    table = found.table_of(found.plan(6))
    expected = replace(found, response=response).expected(table)
    assert expected == pytest.approx(found.expected(table), rel=5e-3)
