"""A small classifier of CIFAR-10, whose features the Frechet distance is taken of.

    python -m benchmarks.cifar.features FOLDER --minutes 6

It is the emoji classifier's network with ten classes, and its distance: not Inception's, so
not comparable with a published FID. It is trained without added noise, so that noise that a
sampler leaves behind counts. Never trained on the test images that samples are compared with.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.emoji.features import WIDTH, FeatureNet, Gaussian, features, save_features

from . import data

BATCH = 64
LEARNING_RATE = 2e-3
WEIGHTS = "cifar_features.safetensors"  # beside the images
SHIFT = 3  # pixels, at most


class CifarFeatures(FeatureNet):
    """``forward(images) -> (B, 64) features``, ``classify(images) -> (B, 10) logits``."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(WIDTH, len(data.CLASSES))


def load(path: str | Path) -> CifarFeatures:
    """Read a network written by this module (fp16 on disk, float32 in memory)."""
    from safetensors.torch import load_file

    network = CifarFeatures()
    network.load_state_dict({key: value.float() for key, value in load_file(path).items()})
    return network.eval().requires_grad_(False)


def gaussian(network: FeatureNet, images: Tensor) -> Gaussian:
    """Mean and covariance of the features of uint8 (N, 3, 32, 32) images."""
    return Gaussian.fit(features(data.scaled(images), network))


def augment(images: Tensor) -> Tensor:
    """Shift the batch by up to SHIFT pixels over its own mirrored edge, mirror half of it."""
    dy, dx = torch.randint(0, 2 * SHIFT + 1, (2,)).tolist()
    padded = F.pad(images, (SHIFT,) * 4, mode="reflect")
    shifted = padded[:, :, dy : dy + data.SIDE, dx : dx + data.SIDE]
    return torch.where(torch.rand(len(images), 1, 1, 1) < 0.5, shifted.flip(3), shifted)


@torch.no_grad()
def accuracy(network: CifarFeatures, images: data.Images) -> float:
    """The fraction of images whose class is right."""
    parts = data.scaled(images.images).split(500)
    found = torch.cat([network.classify(part).argmax(1) for part in parts])
    return float((found == images.labels).float().mean())


def train(folder: Path, out: Path, minutes: float, seed: int) -> None:
    """Train for a time on the CPU, with a cosine schedule, and write the weights."""
    torch.manual_seed(seed)
    images, test = data.read(folder, "train"), data.read(folder, "test")
    network = CifarFeatures().to(memory_format=torch.channels_last)
    optimizer = torch.optim.AdamW(network.parameters(), lr=LEARNING_RATE, weight_decay=0.05)
    start, step = time.monotonic(), 0
    while (progress := (time.monotonic() - start) / (60 * minutes)) < 1:
        rate = LEARNING_RATE * min(1.0, (step + 1) / 100)
        for group in optimizer.param_groups:
            group["lr"] = rate * 0.5 * (1 + math.cos(math.pi * progress))
        index = torch.randint(len(images.labels), (BATCH,))
        x = augment(data.scaled(images.images[index]))
        logits = network.classify(x.contiguous(memory_format=torch.channels_last))
        loss = F.cross_entropy(logits, images.labels[index], label_smoothing=0.05)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        step += 1
        if step % 200 == 0:
            print(f"step {step}  {60 * minutes * progress:.0f} s  loss {loss.item():.3f}")
    right = accuracy(network, test)
    facts = {"step": str(step), "accuracy": f"{right:.4f}", "classes": json.dumps(data.CLASSES)}
    save_features(network, out, **facts)
    print(f"wrote {out} after {step} steps, accuracy on the test images {right:.3f}")


def main() -> None:
    parser = argparse.ArgumentParser(description="Train the classifier of the Frechet distance.")
    parser.add_argument("folder", type=Path, help="holds train/CLASS and test/CLASS")
    parser.add_argument("--minutes", type=float, default=6)
    parser.add_argument("--out", type=Path, help="default: in the folder with the images")
    parser.add_argument("--threads", type=int, default=1, help="of the CPU")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    train(args.folder, args.out or args.folder / WEIGHTS, args.minutes, args.seed)


if __name__ == "__main__":
    main()
