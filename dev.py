"""Set-up and tasks of the repository: ``python dev.py demo | test | bench | lint``.

Standard library only. Makes ``.venv`` beside this file with pinned packages, then runs the task in
it; a second run skips what is there already.
"""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import venv
from pathlib import Path

ROOT = Path(__file__).resolve().parent
VENV = ROOT / ".venv"
PYTHON = VENV / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
TASKS = {
    "demo": "distill on the embedded model, write tables, plots and pictures to demo_output/",
    "test": "lint, types and the whole test suite, the real ComfyUI included",
    "bench": "the benchmarks behind the figures in the documentation",
    "lint": "ruff and pyright",
}


def install(name: str) -> None:
    """Make the environment and bring it to requirements/<name>.txt, if it is not there yet."""
    requirements = ROOT / "requirements" / f"{name}.txt"
    no_deps = ROOT / "requirements" / "no-deps.txt"
    wanted = b"".join(path.read_bytes() for path in sorted((ROOT / "requirements").glob("*.txt")))
    digest = hashlib.sha256(wanted + sys.version.encode()).hexdigest()
    stamp = VENV / f"installed-{name}"
    if stamp.exists() and stamp.read_text() == digest:
        return
    if not PYTHON.exists():
        print(f"making {VENV}", flush=True)
        venv.create(VENV, with_pip=True)
    # Python compiles what it imports by itself, which is a small part of these packages.
    pip = [str(PYTHON), "-m", "pip", "install", "--quiet", "--no-compile"]
    pip.append("--disable-pip-version-check")
    print(f"installing {requirements.name} (PyTorch is large; minutes, once)", flush=True)
    subprocess.run([*pip, "-r", str(requirements)], check=True)
    subprocess.run([*pip, "--no-deps", "-r", str(no_deps)], check=True)
    stamp.write_text(digest)


def run(*command: str, threads: int | None = None) -> int:
    """Run a module of the environment in the repository; its exit status."""
    environment = dict(os.environ)
    if threads is not None:
        environment.setdefault("OMP_NUM_THREADS", str(threads))
    return subprocess.run([str(PYTHON), "-m", *command], cwd=ROOT, env=environment).returncode


def lint() -> int:
    """ruff's rules and format, then pyright."""
    return (
        run("ruff", "check", ".")
        or run("ruff", "format", "--check", ".")
        or run("pyright", "--pythonpath", str(PYTHON))
    )


def tests() -> int:
    """The whole suite, two files at a time: those with a server and a browser come last.

    Each of the two has a server and a browser of its own. One thread each: small models beside
    them only slow each other down.
    """
    at_once = ("-n", "2", "--dist", "loadfile")
    plain = run("pytest", "-m", "not comfy", *at_once, threads=1)
    return run("pytest", "-m", "comfy", *at_once, threads=1) or plain


def main() -> int:
    task, *rest = sys.argv[1:] or ["help"]
    if task not in TASKS:
        print(__doc__)
        for name, text in TASKS.items():
            print(f"  {name:6} {text}")
        return 2
    if sys.version_info < (3, 10):  # noqa: UP036
        print(f"Python {sys.version.split()[0]} is too old; use 3.10 or newer.")
        return 2
    install("demo" if task == "demo" else "test")
    if task == "demo":
        return run("dode_core", "demo", *rest)
    if task == "bench":
        return run("benchmarks", *rest)
    if task == "lint":
        return lint()
    return run("pytest", *rest, threads=1) if rest else lint() or tests()


if __name__ == "__main__":
    sys.exit(main())
