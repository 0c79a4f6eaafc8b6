"""The comparison grid: references, the baseline's row, DreamMatcher's row, prompt by prompt."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from PIL import Image, ImageDraw

from framework.errors import UserError
from framework.viz.canvas import ACCENT, BAR, DULL, INK, PAPER, SOFT, Style, thumbnail, write

LABEL = 190
GAP = 6
MARGIN = 18
CAPTION = 46
NOTE = 20
BAR_HEIGHT = 84


@dataclass(frozen=True)
class Row:
    """One row of the grid.

    Attributes:
        label: bold, at the left.
        note: under it, e.g. a score.
        images: one for each column.
        mine: framed, as the row to look at.
    """

    label: str
    note: str
    images: Sequence[Image.Image]
    mine: bool = False


def draw_grid(
    title: str,
    subtitle: str,
    references: Sequence[Image.Image],
    rows: Sequence[Row],
    captions: Sequence[str | tuple[str, str]],
    *,
    side: int = 192,
    columns: int = 8,
) -> Image.Image:
    """Draw the grid.

    Neighbouring columns with the same caption share it. More than ``columns`` pictures continue
    in a further block of rows.

    Args:
        title: in the bar at the top.
        subtitle: under it.
        references: the concept's pictures.
        rows: the arms, each with as many pictures as there are captions.
        captions: the prompt of each column; or the prompt and a note, such as the seed.
        side: of each picture in pixels.
        columns: pictures side by side.

    Returns:
        An RGB picture, about ``columns * side`` wide.

    Raises:
        UserError: a row has not one picture for each caption, or there is nothing to draw.
    """
    _check(rows, len(captions))
    texts = [text if isinstance(text, str) else text[0] for text in captions]
    notes = ["" if isinstance(text, str) else text[1] for text in captions]
    columns = min(columns, max(len(captions), len(references[:columns])))
    step, heading = side + GAP, CAPTION + (NOTE if any(notes) else 0)
    blocks = [range(i, min(i + columns, len(captions))) for i in range(0, len(captions), columns)]
    width = max(2 * MARGIN + LABEL + columns * step - GAP, 760)
    height = BAR_HEIGHT + MARGIN + step + len(blocks) * (heading + len(rows) * step + MARGIN)
    canvas = Image.new("RGB", (width, height), PAPER)
    draw = ImageDraw.Draw(canvas)
    _title(draw, width, title, subtitle)
    top = BAR_HEIGHT + MARGIN
    shown = references[:columns]
    count = "" if len(shown) == len(references) else f"{len(shown)} of {len(references)}"
    _label(draw, top, side, "References", count or "the real object", SOFT)
    _pictures(canvas, shown, top, side)
    top += step
    for indices in blocks:
        _captions(draw, [texts[i] for i in indices], top, side)
        _notes(draw, [notes[i] for i in indices], top + CAPTION, side)
        top += heading
        for row in rows:
            _row(canvas, draw, row, indices, top, side)
            top += step
        top += MARGIN
    return canvas


def _check(rows: Sequence[Row], columns: int) -> None:
    for row in rows:
        if len(row.images) != columns:
            raise UserError(
                f"Row '{row.label}' has {len(row.images)} picture(s) for {columns} "
                "caption(s); expected one for each."
            )
    if not columns or not rows:
        raise UserError("There is nothing to draw: give at least one row and one caption.")


def _title(draw: ImageDraw.ImageDraw, width: int, title: str, subtitle: str) -> None:
    draw.rectangle((0, 0, width, BAR_HEIGHT), fill=BAR)
    write(draw, (MARGIN, 10, width - MARGIN, 48), title,
          Style(28, bold=True, colour=PAPER, left=True, lines=1))  # fmt: skip
    write(draw, (MARGIN, 48, width - MARGIN, 76), subtitle,
          Style(17, colour=(196, 206, 218), left=True, lines=1))  # fmt: skip


def _row(
    canvas: Image.Image,
    draw: ImageDraw.ImageDraw,
    row: Row,
    indices: range,
    top: int,
    side: int,
) -> None:
    _label(draw, top, side, row.label, row.note, ACCENT if row.mine else DULL)
    if row.mine:
        right = MARGIN + LABEL + len(indices) * (side + GAP) - GAP
        frame = (MARGIN + LABEL - 4, top - 4, right + 3, top + side + 3)
        draw.rectangle(frame, outline=ACCENT, width=4)
    _pictures(canvas, [row.images[i] for i in indices], top, side)


def _label(
    draw: ImageDraw.ImageDraw,
    top: int,
    side: int,
    label: str,
    note: str,
    colour: tuple[int, int, int],
) -> None:
    middle = top + side // 2
    right = MARGIN + LABEL - 14
    write(draw, (MARGIN, middle - 34, right, middle), label,
          Style(21, bold=True, colour=colour, left=True, lines=1))  # fmt: skip
    write(draw, (MARGIN, middle, right, middle + 30), note,
          Style(15, colour=SOFT, left=True, lines=1))  # fmt: skip


def _pictures(canvas: Image.Image, images: Sequence[Image.Image], top: int, side: int) -> None:
    for column, image in enumerate(images):
        canvas.paste(thumbnail(image, side), (MARGIN + LABEL + column * (side + GAP), top))


def _captions(draw: ImageDraw.ImageDraw, captions: Sequence[str], top: int, side: int) -> None:
    start = 0
    while start < len(captions):
        end = start + 1
        while end < len(captions) and captions[end] == captions[start]:
            end += 1
        left = MARGIN + LABEL + start * (side + GAP)
        right = MARGIN + LABEL + end * (side + GAP) - GAP
        write(draw, (left, top, right, top + CAPTION), captions[start], Style(16, colour=INK))
        start = end


def _notes(draw: ImageDraw.ImageDraw, notes: Sequence[str], top: int, side: int) -> None:
    for column, note in enumerate(notes):
        left = MARGIN + LABEL + column * (side + GAP)
        write(
            draw,
            (left, top - 4, left + side, top + NOTE - 6),
            note,
            Style(13, colour=SOFT, lines=1),
        )
