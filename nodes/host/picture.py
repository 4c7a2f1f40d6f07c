"""A labelled picture of several batches of images: a column each, its caption above it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from torch import Tensor

LEAST, MOST = 256, 8192  # a tile's width on screen; a picture's side
GAP, INK, PAPER = 8, "#222222", "white"


def columns(batches: Mapping[str, Tensor], rows: int = 16) -> Any:
    """A PIL image: one column a caption, one row an image. Images: (n, height, width, 3), 0 to 1.

    Small images are enlarged without smoothing, and all shrunk when the picture would be huge.
    """
    from PIL import Image, ImageDraw, ImageFont

    tiles = {text: [to_image(image) for image in batch[:rows]] for text, batch in batches.items()}
    first = next(iter(tiles.values()))[0]
    count = max(len(images) for images in tiles.values())
    scale = tile_scale(first.width, first.height, len(tiles), count)
    width, height = round(first.width * scale), round(first.height * scale)
    points = max(13, min(width // 12, 60))
    font, line = ImageFont.load_default(points), round(points * 1.25)
    top = GAP + line * max(text.count("\n") + 1 for text in tiles)
    size = (GAP + len(tiles) * (width + GAP), top + GAP + count * (height + GAP))
    canvas = Image.new("RGB", size, PAPER)
    draw = ImageDraw.Draw(canvas)
    filtering = Image.Resampling.NEAREST if scale >= 1 else Image.Resampling.LANCZOS
    for c, (text, images) in enumerate(tiles.items()):
        left = GAP + c * (width + GAP)
        for n, words in enumerate(text.split("\n")):
            draw.text((left, GAP + n * line), words, fill=INK, font=font)
        for r, image in enumerate(images):
            tile = image.resize((width, height), filtering)
            canvas.paste(tile, (left, top + GAP + r * (height + GAP)))
    return canvas


def tile_scale(width: int, height: int, across: int, down: int) -> float:
    """How much a tile is enlarged, a whole number, or shrunk so that the picture stays usable."""
    if width < LEAST:
        return float(-(-LEAST // width))
    return min(1.0, MOST / (width * across), MOST / (height * down))


def to_image(image: Tensor) -> Any:
    """One image of an IMAGE batch as PIL."""
    from PIL import Image

    array = image.detach().float().cpu().clamp(0, 1).mul(255).round().numpy().astype(np.uint8)
    return Image.fromarray(array[..., :3])
