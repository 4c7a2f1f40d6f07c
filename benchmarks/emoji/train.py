"""Train the demo network on the emoji data, on a CPU or a GPU.

    python -m benchmarks.emoji.train --data emoji32.npz --parametrization ve --minutes 55

``benchmarks.emoji.build_data`` makes the data. The loss is Karras et al. 2022 (arXiv 2206.00364),
table 1, for ``ve``, and the velocity loss of rectified flow (Liu et al. 2022, arXiv 2209.03003)
for ``flow``, each divided by the variance that the preconditioning leaves to the network.
"""

from __future__ import annotations

import argparse
import copy
import math
import time
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from dode_core.demo.model import NO_CLASS, EmojiUNet, save_network, weights_path

BATCH = 64
LEARNING_RATE = 1.5e-3
CLASS_DROPOUT = 0.12
HELD_OUT_EMOJI = 95  # base emoji that training never sees, all skin tones together
LOG_SNR_MEAN, LOG_SNR_STD = {"ve": -1.2, "flow": -0.5}, 1.2  # of log(sigma / alpha)


def load_data(path: str | Path) -> tuple[Tensor, Tensor, Tensor]:
    """(images (N, 3, 32, 32) uint8, labels (N,), sampling weights (N,)) of the training split."""
    with np.load(path, allow_pickle=False) as data:
        images, labels, base = data["images"], data["labels"], data["base"].astype(int)
    rng = np.random.default_rng(123)
    held_out = rng.choice(np.unique(base), HELD_OUT_EMOJI, replace=False)
    train = ~np.isin(base, held_out)
    weights = np.bincount(base)[base].astype(float) ** -0.5  # skin tones do not drown the rest
    return (
        torch.from_numpy(images[train]).permute(0, 3, 1, 2).contiguous(),
        torch.from_numpy(labels[train].astype(np.int64)),
        torch.from_numpy(weights[train]),
    )


def loss_fn(network: EmojiUNet, x0: Tensor, labels: Tensor, half: bool = True) -> Tensor:
    """The mean squared error of the network's own output, at unit scale for every sigma.

    ``half``: in bfloat16, which processors without instructions for it are slower in.
    """
    mean = LOG_SNR_MEAN[network.parametrization]
    ratio = torch.exp(mean + LOG_SNR_STD * torch.randn(len(x0), device=x0.device))
    eps = torch.randn_like(x0)
    if network.parametrization == "ve":
        sigma, target = ratio, x0
        x = x0 + sigma.view(-1, 1, 1, 1) * eps
    else:
        sigma, target = ratio / (1 + ratio), eps - x0
        x = x0 + sigma.view(-1, 1, 1, 1) * (eps - x0)
    with torch.autocast(x.device.type, torch.bfloat16, enabled=half):
        out, scale = network.target(x, sigma, labels)
    return (((out - target) / scale) ** 2).mean()


def learning_rate(step: int, progress: float) -> float:
    """Warm-up over 300 steps, flat to 40 % of the time, then a cosine to 2 %."""
    decay = 1.0
    if progress > 0.4:
        decay = 0.02 + 0.49 * (1 + math.cos(math.pi * (progress - 0.4) / 0.6))
    return LEARNING_RATE * min(1.0, (step + 1) / 300) * decay


def train(
    data: str | Path, out: str | Path, parametrization: str, minutes: float, device: str, seed: int
) -> None:
    """Train for a time, not a number of steps: a GPU simply gets further."""
    torch.manual_seed(seed)
    images, labels, weights = load_data(data)
    network = EmojiUNet(parametrization).to(device, memory_format=torch.channels_last)
    average = copy.deepcopy(network).requires_grad_(False)
    optimizer = torch.optim.AdamW(
        network.parameters(), lr=LEARNING_RATE, betas=(0.9, 0.99), weight_decay=0.01
    )
    start, step, running = time.monotonic(), 0, 0.0
    while (progress := (time.monotonic() - start) / (60 * minutes)) < 1:
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(step, progress)
        index = torch.multinomial(weights, BATCH, replacement=True)
        x0 = images[index].to(device).float() / 127.5 - 1
        y = labels[index]
        y = torch.where(torch.rand(BATCH) < CLASS_DROPOUT, NO_CLASS, y).to(device)
        loss = loss_fn(network, x0, y)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimizer.step()
        step += 1
        with torch.no_grad():
            decay = min(0.9993, (1 + step) / (12 + step))
            torch._foreach_lerp_(list(average.parameters()), list(network.parameters()), 1 - decay)
        running += loss.item()
        if step % 100 == 0:
            print(f"step {step}  {60 * minutes * progress:.0f} s  loss {running / 100:.4f}")
            running = 0.0
        if step % 1000 == 0:
            save_network(average, out, step=str(step))
    save_network(average, out, step=str(step), minutes=str(minutes))
    print(f"wrote {out} after {step} steps")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--data", required=True, help="emoji32.npz from build_data")
    parser.add_argument("--parametrization", choices=["ve", "flow"], default="ve")
    parser.add_argument("--minutes", type=float, default=55)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--out", help="default: the file that ships with the package")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    name = {"ve": "emoji_edm", "flow": "emoji_flow"}[args.parametrization]
    out = args.out or weights_path(name)
    train(args.data, out, args.parametrization, args.minutes, args.device, args.seed)


if __name__ == "__main__":
    main()
