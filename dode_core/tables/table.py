"""LambdaTable: what a calibration leaves behind, and what a preset file holds."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..errors import TableError
from ..solve.directions import PAPER, columns_and_gain, direction_names
from ..solve.noise import PARAMETRIZATIONS, check_sigmas
from ..solve.scheme import Scheme
from ..solve.solvers import get_solver
from ..solve.stages import LookAhead, Stage
from . import fields as parts
from . import files
from .document import MAX_TABLES, dump_document, parse_document
from .fields import Errors


@dataclass(frozen=True, eq=False)
class LambdaTable:
    """The lambdas of one solver on one sigma grid, with what is needed to trust and reuse them.

    sigmas: (steps + 1,) float64, the full grid. lambdas: (stages, columns) float64, dimensionless,
    one row per model evaluation; with ``gain`` the last column multiplies the newest output.
    ``learned_sigmas``: the inner sigmas were distilled too, so a full run should use them;
    ``look_ahead`` is learned with them.
    ``asked_sigmas``: the grid that a table with learned sigmas was asked for, whose runs it serves
    exactly; None where its file does not say.
    ``peer_errors``: held-out errors of samplers that a user would otherwise have run on the grid
    that was asked for, by name.
    ``directions`` names what the columns multiply where those are not differences and a gain.
    ``zeroed`` lists stages whose lambda did not help held-out samples and was set to 0.
    ``dropped`` counts samples that were left out because the model's output was not finite.
    ``evaluations`` counts model evaluations per calibration sample, teacher included.
    Raises :class:`TableError` when a field is missing, absurd, or disagrees with another.
    """

    solver: str
    sigmas: Tensor
    lambdas: Tensor
    parametrization: str = "ve"
    gain: bool = False
    errors: Errors | None = None
    zeroed: tuple[int, ...] = ()
    teacher: str = ""
    samples_fit: int = 0
    samples_holdout: int = 0
    evaluations: float = 0.0
    cfg: float | None = None
    latent_shape: tuple[int, ...] = ()
    seed: int | None = None
    model_name: str = ""
    model_fingerprint: str = ""
    program: str = ""
    learned_sigmas: bool = False
    dropped: int = 0
    look_ahead: LookAhead | None = None
    directions: tuple[str, ...] | None = None
    asked_sigmas: tuple[float, ...] | None = None
    peer_errors: Mapping[str, float] = field(default_factory=dict)
    stages: list[Stage] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        set_field = object.__setattr__
        set_field(self, "sigmas", torch.as_tensor(self.sigmas, dtype=torch.float64).cpu())
        set_field(self, "lambdas", torch.as_tensor(self.lambdas, dtype=torch.float64).cpu())
        if self.parametrization not in PARAMETRIZATIONS:
            raise TableError(
                f"Parametrisation {self.parametrization!r} is unknown; use one of "
                f"{PARAMETRIZATIONS}."
            )
        grid = check_sigmas(self.sigmas)
        if len(grid) < 2:
            raise TableError("The table has one sigma; a grid needs at least two.")
        parts.check_width(self.lambdas, self.gain, self.directions)
        if self.look_ahead is not None:
            parts.check_look_ahead(self.look_ahead, grid, self.learned_sigmas)
        if self.asked_sigmas is not None:
            asked = check_sigmas(self.asked_sigmas)
            parts.check_asked(asked, grid, self.learned_sigmas)
            set_field(self, "asked_sigmas", asked)
        stages = self.scheme.stages(grid, self.look_ahead)
        if len(stages) != len(self.lambdas):
            raise TableError(
                f"The table has {len(self.lambdas)} rows of lambdas, but {self.solver} makes "
                f"{len(stages)} model evaluations on its {len(grid)} sigmas; it was made for "
                "another grid."
            )
        parts.check_size(self.lambdas)
        parts.check_peers(self.peer_errors)
        if self.cfg is not None and not math.isfinite(self.cfg):
            raise TableError(f"The cfg is {self.cfg}; it must be a finite number.")
        set_field(self, "stages", stages)

    @classmethod
    def of(
        cls, scheme: Scheme, sigmas: Sequence[float], lambdas: Tensor, **fields: Any
    ) -> LambdaTable:
        """A table of a scheme's lambdas; ``fields`` are the others."""
        known = columns_and_gain(scheme.directions)
        return cls(
            solver=scheme.solver,
            sigmas=torch.tensor(sigmas, dtype=torch.float64),
            lambdas=lambdas,
            parametrization=scheme.parametrization,
            gain=known[1] if known else False,
            directions=None if known else scheme.directions,
            **fields,
        )

    @property
    def scheme(self) -> Scheme:
        """What the lambdas belong to: solver, parametrisation and directions."""
        names = self.directions or direction_names(self.columns, self.gain)
        return Scheme(self.solver, self.parametrization, names)

    @property
    def paper(self) -> bool:
        """Whether there is one lambda a stage, on the solver's own correction."""
        return self.scheme.directions == PAPER

    @property
    def column_names(self) -> list[str]:
        """What each column of lambdas is called in plots and lists."""
        if self.directions:
            return [name.replace("_", " ") for name in self.directions]
        return [f"lambda {i + 1}" for i in range(self.columns)] + ["gain"] * self.gain

    @property
    def steps(self) -> int:
        return len(self.sigmas) - 1

    @property
    def columns(self) -> int:
        """Difference columns, the gain not counted."""
        return self.lambdas.shape[1] - self.gain

    @property
    def helps(self) -> bool:
        """False when held-out samples say that the plain solver is as good."""
        ratio = self.errors.ratio if self.errors else None
        return bool((self.lambdas != 0).any()) and (ratio is None or ratio < 1)

    def key(self) -> tuple[Any, ...]:
        """Tables with equal keys replace each other in a file."""
        grid = tuple(float(f"{sigma:.5g}") for sigma in self.sigmas.tolist())
        cfg = None if self.cfg is None else round(self.cfg, 4)
        kind = self.scheme, self.learned_sigmas
        return *kind, grid, cfg, self.model_fingerprint

    @property
    def title(self) -> str:
        """What it is for."""
        text = f"{get_solver(self.solver).label}, {self.steps} steps"
        if not self.paper:
            text += f", {len(self.scheme.directions)} numbers a step"
        text += ", own noise levels" if self.learned_sigmas else ""
        return text if self.cfg is None else f"{text}, cfg {self.cfg:g}"

    @property
    def worth(self) -> str:
        """How much closer it comes than what a user would otherwise run; "" where not measured."""
        plain = get_solver(self.solver).label.removeprefix("D-")
        return parts.worth(self.errors, self.best_peer, plain)

    def describe(self, worth: bool = True) -> str:
        """One line for menus and logs; what it is worth holds for just what it was measured on."""
        text = ", ".join(filter(None, [self.title, self.worth if worth else ""]))
        if not self.helps:
            text += " (no improvement found: plain solver)"
        if self.dropped:
            of = self.dropped + self.samples_fit + self.samples_holdout
            text += f" ({self.dropped} of {of} samples were not finite)"
        return text

    @property
    def best_peer(self) -> tuple[str, float] | None:
        """The name and held-out error of the best sampler that a user would otherwise have run."""
        return min(self.peer_errors.items(), key=lambda pair: pair[1], default=None)

    def save(self, path: str | Path) -> None:
        """Add this table to a ``.dode.json`` file, or replace the one with the same key.

        Other tables in the file are kept; the file is replaced atomically. Raises
        :class:`TableError` when the existing file is not a valid table file (it stays untouched).
        """
        save_tables(path, [self])

    @staticmethod
    def load(path: str | Path) -> LambdaTable:
        """The table in a file, the last one written where the file holds several.

        ``dode_core.load_tables(path)`` gives all of them. Raises :class:`TableError`.
        """
        tables = load_tables(path)
        if not tables:
            raise TableError(f"{Path(path).name} holds no table; distill one first.")
        return tables[-1]


