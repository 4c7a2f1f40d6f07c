"""What D-ODE Compare shows: a column a contender, a line a column."""

from __future__ import annotations

from typing import Any

from .comparing import Entry
from .picture import columns


def captions(entries: list[Entry]) -> str:
    """A line per column."""
    return "\n".join(each.caption().replace("\n", ", ") for each in entries)


def decode(vae: Any, entry: Entry) -> Any:
    """Images (n, height, width, 3); of a video its first frame."""
    latent = entry.latent["samples"]
    images = vae.decode(latent.unbind()[0] if latent.is_nested else latent)
    return images[:, 0] if images.ndim == 5 else images


def side_by_side(entries: list[Entry], vae: Any) -> Any:
    """A PIL image, the contenders from left to right."""
    return columns({each.caption(): decode(vae, each) for each in entries})
