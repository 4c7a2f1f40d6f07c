"""The same seeded run gives the same table, bit for bit, whatever is moved or renamed inside.

``data/same_tables.json`` was written before the core was divided into packages, by running this
file as a script. Bits follow the processor's vector unit and the torch version; on another machine
the numbers must agree to rounding.
"""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import dode_core as dode

sys.path.insert(0, str(Path(__file__).parent))
from problems import grid_for, mixture, start  # noqa: E402

FILE = Path(__file__).parent / "data" / "same_tables.json"
LOOSE = 1e-6  # learning amplifies rounding: on another processor it is a few hundred roundings off
SAMPLES = 6


def machine() -> str:
    return f"torch {torch.__version__}, {torch.backends.cpu.get_cpu_capability()}"


def distilled(kind: str, steps: int, **how: Any) -> list[dode.LambdaTable]:
    torch.set_num_threads(1)
    sigmas = grid_for(kind, steps)
    x = start(kind, sigmas, SAMPLES, 2, 3, 3, seed=3)
    return [dode.distill(mixture(kind), x, sigmas, parametrization=kind, **how)]


def several(kind: str, **how: Any) -> list[dode.LambdaTable]:
    torch.set_num_threads(1)
    grids = [grid_for(kind, steps) for steps in (4, 6)]
    x = start(kind, grids[0], SAMPLES, 2, 3, 3, seed=4)
    return dode.distill_many(mixture(kind), x, grids, parametrization=kind, **how)


RUNS: dict[str, Callable[[], list[dode.LambdaTable]]] = {}
for _kind in ("ve", "flow"):
    for _solver in dode.SOLVERS:
        RUNS[f"{_kind} one lambda {_solver}"] = lambda k=_kind, s=_solver: distilled(k, 6, solver=s)
        RUNS[f"{_kind} columns {_solver}"] = lambda k=_kind, s=_solver: distilled(
            k, 6, solver=s, columns=2, gain=True
        )
    RUNS[f"{_kind} paper's teacher"] = lambda k=_kind: distilled(
        k, 5, teacher=dode.Teacher("ddim", 10)
    )
    RUNS[f"{_kind} sigmas"] = lambda k=_kind: distilled(
        k, 5, columns=2, gain=True, learn_sigmas=True, budget=200
    )
    RUNS[f"{_kind} sigmas, heun"] = lambda k=_kind: distilled(
        k, 4, solver="heun", columns=1, learn_sigmas=True, budget=200
    )
    RUNS[f"{_kind} sigmas, long"] = lambda k=_kind: distilled(
        k, 18, columns=2, gain=True, learn_sigmas=True, budget=300
    )
    RUNS[f"{_kind} many"] = lambda k=_kind: several(
        k, solvers=("ddim", "deis"), settings=((1, False), (3, True))
    )
    RUNS[f"{_kind} many sigmas"] = lambda k=_kind: several(
        k, settings=((2, True),), learn_sigmas=True, budget=400
    )


def facts(table: dode.LambdaTable) -> dict[str, Any]:
    """What must stay, floats as hexadecimal texts."""
    ahead, errors = table.look_ahead, table.errors
    return {
        "solver": table.solver,
        "sigmas": [value.hex() for value in table.sigmas.tolist()],
        "lambdas": [[value.hex() for value in row] for row in table.lambdas.tolist()],
        "look_ahead": [value.hex() for value in (ahead.sigma, *ahead.mean)] if ahead else None,
        "errors": [
            None if value is None else value.hex()
            for value in (vars(errors).values() if errors else ())
        ],
        "zeroed": list(table.zeroed),
        "evaluations": table.evaluations,
        "teacher": table.teacher,
        "learned_sigmas": table.learned_sigmas,
    }


def close(a: Any, b: Any) -> bool:
    """Equal, hexadecimal floats to rounding."""
    if isinstance(a, list):
        return isinstance(b, list) and len(a) == len(b) and all(map(close, a, b))
    if isinstance(a, str) and "0x" in a and isinstance(b, str) and "0x" in b:
        p, q = float.fromhex(a), float.fromhex(b)
        return math.isclose(p, q, rel_tol=LOOSE, abs_tol=LOOSE)
    return a == b


@pytest.mark.parametrize("name", RUNS)
def test_a_seeded_run_gives_the_table_it_always_gave(name: str) -> None:
    stored = json.loads(FILE.read_text("utf-8"))
    found = [facts(table) for table in RUNS[name]()]
    expected = stored["tables"][name]
    if stored["machine"] == machine():
        assert found == expected
        return
    assert len(found) == len(expected)
    for ours, theirs in zip(found, expected, strict=True):
        for key in theirs:
            assert close(ours[key], theirs[key]), key


if __name__ == "__main__":
    made = {name: [facts(table) for table in run()] for name, run in RUNS.items()}
    FILE.write_text(json.dumps({"machine": machine(), "tables": made}, indent=1) + "\n", "utf-8")
