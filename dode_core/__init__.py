"""D-ODE samplers: solvers with lambdas distilled from the model's own fine trajectory.

    import dode_core as dode
    table = dode.distill(model, noise * sigmas[0], sigmas, solver="ddim")
    image = dode.sample(model, x, sigmas, table=table)

Everything is loaded on first use, so importing this package costs nothing.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .calibration import calibrate
    from .distillation import distill
    from .errors import CalibrationError, DodeError, Enough, SigmasError, TableError
    from .fit.teacher import Teacher
    from .many_tables import best_tables, distill_many
    from .match.resolve import Resolution, resolve
    from .offline.scheduler import DodeScheduler
    from .response.profile import Profile
    from .sampler import run_resolved, sample
    from .solve.solver import Solver
    from .solve.solvers import SOLVERS
    from .solve.stages import Stage
    from .tables.fields import Errors
    from .tables.table import LambdaTable, load_tables, save_tables
    from .version import __version__

_HOME = {
    "calibrate": "calibration",
    "Profile": "response.profile",
    "best_tables": "many_tables",
    "distill": "distillation",
    "distill_many": "many_tables",
    "CalibrationError": "errors",
    "DodeError": "errors",
    "DodeScheduler": "offline.scheduler",
    "Enough": "errors",
    "SigmasError": "errors",
    "TableError": "errors",
    "load_tables": "tables.table",
    "save_tables": "tables.table",
    "Resolution": "match.resolve",
    "resolve": "match.resolve",
    "run_resolved": "sampler",
    "sample": "sampler",
    "SOLVERS": "solve.solvers",
    "Solver": "solve.solver",
    "Stage": "solve.stages",
    "Errors": "tables.fields",
    "LambdaTable": "tables.table",
    "Teacher": "fit.teacher",
    "__version__": "version",
}
__all__ = [
    "SOLVERS",
    "CalibrationError",
    "DodeError",
    "DodeScheduler",
    "Enough",
    "Errors",
    "LambdaTable",
    "Profile",
    "Resolution",
    "SigmasError",
    "Solver",
    "Stage",
    "TableError",
    "Teacher",
    "__version__",
    "best_tables",
    "calibrate",
    "distill",
    "distill_many",
    "load_tables",
    "resolve",
    "run_resolved",
    "sample",
    "save_tables",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f".{_HOME[name]}", __name__), name)
    globals()[name] = value
    return value
