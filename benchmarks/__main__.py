"""``python -m benchmarks [NAME ...]``: run benchmarks, write their JSON to benchmarks/results/."""

from __future__ import annotations

import argparse
import importlib
import sys

NAMES = {
    "overhead": "sampler time per step and memory against ComfyUI's own ipndm",
    "cost": "FLOPs of SD 1.5, SDXL, SD 3.5 and Flux, and calibration minutes on paper",
    "gpu": "on a CUDA device: waiting, time, memory and calibrations with an SDXL-shaped network",
    "calibration": "model evaluations per table and held-out error, against the paper's teacher",
    "teacher": "the dense teacher's distance from the converged samples, by cfg (minutes)",
    "startup": "what importing the pack costs",
    "fuzz": "a million hostile files, names and grids (half an hour, resumable)",
    "few_step": "error against model evaluations, ours and every built-in sampler (hours)",
    "profile": "one calibration for every run, against every built-in sampler (hours, resumable)",
    "belief": "is what a profile expects right: runs foretold by others (minutes)",
    "tables": "how long the tables of a profile take (minutes)",
    "prompts": "profiles of one prompt and of many (half an hour, resumable)",
    "between": "profiles at a cfg between two that were calibrated (half an hour, resumable)",
    "advice": "does a profile know which built-in sampler is best (an hour, resumable)",
    "refine": "tables for some steps that go on from a profile (an hour, resumable)",
    "transfer": "a base model's profile on its fine-tunes, beside their own (needs emoji32.npz)",
    "cifar": "the paper's experiment on CIFAR-10 (needs the images and hours of training)",
    "interval": "guidance only between two sigmas, at equal passes (half an hour, resumable)",
    "guidance": "tables at a cfg between calibrated ones: nearest, interpolated, own",
}
MODULES = {"cifar": "cifar.experiment"}  # of those that are packages


def main() -> int:
    listing = "\n".join(f"  {name:12} {text}" for name, text in NAMES.items())
    parser = argparse.ArgumentParser(
        prog="python dev.py bench",
        epilog=listing,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("names", nargs="*", metavar="NAME")
    options, rest = parser.parse_known_args()
    names = options.names or list(NAMES)
    if unknown := set(names) - set(NAMES):
        parser.error(f"{', '.join(sorted(unknown))} is no benchmark; use one of {', '.join(NAMES)}")
    for name in names:
        print(f"== {name}: {NAMES[name]}")
        module = MODULES.get(name, name)
        importlib.import_module(f".{module}", __package__).main(rest)
    return 0


if __name__ == "__main__":
    sys.exit(main())
