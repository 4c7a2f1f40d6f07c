"""Rebuild the data that the demo network was trained on: ``emoji32.npz``.

    python -m benchmarks.emoji.build_data --out emoji32.npz

The images are the 64 px Noto Emoji of the npm package ``emoji-datasource-google`` 16.0.0. It is
fetched with npm (74 MB) unless ``--package`` names the .tgz or the unpacked folder. Needs Pillow.
"""

from __future__ import annotations

import argparse
import base64
import hashlib
import io
import json
import shutil
import subprocess
import tarfile
import tempfile
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import IO, Any, NamedTuple

import numpy as np
from PIL import Image

from dode_core.demo.model import CLASSES

PACKAGE = "emoji-datasource-google@16.0.0"
INTEGRITY = (  # npm's own notation: base64 of the archive's SHA-512
    "sha512-ZRexfzs7MVoLnmzZmNsO4TKhnAJp5D++Vm6PpUpH"
    "/jEQQlemp3l88CjZ+DoZ2faM9R4QxZkOPJCoT8DlPhfQ3A=="
)
INDEX, IMAGES = "emoji.json", "img/google/64"
MAX_BYTES = 8 << 20  # of one file we read; the largest, emoji.json, has 1.5 MB
SIZE = 32
CATEGORIES = {
    "Smileys & Emotion": "smileys",
    "People & Body": "people",
    "Animals & Nature": "animals",
    "Food & Drink": "food",
    "Travel & Places": "travel",
    "Activities": "activities",
    "Objects": "objects",
    "Symbols": "symbols",
    "Flags": "flags",
}


class PackageError(ValueError):
    """The emoji package is missing, damaged or not what it should be."""


class Entry(NamedTuple):
    """One drawing of one emoji, as ``emoji.json`` lists it."""

    image: str  # file name of the drawing
    name: str  # short name, with the skin tone's code points after a colon
    label: int  # index into CLASSES
    base: int  # which emoji: position in the package's sort order, shared by all skin tones
    skin: int  # 1 for a drawing with a skin tone


def fetch(folder: Path) -> Path:
    """Download the package into ``folder`` with npm and check it against INTEGRITY."""
    npm = shutil.which("npm")
    if npm is None:
        raise PackageError(
            f"npm is not installed: install Node.js, or download {PACKAGE} and pass --package PATH"
        )
    command = [npm, "pack", PACKAGE, "--ignore-scripts", "--pack-destination", str(folder)]
    result = subprocess.run(command, capture_output=True, text=True)
    archives = list(folder.glob("*.tgz"))
    if result.returncode or len(archives) != 1:
        raise PackageError(f"npm pack {PACKAGE} failed: {result.stderr.strip()[-500:]}")
    digest = hashlib.sha512(archives[0].read_bytes()).digest()
    found = "sha512-" + base64.b64encode(digest).decode()
    if found != INTEGRITY:
        raise PackageError(f"{PACKAGE} has integrity {found}, not {INTEGRITY}: do not use it")
    return archives[0]


def wanted(name: str) -> bool:
    """Whether a file of the package, named from its root, is one we read."""
    path = PurePosixPath(name)
    return name == INDEX or (str(path.parent) == IMAGES and path.suffix == ".png")


def read_limited(file: IO[bytes], name: str) -> bytes:
    """The file's bytes; :class:`PackageError` past MAX_BYTES."""
    content = file.read(MAX_BYTES + 1)
    if len(content) > MAX_BYTES:
        raise PackageError(f"{name!r} exceeds {MAX_BYTES} bytes: not a file of {PACKAGE}")
    return content


def read_archive(path: Path) -> dict[str, bytes]:
    """The files we want of a .tgz, read in memory: no member's name becomes a path on disk."""
    files = {}
    with tarfile.open(path, "r|gz") as archive:
        for member in archive:
            parts = PurePosixPath(member.name).parts
            if ".." in parts or member.name.startswith("/") or "\\" in member.name:
                raise PackageError(
                    f"{path.name} holds {member.name!r}, a way out of its folder: do not use it"
                )
            name = "/".join(parts[1:])  # npm puts everything in one folder, "package"
            if not (member.isfile() and wanted(name)):
                continue
            file = archive.extractfile(member)
            assert file is not None  # so for every regular file
            files[name] = read_limited(file, name)
    return files


def read_folder(path: Path) -> dict[str, bytes]:
    """The files we want of an unpacked package, found by listing: emoji.json names no path."""
    files = {}
    for item in [path / INDEX, *sorted((path / IMAGES).glob("*.png"))]:
        if item.is_file():
            name = item.relative_to(path).as_posix()
            with item.open("rb") as file:
                files[name] = read_limited(file, name)
    return files