def load_tables(path: str | Path) -> list[LambdaTable]:
    """Every table of a file, in file order. Raises :class:`TableError` with the reason."""
    path = Path(path)
    return parse_tables(files.read_bytes(path), path.name)


def save_tables(path: str | Path, tables: Sequence[LambdaTable]) -> None:
    """Add tables to a file, replacing those with equal keys; atomic, one writer at a time."""

    def merged(name: str, raw: bytes | None) -> bytes:
        found = {table.key(): table for table in ([] if raw is None else parse_tables(raw, name))}
        for table in tables:
            found.pop(table.key(), None)  # the newest goes last
            found[table.key()] = table
        if len(found) > MAX_TABLES:
            raise TableError(f"{name} would hold {len(found)} tables; {MAX_TABLES} is most.")
        raw = dump_tables(list(found.values()))
        parse_tables(raw, name)  # what cannot be read back is refused before it is written
        return raw

    files.rewrite(path, merged)


def parse_tables(raw: bytes, name: str = "table file") -> list[LambdaTable]:
    """Tables from the bytes of a file. Raises :class:`TableError` that starts with ``name``."""
    return parse_document(raw, name, _built)


def dump_tables(tables: Sequence[LambdaTable]) -> bytes:
    """The bytes of a file with these tables: readable, one number row a line, exact floats."""
    return dump_document(tables)


def _built(output: str, fields: Mapping[str, Any]) -> LambdaTable:
    errors = fields["errors"]
    table = LambdaTable(**{**fields, "errors": Errors(*errors) if errors else None})
    expected = table.stages[0].output if table.stages else "eps"
    if output != expected:
        raise TableError(f'output is "{output}", but {table.solver} uses "{expected}".')
    if any(i >= len(table.stages) for i in table.zeroed):
        raise TableError(f"zeroed names a stage beyond {len(table.stages) - 1}.")
    return table
