"""The optimiser of runs in simulation: its derivatives."""

from __future__ import annotations

import numpy as np
import pytest
from test_profile import profile

from dode_core.response.optimise import DELTA, Moves, _normal_equations, _perturbed
from dode_core.response.simulate import Batch, Simulation


@pytest.mark.parametrize("kind", ["ve", "flow"])
@pytest.mark.parametrize("weight", [0.0, 1.0])
@pytest.mark.parametrize(("steps", "start"), [(1, None), (2, None), (7, None), (5, 0.3)])
def test_only_what_a_parameter_moves_is_simulated(
    kind: str, weight: float, steps: int, start: float | None
) -> None:
    """The normal equations are those of all residuals of all plans, each run from its start."""
    found = profile(kind)
    plan = found.plan(steps, start and start * found.sigma_max)
    moves = Moves(kind, found.sigma_min, look=(0.2, 0.9 * found.sigma_max))
    simulation = Simulation(found.response, weight > 0)
    gram, rhs = _normal_equations(simulation, plan, moves, weight)

    since, plans = _perturbed(plan, moves)
    assert len(plans) == len(gram) > 0
    residuals = simulation.run(Batch.of([plan, *plans])).residuals(weight)
    jacobian = (residuals[1:] - residuals[0]) / DELTA
    scale = np.sqrt(np.diagonal(jacobian @ jacobian.T))
    # Forward differences: the last digits of the residuals, over DELTA.
    np.testing.assert_allclose(gram, jacobian @ jacobian.T, rtol=1e-5, atol=1e-6 * scale.max() ** 2)
    np.testing.assert_allclose(rhs, -(jacobian @ residuals[0]), rtol=1e-5, atol=1e-6 * scale.max())
    assert since.max() == steps - 1
