"""Thumbnails of the example workflows: what a run showed, or, where none can be, the graph."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from PIL import Image, ImageDraw, ImageFont

SIZE = (640, 533)
GAP, INK, PAPER = 8, "#222222", "white"
CANVAS, BOX, OURS, NOTE, EDGE = "#202124", "#3c4043", "#0b6fb8", "#655632", "#9aa0a6"
ROWS = 3  # of pictures, beneath one another
LEAST, MOST = 9, 17  # of a node's name, pixels
# [title, whether it is ours, whether it is a note, left, top, width, height] of every node, and
# [from x, from y, to x, to y] of every link, in the graph's units.
GRAPH = """() => {
    const nodes = window.app.graph.nodes, links = [];
    const boxes = nodes.map(node => {
        const [x, y, width, height] = node.boundingRect;
        return [node.title, node.type.startsWith('DODE_'), node.type.endsWith('Note'),
            x, y, width, height];
    });
    for (const node of nodes) node.inputs.forEach((input, i) => {
        const link = input.link == null ? null : window.app.graph.getLink(input.link);
        if (!link) return;
        const from = window.app.graph.getNodeById(link.origin_id);
        links.push([...from.getConnectionPos(false, link.origin_slot),
            ...node.getConnectionPos(true, i)]);
    });
    return {boxes, links};
}"""


def card(picture: Image.Image) -> Image.Image:
    """The picture as large as it fits, in the middle of a thumbnail's size."""
    scale = min(SIZE[0] / picture.width, SIZE[1] / picture.height)
    size = (round(picture.width * scale), round(picture.height * scale))
    made = Image.new("RGB", SIZE, PAPER)
    made.paste(
        picture.convert("RGB").resize(size, Image.Resampling.LANCZOS),
        ((SIZE[0] - size[0]) // 2, (SIZE[1] - size[1]) // 2),
    )
    return made


def sheet(images: Sequence[Image.Image], columns: int = 2) -> Image.Image:
    """Images of one size, row by row."""
    width, height = images[0].size
    rows = -(-len(images) // columns)
    made = Image.new("RGB", (columns * (width + GAP) - GAP, rows * (height + GAP) - GAP), PAPER)
    for i, image in enumerate(images):
        made.paste(image, (i % columns * (width + GAP), i // columns * (height + GAP)))
    return made


def captioned(columns: dict[str, Sequence[Image.Image]]) -> Image.Image:
    """A column a caption, as many images in each as are shown."""
    first = next(iter(columns.values()))[0]
    points = first.width // 8
    font, top = ImageFont.load_default(points), 3 * points
    tiles = [images[row] for row in range(ROWS) for images in columns.values()]
    below = sheet(tiles, len(columns))
    made = Image.new("RGB", (below.width, below.height + top), PAPER)
    made.paste(below, (0, top))
    draw = ImageDraw.Draw(made)
    for i, caption in enumerate(columns):
        place = (i * (first.width + GAP) + GAP, GAP)
        draw.multiline_text(place, caption.replace(", ", "\n"), fill=INK, font=font)
    return made


def graph(found: dict[str, Any]) -> Image.Image:
    """The nodes of a workflow with their names, and its links; ``found``: what GRAPH gives.

    Stretched to the thumbnail's shape, so that names can be read.
    """
    boxes = found["boxes"]
    begin = [min(box[i] for box in boxes) for i in (3, 4)]
    end = [max(box[i] + box[i + 2] for box in boxes) for i in (3, 4)]
    scale = [(SIZE[i] - 4 * GAP) / (end[i] - begin[i]) for i in (0, 1)]

    def at(*place: float) -> tuple[float, float]:
        x, y = (2 * GAP + (place[i] - begin[i]) * scale[i] for i in (0, 1))
        return x, y

    made = Image.new("RGB", SIZE, CANVAS)
    draw = ImageDraw.Draw(made)
    for x, y, to_x, to_y in found["links"]:
        draw.line([at(x, y), at(to_x, to_y)], fill=EDGE, width=1)
    for title, ours, note, x, y, width, height in boxes:
        corner, other = at(x, y), at(x + width, y + height)
        fill = OURS if ours else NOTE if note else BOX
        draw.rounded_rectangle([corner, other], 5, fill=fill, outline=EDGE)
        room = other[0] - corner[0] - GAP, other[1] - corner[1]
        lines, font = fitted("Note" if note else title, *room)
        draw.multiline_text((corner[0] + 5, corner[1] + 2), lines, fill=PAPER, font=font, spacing=2)
    return made


def fitted(text: str, width: float, height: float) -> tuple[str, Any]:
    """(the text in lines, the largest font with which they fit into so many pixels).

    With the least font it is one line, cut off where it does not fit.
    """
    for points in range(MOST, LEAST, -1):
        font = ImageFont.load_default(points)
        lines = wrapped(text, font, width)
        wide = max(font.getlength(line) for line in lines)
        if wide <= width and len(lines) * (points + 3) <= height:
            return "\n".join(lines), font
    font = ImageFont.load_default(LEAST)
    while len(text) > 1 and font.getlength(text) > width:
        text = text[:-1]
    return text, font


def wrapped(text: str, font: Any, width: float) -> list[str]:
    """The words in lines of at most ``width`` pixels, if no word is longer."""
    lines: list[str] = []
    for word in text.split():
        longer = f"{lines[-1]} {word}" if lines else word
        lines[-1:] = [longer] if font.getlength(longer) <= width else [*lines[-1:], word]
    return lines
