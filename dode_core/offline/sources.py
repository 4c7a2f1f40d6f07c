"""Checkpoints by name: a demo model, or a diffusers folder."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from ..errors import CalibrationError
from ..tables.files import SUFFIX
from .loading import Loaded, Wanted
from .pipelines import load_pipeline

DEMOS = ("emoji_edm", "emoji_flow")


def load(source: str, wanted: Wanted) -> Loaded:
    """A checkpoint by ``demo:NAME`` or the path of a diffusers folder.

    Raises :class:`CalibrationError` and :class:`TableError`.
    """
    kind, _, name = source.partition(":")
    if kind == "demo":
        return _demo(name, wanted)
    return load_pipeline(Path(source), wanted)


def _demo(name: str, wanted: Wanted) -> Loaded:
    from ..demo.model import CLASSES, IMAGE_SHAPE, load_demo, weights_path
    from ..tables.identity import file_fingerprint

    if name not in DEMOS:
        raise CalibrationError(f"Demo model {name!r} is unknown; use one of {', '.join(DEMOS)}.")
    flow = name == "emoji_flow"

    def conditions(samples: int, cfg: float) -> Mapping[str, Any]:
        labels = torch.arange(samples, device=wanted.device) % len(CLASSES)
        return {"labels": labels, "cfg": cfg}

    return Loaded(
        load_demo(name, wanted.device),
        "flow" if flow else "ve",
        name,
        f"file:{file_fingerprint(weights_path(name))}",
        *((0.02, 1.0) if flow else (0.03, 80.0)),
        tuple(IMAGE_SHAPE),
        conditions,
        Path(name + SUFFIX),
        wanted.device,
    )
