"""The comparison grid: references, the baseline's row, DreamMatcher's row, prompt by prompt."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from PIL import Image, ImageDraw

from framework.errors import UserError
from framework.viz.canvas import ACCENT, BAR, DULL, INK, PAPER, SOFT, thumbnail, write

LABEL = 190
GAP = 6
MARGIN = 18
CAPTION = 46
NOTE = 20
TITLE = 84


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
    _check(rows, captions)
    texts = [text if isinstance(text, str) else text[0] for text in captions]
    notes = ["" if isinstance(text, str) else text[1] for text in captions]
    columns = min(columns, max(len(captions), len(references[:columns])))
    step = side + GAP
    blocks = [range(i, min(i + columns, len(captions))) for i in range(0, len(captions), columns)]
    width = max(2 * MARGIN + LABEL + columns * step - GAP, 760)
    heading = CAPTION + (NOTE if any(notes) else 0)
    height = TITLE + MARGIN + step + len(blocks) * (heading + len(rows) * step + MARGIN)
    canvas = Image.new("RGB", (width, height), PAPER)
    draw = ImageDraw.Draw(canvas)
    _title(draw, width, title, subtitle)
    top = TITLE + MARGIN
    shown, total = references[:columns], len(references)
    note = "the real object" if len(shown) == total else f"{len(shown)} of {total}"
    _label(draw, top, side, "References", note, SOFT)
    _pictures(canvas, shown, top, side)
    top += step
    for indices in blocks:
        _captions(draw, [texts[i] for i in indices], top, side)
        _notes(draw, [notes[i] for i in indices], top + CAPTION, side)
        top += heading
        for row in rows:
            _label(draw, top, side, row.label, row.note, ACCENT if row.mine else DULL)
            if row.mine:
                _frame(draw, top, side, len(indices))
            _pictures(canvas, [row.images[i] for i in indices], top, side)
            top += step
        top += MARGIN
    return canvas


def _check(rows: Sequence[Row], captions: Sequence[str | tuple[str, str]]) -> None:
    for row in rows:
        if len(row.images) != len(captions):
            raise UserError(
                f"Row '{row.label}' has {len(row.images)} picture(s) for {len(captions)} "
                "caption(s); expected one for each."
            )
    if not captions or not rows:
        raise UserError("There is nothing to draw: give at least one row and one caption.")


def _title(draw: ImageDraw.ImageDraw, width: int, title: str, subtitle: str) -> None:
    draw.rectangle((0, 0, width, TITLE), fill=BAR)
    write(draw, (MARGIN, 10, width - MARGIN, 48), title, 28, bold=True, colour=PAPER, align="left",
          lines=1)  # fmt: skip
    write(draw, (MARGIN, 48, width - MARGIN, 76), subtitle, 17, colour=(196, 206, 218),
          align="left", lines=1)  # fmt: skip


def _frame(draw: ImageDraw.ImageDraw, top: int, side: int, count: int) -> None:
    right = MARGIN + LABEL + count * (side + GAP) - GAP
    box = (MARGIN + LABEL - 4, top - 4, right + 3, top + side + 3)
    draw.rectangle(box, outline=ACCENT, width=4)


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
    write(draw, (MARGIN, middle - 34, right, middle), label, 21, bold=True, colour=colour,
          align="left", lines=1)  # fmt: skip
    write(draw, (MARGIN, middle, right, middle + 30), note, 15, colour=SOFT, align="left",
          lines=1)  # fmt: skip


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
        write(draw, (left, top, right, top + CAPTION), captions[start], 16, colour=INK)
        start = end


def _notes(draw: ImageDraw.ImageDraw, notes: Sequence[str], top: int, side: int) -> None:
    for column, note in enumerate(notes):
        left = MARGIN + LABEL + column * (side + GAP)
        write(draw, (left, top - 4, left + side, top + NOTE - 6), note, 13, colour=SOFT, lines=1)
