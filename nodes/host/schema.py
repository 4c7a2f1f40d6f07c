"""What newer hosts know of a node, left out where the host does not."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

from comfy_api.latest import io

NEWER = ("search_aliases", "essentials_category")  # than 0.3.75
ALIASES = ["few step", "fast sampler", "fewer steps", "distill", "DDIM", "AYS", "DPM-Solver"]
ESSENTIAL = "Image Generation"  # where the stock KSampler is


def schema(**settings: Any) -> io.Schema:
    """The host's Schema of these settings, without those that it is too old for."""
    known = {field.name for field in fields(io.Schema)}
    return io.Schema(**{k: v for k, v in settings.items() if k in known or k not in NEWER})
