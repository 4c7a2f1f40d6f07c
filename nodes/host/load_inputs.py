"""What D-ODE Load Table takes: a file, and which of its tables."""

from __future__ import annotations

from pathlib import Path

from comfy_api.latest import io

from ...dode_core.response.profile import SUFFIX as PROFILE_SUFFIX
from ...dode_core.solve.solvers import SOLVERS
from . import store
from .common import SOLVER_HELP, advanced

NO_FILES = "(no table files yet)"
STEPS = 8  # whose sigmas are given of a profile where none are asked for


def is_profile(file: Path) -> bool:
    """Whether a file is a profile, by its name."""
    return file.name.endswith(PROFILE_SUFFIX)


def load_inputs() -> list[io.Input]:
    """The file, then what tells its tables apart."""
    files = [*store.listing(), *store.profile_listing()] or [NO_FILES]
    return [
        io.Combo.Input(
            "file",
            options=files,
            default=files[0],
            tooltip="Table files and profiles beside checkpoints and diffusion models, and in "
            "models/dode. Press R to see new ones.",
        ),
        io.Combo.Input(
            "solver",
            options=[store.ANY, *SOLVERS],
            default=store.ANY,
            optional=True,
            tooltip=f"Which tables of the file to choose from.\n{SOLVER_HELP}",
        ),
        io.Int.Input(
            "steps",
            default=0,
            min=0,
            max=1000,
            optional=True,
            tooltip="Which tables of the file to choose from; 0 is any number of steps.",
        ),
        advanced(
            io.Int.Input(
                "number",
                default=1,
                min=1,
                max=1000,
                optional=True,
                tooltip="Which of those that are left: 1 is the newest, 2 the one before.",
            )
        ),
        advanced(
            io.String.Input(
                "table",
                default="",
                optional=True,
                tooltip="Which tables, by what they say: 'cfg 7', or 'own noise levels, cfg 7'. "
                "The panel D-ODE on the left lists them all, and its Load fills this in.",
            )
        ),
    ]
