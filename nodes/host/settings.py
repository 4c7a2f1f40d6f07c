"""What a user can set: which samplers the menus have beside ``dode``.

Names from the environment variable ``DODE_SAMPLERS``, or else from the file
``models/dode/samplers.txt``: separated by commas, spaces or lines, "paper" for the paper's five.
"""

from __future__ import annotations

import logging
import os
import re
from pathlib import Path

from ...dode_core.solve.solvers import SOLVERS
from . import store

VARIABLE, FILE = "DODE_SAMPLERS", "samplers.txt"
PAPER = ("ddim", "ipndm", "deis", "dpm_solver_2", "heun")  # arXiv 2309.16421, section 4
MOST = 4096  # characters; more is no list of names


def extra_samplers() -> list[str]:
    """The solvers that get a menu entry of their own; unknown names are said and left out."""
    found: list[str] = []
    for word in re.split(r"[\s,;]+", setting().lower()):
        names = PAPER if word == "paper" else (word.removeprefix("dode_"),)
        unknown = [name for name in names if name and name not in SOLVERS]
        if unknown:
            known = ", ".join(("paper", *SOLVERS))
            logging.warning("D-ODE: sampler %r is unknown; use one of %s.", unknown[0][:50], known)
        found += [name for name in names if name in SOLVERS and name not in found]
    return found


def setting() -> str:
    """The text of the setting, empty for none."""
    if VARIABLE in os.environ:
        return os.environ[VARIABLE][:MOST]
    for folder in store.paths_of(store.FOLDER):
        try:
            with open(Path(folder) / FILE, encoding="utf-8-sig", errors="replace") as file:
                lines = file.read(MOST).splitlines()
        except OSError:
            continue  # not there
        return "\n".join(line.partition("#")[0] for line in lines)
    return ""
