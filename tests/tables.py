"""Tables made up for tests of files and of resolving: no model is run."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from hypothesis import strategies as st
from problems import karras, randn

import dode_core as dode
from dode_core.solve.stages import LookAhead


def made_up(
    solver: str = "ddim",
    sigmas: Sequence[float] | torch.Tensor | None = None,
    *,
    parametrization: str = "ve",
    columns: int = 1,
    gain: bool = False,
    draw: int = 0,
    error: float | None = 0.5,
    **fields: Any,
) -> dode.LambdaTable:
    """A table with random lambdas, drawn anew for every ``draw``.

    ``error`` is what is left of the plain solver's on held-out samples.
    """
    fields = {"program": "tests", **fields}
    grid = torch.as_tensor(karras(4) if sigmas is None else sigmas, dtype=torch.float64)
    stages = dode.SOLVERS[solver].stages(grid, parametrization, columns=columns, gain=gain)
    errors = None if error is None else dode.Errors(0.2, 0.1, 0.2, 0.2 * error)
    return dode.LambdaTable(
        solver,
        grid,
        randn(len(stages), columns + gain, seed=draw),
        parametrization,
        gain,
        errors,
        **fields,
    )


def document(*tables: dode.LambdaTable) -> dict[str, Any]:
    """What a file with these tables holds, as Python objects."""
    from dode_core.tables.table import dump_tables

    return json.loads(dump_tables(tables))


def same(a: dode.LambdaTable, b: dode.LambdaTable) -> bool:
    """Whether two tables are equal in every field, floats bit by bit (-0.0 is not 0.0)."""
    one, two = dict(vars(a)), dict(vars(b))
    one.pop("stages"), two.pop("stages")
    tensors = all(
        torch.equal(one[key], two[key])
        and torch.equal(one.pop(key).signbit(), two.pop(key).signbit())
        for key in ("sigmas", "lambdas")
    )
    return tensors and repr(one) == repr(two)


def files_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


PRINTABLE = st.characters(categories=["L", "N", "P", "S"]) | st.just(" ")
TEXTS = st.text(PRINTABLE, max_size=300)
MAYBE_ERROR = st.none() | st.floats(0, 1e200)


@st.composite
def tables(draw: st.DrawFn) -> dode.LambdaTable:
    """Any table that may exist."""
    solver = draw(st.sampled_from(list(dode.SOLVERS)))
    parametrization = draw(st.sampled_from(["ve", "flow"]))
    columns, gain = draw(st.integers(1, 3)), draw(st.booleans())
    top = 1.0 if parametrization == "flow" else 1000.0
    sigmas = draw(st.lists(st.floats(1e-3, top), min_size=2, max_size=9, unique=True))
    sigmas = sorted(sigmas, reverse=draw(st.booleans())) + [0.0] * draw(st.booleans())
    stages = dode.SOLVERS[solver].stages(sigmas, parametrization, columns=columns, gain=gain)
    width = columns + gain
    row = st.lists(st.floats(-1e4, 1e4), min_size=width, max_size=width)
    rows = draw(st.lists(row, min_size=len(stages), max_size=len(stages)))
    learned, ahead = draw(st.booleans()), None
    if learned and sigmas[0] / max(sigmas[1], 1e-9) > 1 + 1e-9:
        between = st.floats(sigmas[1], sigmas[0], exclude_min=True, exclude_max=True)
        means = st.lists(st.floats(-1e4, 1e4), max_size=256).map(tuple)
        ahead = draw(st.none() | st.builds(LookAhead, between, means))
    errors = st.builds(dode.Errors, *[st.floats(0, 1e200)] * 2, MAYBE_ERROR, MAYBE_ERROR)
    zeroed = st.sets(st.integers(0, len(stages) - 1))
    return dode.LambdaTable(
        solver,
        torch.tensor(sigmas, dtype=torch.float64),
        torch.tensor(rows, dtype=torch.float64).reshape(len(stages), width),
        parametrization,
        gain,
        draw(st.none() | errors),
        tuple(sorted(draw(zeroed))),
        draw(TEXTS),
        draw(st.integers(0, 2**63 - 1)),
        draw(st.integers(0, 2**63 - 1)),
        draw(st.floats(0, 1e200)),
        draw(st.none() | st.floats(-1e200, 1e200)),
        tuple(draw(st.lists(st.integers(0, 2**20), max_size=8))),
        draw(st.none() | st.integers(0, 2**64 - 1)),
        draw(TEXTS),
        draw(TEXTS),
        draw(TEXTS.filter(bool)),
        learned,
        draw(st.integers(0, 2**63 - 1)),
        ahead,
        None,
        draw(st.none() | st.just(tuple(sigmas))) if learned else None,
        draw(
            st.dictionaries(
                TEXTS.filter(lambda t: 0 < len(t) <= 50), st.floats(0, 1e200), max_size=3
            )
        ),
    )
