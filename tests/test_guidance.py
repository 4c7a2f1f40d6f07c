"""Between calibrated guidance scales."""

from __future__ import annotations

import pytest
import torch
from problems import karras

import dode_core as dode
from dode_core.match.between_cfgs import between
from dode_core.match.resolve import resolve

OWN = [15.0, 4.0, 1.0, 0.3, 0.0]


def table(
    cfg: float, learned: bool = False, shift: float = 0.05, **more: object
) -> dode.LambdaTable:
    """Lambdas quadratic and log sigmas linear in cfg."""
    rows = torch.tensor([[0.1], [0.5], [0.7], [0.2]], dtype=torch.float64) * (
        1 + 0.3 * cfg - 0.02 * cfg**2
    )
    sigmas = torch.tensor(OWN, dtype=torch.float64) if learned else karras(4)
    if learned:
        sigmas[1:-1] *= float(torch.tensor(shift * cfg).exp())
    kind = {"solver": "ddim", "model_fingerprint": "a"} | more
    asked = tuple(karras(4).tolist()) if learned else None
    kind |= {"learned_sigmas": learned, "asked_sigmas": asked}
    return dode.LambdaTable(sigmas=sigmas, lambdas=rows, cfg=cfg, **kind)


@pytest.mark.parametrize("learned", [False, True])
def test_three_tables_give_the_quadratic(learned: bool) -> None:
    tables = [table(cfg, learned) for cfg in (1, 3, 7)]
    for cfg in (2.0, 4.5, 6.9):
        found, exact = between(tables, tables[1], cfg), table(cfg, learned)
        assert found is not None and found.cfg == cfg and found.errors is None
        torch.testing.assert_close(found.lambdas, exact.lambdas)
        torch.testing.assert_close(found.sigmas, exact.sigmas)


def test_two_tables_give_the_line_and_a_third_that_is_far_is_not_needed() -> None:
    tables = [table(cfg) for cfg in (2, 4, 6, 30)]
    found = between(tables[:2], tables[0], 3)
    assert found is not None
    torch.testing.assert_close(found.lambdas, (tables[0].lambdas + tables[1].lambdas) / 2)
    found = between(tables, tables[0], 3)
    assert found is not None
    torch.testing.assert_close(found.lambdas, table(3).lambdas)  # through 2, 4 and 6


def test_nothing_is_extrapolated_or_mixed() -> None:
    own = table(3)
    assert between([table(1), own], own, 0.5) is None
    assert between([table(1), own], own, 7) is None
    assert between([own], own, 4) is None
    strangers = [
        table(7, model_fingerprint="b"),
        table(7, solver="ipndm"),
        table(7, learned=True),
    ]
    assert between([own, *strangers], own, 5) is None


def test_learned_grids_of_different_kinds_are_not_mixed() -> None:
    """Nodes that moved half-way to their neighbour belong to another solution."""
    tables = [table(cfg, True, shift=0.3) for cfg in (1, 7)]
    assert between(tables, tables[0], 3) is None


def test_a_third_table_that_is_another_solution_is_left_out() -> None:
    near = [table(cfg, True) for cfg in (1, 3)]
    far = table(7, True, shift=0.15)
    found, expected = between([*near, far], near[0], 2), between(near, near[0], 2)
    assert found is not None and expected is not None
    assert torch.equal(found.sigmas, expected.sigmas) and torch.equal(
        found.lambdas, expected.lambdas
    )
    assert between([*near, far], near[1], 5) is None


@pytest.mark.parametrize("learned", [False, True])
def test_resolving_between_two_cfgs(learned: bool) -> None:
    tables = [table(cfg, learned) for cfg in (1, 3, 7)]
    found = resolve(tables, karras(4), cfg=4)
    assert found.kind == "exact" and "between the tables" in found.message
    assert found.table is tables[1]
    torch.testing.assert_close(
        torch.tensor(found.lambdas, dtype=torch.float64), table(4, learned).lambdas
    )
    assert [stage.sigma for stage in found.stages] == pytest.approx(
        table(4, learned).sigmas[:-1].tolist()
    )
    assert "it was made at cfg 7" in resolve(tables, karras(4), cfg=8).message
    assert "cfg 3" in resolve(tables, karras(4), cfg=3).message
