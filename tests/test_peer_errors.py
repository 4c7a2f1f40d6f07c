"""A table says how it compares with what a user would otherwise have run."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest
import torch
from problems import grid_for, mixture, start
from tables import document, made_up

import dode_core as dode
from dode_core.demo.peers import k_diffusion_sampling
from dode_core.tables.table import dump_tables, parse_tables


@pytest.mark.parametrize("kind", ["ve", "flow"])
@pytest.mark.parametrize("solver", ["ddim", "dpmpp_2m"])
@pytest.mark.parametrize("learn", [False, True])
def test_measured_on_the_same_noises_and_grid(kind: str, solver: str, learn: bool) -> None:
    """Against a run of the plain sampler by hand, from the held-out noises to the same goals."""
    grid = grid_for(kind, 5)
    x = start(kind, grid, 6, 2, 3, 3)
    model, peers = mixture(kind), ("dpmpp_2m", "euler")
    teacher = dode.Teacher("dpmpp_2m", 6)
    how: Any = (
        {"columns": 2, "learn_sigmas": True, "budget": 160} if learn else {"teacher": teacher}
    )
    table = dode.distill(model, x, grid, solver, parametrization=kind, peers=peers, **how)
    assert table.errors and set(table.peer_errors) == set(peers)
    if learn:
        from dode_core.fit.trajectory import DENSE_LOW, DENSE_STEPS, dense_grid, dense_teacher
        from dode_core.solve.integrate import State

        low = min(float(grid[-2]), DENSE_LOW[kind] * float(grid[0]))
        fine = dense_grid(float(grid[0]), low, kind, DENSE_STEPS)
        goal = dense_teacher(model, State.begin(x[-2:]), fine, kind).final
    else:
        goal = teacher.states(model, x[-2:], grid.tolist(), kind)[-1]
    for name in peers:
        sampler = getattr(k_diffusion_sampling(), f"sample_{name}")  # what the hosts run
        run = sampler(model, x[-2:], grid, disable=True)
        found = float((run - goal).square().mean().sqrt())
        assert math.isclose(table.peer_errors[name], found, rel_tol=1e-6), name
    same = {"ddim": "euler", "dpmpp_2m": "dpmpp_2m"}[solver]
    alike = math.isclose(table.peer_errors[same], table.errors.plain_holdout or 0.0, rel_tol=1e-9)
    assert alike == ((kind, solver) != ("flow", "dpmpp_2m"))  # which steps in log-SNR, theirs not


def test_said_in_the_order_that_matters() -> None:
    table = made_up(error=0.5, peer_errors={"dpmpp_2m": 0.16, "euler": 0.2})
    assert table.worth == "38% closer to the many-step image than DPM++ 2M"
    assert table.describe() == f"{table.title}, {table.worth}"
    plain = made_up(error=0.5)
    assert plain.worth == "50% closer to the many-step image than plain DDIM"
    assert made_up(error=0.98).worth == "about as close to the many-step image as plain DDIM"
    assert made_up(error=1.25).worth == "25% farther from the many-step image than plain DDIM"
    assert made_up(error=None).worth == ""
    assert made_up(peer_errors={"deis": 0.2}).best_peer == ("deis", 0.2)


def test_the_file_keeps_them_and_refuses_others() -> None:
    table = made_up(peer_errors={"dpmpp_2m": 0.16})
    (again,) = parse_tables(dump_tables([table]))
    assert again.peer_errors == {"dpmpp_2m": 0.16}
    bad: list[tuple[Any, str]] = [
        ({}, "leave it out"),
        ([1], "leave it out"),
        ({"euler": "0.1"}, "a number belongs"),
        ({"euler": -1}, "from 0 up"),
        ({"e" * 51: 1}, "50 letters"),
        ({str(i): 1 for i in range(21)}, "20 are most"),
        ({"a\nb": 1}, "not printable"),
    ]
    for value, said in bad:
        text = document(table)
        text["tables"][0]["peer_errors"] = value
        with pytest.raises(dode.TableError, match=said):
            parse_tables(json.dumps(text).encode())


def test_nothing_held_out_nothing_said() -> None:
    grid = grid_for("ve", 3)
    x = start("ve", grid, 3, 2, 3, 3)
    table = dode.distill(mixture("ve"), x, grid, holdout=0, peers=("euler",))
    assert table.peer_errors == {} and torch.is_tensor(table.lambdas)
