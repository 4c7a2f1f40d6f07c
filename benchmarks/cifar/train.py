"""Train a class-conditional network on CIFAR-10, on one core in the background or on a GPU.

    nice -n 19 python -m benchmarks.cifar.train FOLDER --images 600000 --decay 100000

Images are counted, not minutes. The learning rate is constant up to ``--images``; a run that was
stopped goes on from its last checkpoint, and so does a later run with a larger number. Then a
separate phase of ``--decay`` images takes the rate to zero and writes the weights that are used;
it starts from the checkpoint and leaves that as it is, so that training can always be prolonged.

The loss is Karras et al. 2022 (arXiv 2206.00364), table 1, as for the demo network.
"""

from __future__ import annotations

import argparse
import copy
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.emoji.train import CLASS_DROPOUT, loss_fn
from dode_core.demo.model import save_network

from . import data
from .network import NO_CLASS, CifarUNet

BATCH = 32
LEARNING_RATE = 1.2e-3
WARM_UP = 300 * BATCH  # images
AVERAGING = 0.9993, 0.998  # decay a step of the running average: constant rate, last phase
SAVE_EVERY, REPORT_EVERY = 300, 100  # steps
CHECKPOINT, SNAPSHOT, WEIGHTS = "training.pt", "cifar_constant.safetensors", "cifar.safetensors"
VALIDATION, VALIDATION_SEED = 1000, 4  # test images


@dataclass
class Training:
    """The networks, the optimizer, and how far they are."""

    device: str
    seen: int = 0  # images
    seconds: float = 0.0
    network: CifarUNet = field(init=False)
    average: CifarUNet = field(init=False)
    optimizer: torch.optim.Optimizer = field(init=False)

    def __post_init__(self) -> None:
        self.network = CifarUNet().to(self.device).to(memory_format=torch.channels_last)
        self.average = copy.deepcopy(self.network).requires_grad_(False)
        self.optimizer = torch.optim.AdamW(
            self.network.parameters(), lr=LEARNING_RATE, betas=(0.9, 0.99), weight_decay=0.01
        )

    def step(self, x0: Tensor, labels: Tensor, rate: float, averaging: float) -> Tensor:
        """One update; the loss."""
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        loss = loss_fn(self.network, x0, labels, half=self.device != "cpu")
        self.optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.network.parameters(), 1.0)
        self.optimizer.step()
        self.seen += len(x0)
        steps = self.seen / BATCH
        with torch.no_grad():
            weight = 1 - min(averaging, (1 + steps) / (12 + steps))
            for mean, new in zip(self.average.parameters(), self.network.parameters(), strict=True):
                mean.lerp_(new, weight)
        return loss.detach()

    def save(self, path: Path) -> None:
        """Write everything that a later run needs to go on, atomically."""
        state = {
            "seen": self.seen,
            "seconds": self.seconds,
            "network": self.network.state_dict(),
            "average": self.average.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "rng": torch.get_rng_state(),
        }
        temporary = path.with_suffix(".tmp")
        torch.save(state, temporary)
        temporary.replace(path)

    def load(self, path: Path) -> None:
        """Go on from a checkpoint."""
        state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
        self.seen, self.seconds = state["seen"], state["seconds"]
        self.network.load_state_dict(state["network"])
        self.average.load_state_dict(state["average"])
        self.optimizer.load_state_dict(state["optimizer"])
        torch.set_rng_state(state["rng"])


def batch(images: data.Images) -> tuple[Tensor, Tensor]:
    """A batch at random, half of it mirrored, some of it without its label."""
    index = torch.randint(len(images.labels), (BATCH,))
    x = data.scaled(images.images[index])
    x = torch.where(torch.rand(BATCH, 1, 1, 1) < 0.5, x.flip(3), x)
    return x, torch.where(torch.rand(BATCH) < CLASS_DROPOUT, NO_CLASS, images.labels[index])


@torch.no_grad()
def validation_loss(network: CifarUNet, images: data.Images, device: str) -> float:
    """The loss on the first test images of every class, with always the same noise."""
    every = len(images.labels) // VALIDATION or 1
    x, labels = data.scaled(images.images[::every]), images.labels[::every]
    with torch.random.fork_rng([] if device == "cpu" else None):
        torch.manual_seed(VALIDATION_SEED)
        parts = zip(x.split(250), labels.split(250), strict=True)
        losses = [loss_fn(network, a.to(device), b.to(device), half=False) for a, b in parts]
    return float(torch.stack(losses).mean())


@dataclass
class Phase:
    """A stretch of training: up to how many images, and where its results go."""

    until: int
    start: int | None  # the rate falls to zero from here on; None: it is constant
    weights: Path
    checkpoint: Path | None

    def rate(self, seen: int) -> float:
        if self.start is None:
            return LEARNING_RATE * min(1.0, (seen + BATCH) / WARM_UP)
        return LEARNING_RATE * max(0.0, (self.until - seen) / (self.until - self.start))


def run(training: Training, phase: Phase, train: data.Images, test: data.Images) -> None:
    """Train to the phase's end, saving every few minutes."""
    averaging = AVERAGING[phase.start is not None]
    running, steps = torch.zeros(()), 0
    last = time.monotonic()
    while training.seen < phase.until:
        x0, labels = batch(train)
        x0, labels = x0.to(training.device), labels.to(training.device)
        running += training.step(x0, labels, phase.rate(training.seen), averaging).cpu()
        steps += 1
        if steps % REPORT_EVERY == 0:
            now = time.monotonic()
            training.seconds, last = training.seconds + now - last, now
            loss = float(running) / REPORT_EVERY
            print(f"{training.seen} images  {training.seconds:.0f} s  loss {loss:.4f}", flush=True)
            running.zero_()
        if steps % SAVE_EVERY == 0 or training.seen >= phase.until:
            loss = validation_loss(training.average, test, training.device)
            print(f"{training.seen} images  validation loss of the average {loss:.4f}", flush=True)
            if phase.checkpoint is not None:
                training.save(phase.checkpoint)
            facts = {"images": str(training.seen), "validation_loss": f"{loss:.5f}"}
            save_network(training.average, phase.weights, **facts)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="Train a class-conditional network on CIFAR-10.")
    parser.add_argument("folder", type=Path, help="holds train/CLASS and test/CLASS")
    parser.add_argument("--images", type=int, default=600_000, help="at the constant rate, in all")
    parser.add_argument("--decay", type=int, default=100_000, help="of the last phase; 0: none")
    parser.add_argument("--out", type=Path, help="default: the folder with the images")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--threads", type=int, default=1, help="of the CPU")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args(arguments)
    torch.set_num_threads(args.threads)
    torch.manual_seed(args.seed)
    out = args.out or args.folder
    train, test = data.read(args.folder, "train"), data.read(args.folder, "test")
    training, checkpoint = Training(args.device), out / CHECKPOINT
    if checkpoint.exists():
        training.load(checkpoint)
        print(f"goes on from {training.seen} images")
    run(training, Phase(args.images, None, out / SNAPSHOT, checkpoint), train, test)
    if args.decay:
        start = training.seen
        phase = Phase(start + args.decay, start, out / WEIGHTS, None)
        run(training, phase, train, test)
        print(f"wrote {phase.weights}")


if __name__ == "__main__":
    main()