def read_package(path: str | Path) -> dict[str, bytes]:
    """{name from the package's root: content} of the index and the 64 px images.

    Raises :class:`PackageError` if ``path`` is no such package, or holds a hostile member.
    """
    path = Path(path)
    try:
        files = read_folder(path) if path.is_dir() else read_archive(path)
    except (OSError, EOFError, tarfile.TarError) as error:
        raise PackageError(f"{path} is no readable .tgz of {PACKAGE}: {error}") from error
    if INDEX not in files:
        raise PackageError(f"{path} has no {INDEX}: pass the .tgz or the unpacked {PACKAGE}")
    return files


def list_entries(index: list[dict[str, Any]]) -> Iterator[Entry]:
    """Every drawing in Google's style, in the package's sort order, skin tones after their base."""
    for base, emoji in enumerate(sorted(index, key=lambda item: item["sort_order"])):
        if emoji["category"] not in CATEGORIES:  # "Component": bare skin tones and hair
            continue
        name, label = emoji["short_name"], CLASSES.index(CATEGORIES[emoji["category"]])
        if emoji.get("has_img_google"):
            yield Entry(emoji["image"], name, label, base, 0)
        for tone, drawing in emoji.get("skin_variations", {}).items():
            if drawing.get("has_img_google"):
                yield Entry(drawing["image"], f"{name}:{tone}", label, base, 1)


def render(png: bytes, name: str) -> np.ndarray:
    """(32, 32, 3) uint8: the drawing on white, averaged over 2x2 pixels."""
    with Image.open(io.BytesIO(png), formats=["PNG"]) as file:
        if file.size != (64, 64):  # checked before decoding: the header decides the memory
            raise PackageError(f"{name!r} has {file.size} pixels, not (64, 64)")
        drawing = file.convert("RGBA")
    white = Image.new("RGBA", drawing.size, (255, 255, 255, 255))
    image = Image.alpha_composite(white, drawing).convert("RGB")
    return np.asarray(image.resize((SIZE, SIZE), Image.Resampling.BOX))


def build(files: dict[str, bytes]) -> dict[str, np.ndarray]:
    """The arrays of emoji32.npz; of drawings that are equal at 32 px the first is kept.

    images (N, 32, 32, 3) uint8; labels (N,) uint8, index into classes; names (N,); base (N,)
    int16, the emoji that all skin tones share; skin (N,) uint8, 1 with a skin tone; classes (9,).
    """
    images: dict[bytes, np.ndarray] = {}  # by content, in order
    entries: list[Entry] = []
    for entry in list_entries(json.loads(files[INDEX])):
        png = files.get(f"{IMAGES}/{entry.image}")
        if png is None:
            continue
        image = render(png, entry.image)
        if image.tobytes() not in images:
            images[image.tobytes()] = image
            entries.append(entry)
    if not entries:
        raise PackageError(f"no image under {IMAGES} belongs to an emoji: is this {PACKAGE}?")
    return {
        "images": np.stack(list(images.values())),
        "labels": np.array([entry.label for entry in entries], np.uint8),
        "names": np.array([entry.name for entry in entries]),
        "base": np.array([entry.base for entry in entries], np.int16),
        "skin": np.array([entry.skin for entry in entries], np.uint8),
        "classes": np.array(CLASSES),
    }


def save(arrays: dict[str, np.ndarray], out: str | Path) -> None:
    """Write the .npz beside its place, then move it there: never half a file."""
    temporary = Path(out).with_suffix(".tmp")
    with temporary.open("wb") as file:  # a file object, as numpy would append .npz to a name
        np.savez_compressed(file, **arrays)  # pyright: ignore[reportArgumentType]
    temporary.replace(out)


def main() -> None:
    parser = argparse.ArgumentParser(description="Rebuild the demo network's data.")
    parser.add_argument("--package", help="the package's .tgz or unpacked folder; default: fetch")
    parser.add_argument("--out", default="emoji32.npz")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        arrays = build(read_package(args.package or fetch(Path(folder))))
    save(arrays, args.out)
    print(f"wrote {args.out}: {len(arrays['images'])} images of {len(set(arrays['base']))} emoji")
    for label, count in enumerate(np.bincount(arrays["labels"], minlength=len(CLASSES))):
        print(f"  {CLASSES[label]:<12}{count}")


if __name__ == "__main__":
    main()
