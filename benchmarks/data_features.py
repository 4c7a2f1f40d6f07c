"""Mean and covariance of the training images' features, every class weighted alike.

    python -m benchmarks.data_features --data emoji32.npz

The samples that are scored cycle through the classes, so the images count the same way.
"""

from __future__ import annotations

import argparse

import numpy as np
import torch
from safetensors.torch import save_file

from benchmarks.emoji.features import features

from .scores import DATA


def main() -> None:
    parser = argparse.ArgumentParser(description="Features of the data, for few_step.")
    parser.add_argument("--data", required=True, help="emoji32.npz, from build_data")
    with np.load(parser.parse_args().data, allow_pickle=False) as data:
        images, labels = data["images"], torch.from_numpy(data["labels"].astype(np.int64))
    weights = 1 / labels.bincount()[labels].double()
    weights /= weights.sum()
    found = features(images)
    mean = weights @ found
    covariance = (found - mean).T @ ((found - mean) * weights[:, None])
    save_file({"mean": mean, "covariance": covariance}, DATA)
    print(f"wrote {DATA}: {len(found)} images")


if __name__ == "__main__":
    main()
