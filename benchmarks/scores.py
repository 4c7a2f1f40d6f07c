"""How far samples are from the converged ones: RMS, median, Frechet distances, with intervals."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor

from benchmarks.emoji.features import Gaussian, features, frechet_distance, frechet_gaussians

DATA = Path(__file__).parent / "data_features.safetensors"
DRAWS, FRECHET_DRAWS = 400, 40  # of the bootstrap
BOUNDS = (0.025, 0.975)


class Scores:
    """Scores of samples against the converged samples of the same noise."""

    def __init__(self, reference: Tensor, images: bool) -> None:
        self.reference = reference
        self.target = features(reference) if images else None
        data = load_file(DATA)
        self.data = Gaussian(data["mean"], data["covariance"])

    def distances(self, samples: Tensor) -> Tensor:
        """RMS over the elements of each sample, (n,) float64."""
        difference = (samples - self.reference[: len(samples)]).double()
        return difference.square().flatten(1).mean(1).sqrt()

    def quick(self, samples: Tensor) -> dict[str, float]:
        """RMS over all elements and samples, and the median of the per-sample RMS."""
        distances = self.distances(samples)
        rms = float(distances.square().mean().sqrt())
        return {"rms": rms, "median": float(distances.median())}

    def full(self, samples: Tensor) -> dict[str, float | list[float]]:
        """Everything, with 95 % bootstrap intervals over the samples."""
        distances = self.distances(samples)
        found: dict[str, float | list[float]] = dict(self.quick(samples))
        draws = resample(len(distances), DRAWS)
        found["rms_interval"] = interval(distances[draws].square().mean(1).sqrt())
        found["median_interval"] = interval(distances[draws].median(1).values)
        if self.target is not None:
            own, target = features(samples), self.target
            found["frechet"] = frechet_distance(own, target)
            found["frechet_data"] = frechet_gaussians(Gaussian.fit(own), self.data)
            rows = resample(len(own), FRECHET_DRAWS)
            both = torch.tensor([frechet_distance(own[row], target[row]) for row in rows])
            found["frechet_interval"] = interval(both.double())
        return found


def resample(count: int, draws: int) -> Tensor:
    """Indices of bootstrap samples, (draws, count); the same for every sampler."""
    return torch.randint(count, (draws, count), generator=torch.Generator().manual_seed(0))


def interval(values: Tensor) -> list[float]:
    return values.quantile(torch.tensor(BOUNDS, dtype=values.dtype)).tolist()
