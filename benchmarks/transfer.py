"""What a profile of a base model is worth on its fine-tunes, beside one of their own.

    python -m benchmarks.emoji.build_data                  # emoji32.npz, once
    python dev.py bench transfer --data emoji32.npz        # minutes a style, resumable

The demo's diffusion model is trained on, for a twentieth of the steps that made it, on another
style (grey, inverted) and on a subset (food alone). Then DPM++ 2M on Karras's schedule, the tables
of the base model's profile and those of the fine-tune's own run on the fine-tune, from the same
noise.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import dode_core as dode
from dode_core.demo.model import (
    CLASSES,
    IMAGE_SHAPE,
    NO_CLASS,
    EmojiDenoiser,
    EmojiUNet,
    load_network,
    save_network,
    weights_path,
)
from dode_core.report import text_table
from dode_core.solve.schedules import karras

from .common import write_result
from .emoji.train import CLASS_DROPOUT, load_data, loss_fn
from .problems import HIGH, LOW, REFERENCE_STEPS
from .references import CACHE

STYLES = ("grey", "food")
STEPS, BATCH, RATE = 350, 32, 3e-4
CFG, COUNTS, NOISES, SEED = 3.0, (5, 8, 12), 64, 999
PART = 32


def fine_tuned(style: str, data: Path) -> EmojiDenoiser:
    """The demo network trained on; kept in the benchmarks' cache."""
    path = CACHE / f"transfer_{style}.safetensors"
    if not path.exists():
        CACHE.mkdir(parents=True, exist_ok=True)
        save_network(train(style, data), path, steps=str(STEPS))
    return EmojiDenoiser(load_network(path))


def train(style: str, data: Path) -> EmojiUNet:
    """STEPS at a small constant rate, from the shipped weights."""
    torch.manual_seed(0)
    images, labels, weights = load_data(data)
    if style == "grey":
        images = (255 - images.float().mean(1, keepdim=True)).expand_as(images).to(images.dtype)
    else:
        kept = labels == CLASSES.index(style)
        images, labels, weights = images[kept], labels[kept], weights[kept]
    network = load_network(weights_path("emoji_edm")).train().requires_grad_(True)
    optimizer = torch.optim.AdamW(network.parameters(), lr=RATE, betas=(0.9, 0.99))
    for step in range(STEPS):
        index = torch.multinomial(weights, BATCH, replacement=True)
        x0 = images[index].float() / 127.5 - 1
        y = torch.where(torch.rand(BATCH) < CLASS_DROPOUT, NO_CLASS, labels[index])
        loss = loss_fn(network, x0, y, half=False)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimizer.step()
        if step % 50 == 0:
            print(f"{style}: step {step} of {STEPS}, loss {loss.item():.4f}", flush=True)
    return network.requires_grad_(False)


def noise(style: str, count: int, seed: int) -> tuple[Tensor, dict[str, Any]]:
    """Starting states, and the model's arguments."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(count, *IMAGE_SHAPE, generator=generator) * HIGH
    labels = torch.arange(count) % len(CLASSES)
    if style in CLASSES:
        labels = torch.full((count,), CLASSES.index(style))
    return x, {"labels": labels, "cfg": CFG}


def profile(model: EmojiDenoiser, style: str) -> dode.Profile:
    x, args = noise(style, 16, 1)
    return dode.calibrate(model, x, HIGH, LOW, extra_args=args, parametrization="ve")


def measured(style: str, data: Path, base: dode.Profile) -> dict[str, list[float]]:
    """[RMS, median] of every run."""
    model = fine_tuned(style, data)
    own = profile(model, style)
    x, args = noise(style, NOISES, SEED)

    def run(sigmas: Tensor, **how: Any) -> Tensor:
        out = []
        for i in range(0, NOISES, PART):
            part = slice(i, i + PART)
            each = {"labels": args["labels"][part], "cfg": CFG}
            found = dode.sample(
                model, x[part], sigmas, each, parametrization="ve", disable=True, **how
            )
            out.append(found)
        return torch.cat(out)

    exact = run(karras(REFERENCE_STEPS, LOW, HIGH), solver="heun")

    def error(*args: Tensor, **how: Any) -> list[float]:
        off = (run(*args, **how) - exact).double().square().flatten(1).mean(1).sqrt()
        return [float(off.square().mean().sqrt()), float(off.median())]

    found = {}
    for steps in COUNTS:
        found[f"{steps}, DPM++ 2M"] = error(karras(steps, LOW, HIGH), solver="dpmpp_2m")
        for name, each in (("base's profile", base), ("own profile", own)):
            table = each.table(steps)
            found[f"{steps}, {name}"] = error(table.sigmas, table=table)
    return found


def main(arguments: Sequence[str] = ()) -> None:
    parser = argparse.ArgumentParser(prog="transfer")
    parser.add_argument("--data", type=Path, default=Path("emoji32.npz"), help="from build_data")
    args = parser.parse_args(arguments)
    if not args.data.exists():
        print(f"{args.data} is not there; python -m benchmarks.emoji.build_data makes it.")
        return
    results, rows = {}, []
    shared = profile(EmojiDenoiser(load_network(weights_path("emoji_edm"))), "all")
    for style in STYLES:
        results[style] = found = measured(style, args.data, shared)
        for run, (rms, median) in found.items():
            plain = found[f"{run.split(',')[0]}, DPM++ 2M"]
            ratio = f"{rms / plain[0]:.2f} / {median / plain[1]:.2f}"
            rows.append([style, run, f"{rms:.4f} / {median:.4f}", ratio])
        print(text_table(["fine-tune", "run", "RMS / median", "to DPM++ 2M"], rows), flush=True)
        write_result("transfer", results)
