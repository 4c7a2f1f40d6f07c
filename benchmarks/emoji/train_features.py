"""Training of the small emoji classifier whose features the Frechet distance is taken of.

python -m benchmarks.emoji.train_features --data emoji32.npz --minutes 6
"""

from __future__ import annotations

import argparse
import math
import time
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .features import WEIGHTS, WIDTH, FeatureNet, as_images, save_features

BATCH = 64
LEARNING_RATE = 2e-3
MIN_DRAWINGS = 6  # of one emoji, for it to be a target of its own in training
NOISE = 0.35  # at most, on training images: samples are never as clean as drawings


class Examples(NamedTuple):
    """Emoji for training the classifier."""

    images: Tensor  # (N, 3, 32, 32) float in [-1, 1]
    labels: Tensor  # (N,) class
    emoji: Tensor  # (N,) which emoji, -1 for those with fewer than MIN_DRAWINGS drawings
    weights: Tensor  # (N,) of sampling
    held_out: Tensor  # (N,) bool: for measuring the accuracy, whole emoji


def load_data(path: str | Path) -> Examples:
    """Read emoji32.npz; one emoji in ten is held out."""
    with np.load(path, allow_pickle=False) as data:
        images, labels, base = data["images"], data["labels"].astype(np.int64), data["base"]
    unique, index, counts = np.unique(base, return_inverse=True, return_counts=True)
    # An emoji drawn once would only be learnt by heart: its target is -1, none.
    frequent = counts >= MIN_DRAWINGS
    target = np.where(frequent, np.cumsum(frequent) - 1, -1)[index]
    # Neither skin tones (within a class) nor people (among the classes) drown the rest.
    weights = counts[index].astype(float) ** -0.5
    weights /= np.bincount(labels, weights)[labels] ** 0.5
    chosen = np.random.default_rng(5).choice(len(unique), len(unique) // 10, replace=False)
    return Examples(
        as_images(images),
        torch.from_numpy(labels),
        torch.from_numpy(target),
        torch.from_numpy(weights),
        torch.from_numpy(np.isin(index, chosen)),
    )


def augment(images: Tensor) -> Tensor:
    """Shift the batch by up to three pixels on white, and add noise of a random level."""
    dy, dx = torch.randint(0, 7, (2,)).tolist()
    shifted = F.pad(images, (3, 3, 3, 3), value=1.0)[:, :, dy : dy + 32, dx : dx + 32]
    return shifted + torch.randn_like(shifted) * torch.rand(len(images), 1, 1, 1) * NOISE


def loss_fn(network: FeatureNet, emoji_head: nn.Linear, data: Examples, index: Tensor) -> Tensor:
    """Cross-entropy of the class, plus half that of which emoji it is, where that is asked."""
    hidden = F.silu(network(augment(data.images[index])))
    loss = F.cross_entropy(network.head(hidden), data.labels[index], label_smoothing=0.05)
    emoji = data.emoji[index]
    known = emoji >= 0
    if known.any():
        loss = loss + 0.5 * F.cross_entropy(emoji_head(hidden[known]), emoji[known])
    return loss


@torch.no_grad()
def accuracy(network: FeatureNet, data: Examples) -> float:
    """The fraction of held-out images whose class is right."""
    logits = network.classify(data.images[data.held_out])
    return float((logits.argmax(1) == data.labels[data.held_out]).float().mean())


def train(data: str | Path, out: str | Path, minutes: float, seed: int) -> None:
    """Train for a time on the CPU, with a cosine schedule; the held-out emoji stay out."""
    torch.manual_seed(seed)
    examples = load_data(data)
    weights = examples.weights * ~examples.held_out
    network = FeatureNet()
    emoji_head = nn.Linear(WIDTH, int(examples.emoji.max()) + 1)  # needed for training alone
    parameters = [*network.parameters(), *emoji_head.parameters()]
    optimizer = torch.optim.AdamW(parameters, lr=LEARNING_RATE, weight_decay=0.05)
    start, step = time.monotonic(), 0
    while (progress := (time.monotonic() - start) / (60 * minutes)) < 1:
        rate = LEARNING_RATE * min(1.0, (step + 1) / 100)
        for group in optimizer.param_groups:
            group["lr"] = rate * 0.5 * (1 + math.cos(math.pi * progress))
        index = torch.multinomial(weights, BATCH, replacement=True)
        loss = loss_fn(network, emoji_head, examples, index)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        step += 1
        if step % 200 == 0:
            seconds, right = 60 * minutes * progress, accuracy(network, examples)
            print(f"step {step}  {seconds:.0f} s  loss {loss.item():.3f}  accuracy {right:.3f}")
    save_features(network, out, step=str(step), minutes=str(minutes))
    print(f"wrote {out} after {step} steps, accuracy {accuracy(network, examples):.3f}")


def main() -> None:
    parser = argparse.ArgumentParser(description="Train the feature net of the Frechet distance.")
    parser.add_argument("--data", required=True, help="emoji32.npz from build_data")
    parser.add_argument("--minutes", type=float, default=6)
    parser.add_argument("--out", default=WEIGHTS, help="default: the file that ships")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    train(args.data, args.out, args.minutes, args.seed)


if __name__ == "__main__":
    main()
