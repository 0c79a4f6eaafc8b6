"""Drawing text and thumbnails with PIL: fonts, wrapping, sharp upscaling."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from pathlib import Path

import matplotlib
from PIL import Image, ImageDraw, ImageFont

INK = (28, 32, 40)
SOFT = (104, 112, 124)
PAPER = (255, 255, 255)
ACCENT = (18, 118, 92)
DULL = (150, 86, 62)
BAR = (24, 34, 48)


@cache
def font(size: int, bold: bool = False) -> ImageFont.FreeTypeFont:
    """DejaVu Sans, which matplotlib brings along.

    Args:
        size: height in pixels.
        bold: the bold cut.
    """
    name = "DejaVuSans-Bold.ttf" if bold else "DejaVuSans.ttf"
    return ImageFont.truetype(str(Path(matplotlib.get_data_path()) / "fonts/ttf" / name), size)


def thumbnail(image: Image.Image, side: int) -> Image.Image:
    """A square picture of ``side`` pixels: cover, centre crop, Lanczos both ways.

    Args:
        image: any picture.
        side: in pixels.
    """
    picture = image.convert("RGB")
    short = min(picture.size)
    left, top = (picture.width - short) // 2, (picture.height - short) // 2
    square = picture.crop((left, top, left + short, top + short))
    return square.resize((side, side), Image.Resampling.LANCZOS)


def wrap(text: str, face: ImageFont.FreeTypeFont, width: int, lines: int = 2) -> list[str]:
    """Break a text into lines of at most ``width`` pixels.

    Args:
        text: words separated by blanks.
        face: the font.
        width: in pixels.
        lines: at most so many; what does not fit ends in an ellipsis.

    Returns:
        At least one line.
    """
    rows: list[str] = [""]
    words = text.split()
    for index, word in enumerate(words):
        longer = f"{rows[-1]} {word}".strip()
        if face.getlength(longer) <= width or not rows[-1]:
            rows[-1] = longer
        elif len(rows) < lines:
            rows.append(word)
        else:
            rows[-1] = _shorten(f"{rows[-1]} {' '.join(words[index:])}", face, width)
            break
    return [_shorten(row, face, width) for row in rows]


def _shorten(text: str, face: ImageFont.FreeTypeFont, width: int) -> str:
    if face.getlength(text) <= width:
        return text
    while text and face.getlength(text + "…") > width:
        text = text[:-1]
    return text.rstrip(" ,") + "…"


@dataclass(frozen=True)
class Style:
    """How a text is written.

    Attributes:
        size: of the font in pixels.
        bold: the bold cut.
        colour: of the text.
        left: written from the left edge, not in the middle.
        lines: at most so many.
    """

    size: int
    bold: bool = False
    colour: tuple[int, int, int] = INK
    left: bool = False
    lines: int = 2


def write(
    draw: ImageDraw.ImageDraw, box: tuple[int, int, int, int], text: str, style: Style
) -> None:
    """Write a text into a box, wrapped and centred vertically.

    Args:
        draw: where to.
        box: left, top, right, bottom in pixels.
        text: the text.
        style: how.
    """
    left, top, right, bottom = box
    face = font(style.size, style.bold)
    rows = wrap(text, face, right - left, style.lines)
    step = round(style.size * 1.3)
    y = top + (bottom - top - step * len(rows)) / 2 + (step - style.size) / 2
    for row in rows:
        x = left if style.left else left + (right - left - face.getlength(row)) / 2
        draw.text((x, y), row, font=face, fill=style.colour)
        y += step
