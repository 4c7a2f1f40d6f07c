"""D-ODE samplers: solvers with lambdas distilled from the model's own fine trajectory.

    import dode_core as dode
    table = dode.distill(model, noise * sigmas[0], sigmas, solver="ddim")
    image = dode.sample(model, x, sigmas, table=table)

Everything is loaded on first use, so importing this package costs nothing.
"""

from __future__ import annotations

import sys
from importlib import import_module
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .distill import best_tables, distill, distill_many
    from .errors import CalibrationError, DodeError, Enough, SigmasError, TableError
    from .files import load_tables, save_tables
    from .resolve import Resolution, resolve
    from .sampler import run_resolved, sample
    from .solvers import SOLVERS, Solver, Stage
    from .table import Errors, LambdaTable
    from .teacher import Teacher
    from .version import __version__

_HOME = {
    "best_tables": "distill",
    "distill": "distill",
    "distill_many": "distill",
    "CalibrationError": "errors",
    "DodeError": "errors",
    "Enough": "errors",
    "SigmasError": "errors",
    "TableError": "errors",
    "load_tables": "files",
    "save_tables": "files",
    "Resolution": "resolve",
    "resolve": "resolve",
    "run_resolved": "sampler",
    "sample": "sampler",
    "SOLVERS": "solvers",
    "Solver": "solvers",
    "Stage": "solvers",
    "Errors": "table",
    "LambdaTable": "table",
    "Teacher": "teacher",
    "__version__": "version",
}
__all__ = [
    "SOLVERS",
    "CalibrationError",
    "DodeError",
    "Enough",
    "Errors",
    "LambdaTable",
    "Resolution",
    "SigmasError",
    "Solver",
    "Stage",
    "TableError",
    "Teacher",
    "__version__",
    "best_tables",
    "distill",
    "distill_many",
    "load_tables",
    "resolve",
    "run_resolved",
    "sample",
    "save_tables",
]


class _Package(ModuleType):
    """Keeps submodules from hiding the functions they are named after (distill, resolve)."""

    def __setattr__(self, name: str, value: object) -> None:
        if not (name in _HOME and isinstance(value, ModuleType)):
            super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Package


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f".{_HOME[name]}", __name__), name)
    globals()[name] = value
    return value
