"""Importing the package costs nothing, and its names are what they say in any order of use."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

import dode_core as dode

ROOT = Path(__file__).resolve().parent.parent


def fresh(program: str) -> str:
    """What a new interpreter prints, with the repository on its path."""
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_import_loads_no_torch() -> None:
    """ComfyUI and the WebUI import it at start-up."""
    heavy = ["torch", "numpy", "safetensors", "tqdm", "matplotlib", "PIL", "json"]
    program = f"import sys, dode_core; print([name for name in {heavy} if name in sys.modules])"
    assert fresh(program).strip() == "[]"


def test_no_host_is_imported() -> None:
    hosts = ["comfy", "folder_paths", "nodes", "server", "modules", "gradio", "k_diffusion"]
    program = (
        "import sys, dode_core as d; [getattr(d, name) for name in d.__all__];"
        f"print([name for name in {hosts} if name in sys.modules])"
    )
    assert fresh(program).strip() == "[]"


FIRST_USES = ["sample", "resolve", "distill", "load_tables", "LambdaTable", "SOLVERS"]


def test_names_do_not_depend_on_what_was_used_first() -> None:
    """A submodule of the same name must not hide the function."""
    program = f"""
import sys
from itertools import permutations
for order in permutations({FIRST_USES}, 2):
    for name in [name for name in sys.modules if name.startswith("dode_core")]:
        del sys.modules[name]
    import dode_core
    for name in (*order, *dode_core.__all__):
        value = getattr(dode_core, name)
        if type(value).__name__ == "module":
            print(f"{{name}} is a module after {{order[0]}}")
"""
    assert fresh(program) == ""


def test_submodules_may_be_imported_first() -> None:
    program = """
import dode_core.match.resolve, dode_core.distillation, dode_core as d
print(callable(d.resolve), callable(d.distill))
"""
    assert fresh(program).strip() == "True True"


def test_every_public_name() -> None:
    for name in dode.__all__:
        assert getattr(dode, name) is not None
    assert issubclass(dode.TableError, dode.DodeError)
    assert issubclass(dode.DodeError, ValueError)
    assert dode.LambdaTable.__module__.startswith("dode_core")
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        dode.nothing  # noqa: B018
