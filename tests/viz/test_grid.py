import numpy as np
import pytest
from tiny_encoders import flat

from framework.errors import UserError
from framework.viz.canvas import font, thumbnail, wrap
from framework.viz.grid import GAP, LABEL, MARGIN, Row, draw_grid


def rows(count):
    return [
        Row("Baseline", "identity 0.5", [flat((10, 20, 30))] * count),
        Row("DreamMatcher", "identity 0.8", [flat((200, 100, 50))] * count, mine=True),
    ]


def test_pictures_stand_in_their_rows():
    grid = draw_grid(
        "title", "sub", [flat((1, 2, 3))] * 2, rows(3), ["p", "p", "q"], side=64, columns=4
    )
    array = np.asarray(grid)
    column = array[:, MARGIN + LABEL + 10]
    found = [tuple(map(int, column[y])) for y in range(0, grid.height, 4)]
    order = [c for c in found if c in {(1, 2, 3), (10, 20, 30), (200, 100, 50)}]
    assert list(dict.fromkeys(order)) == [(1, 2, 3), (10, 20, 30), (200, 100, 50)]
    third = array[:, MARGIN + LABEL + 2 * (64 + GAP) + 10]
    assert not (third == (1, 2, 3)).all(axis=1).any()


def test_many_columns_continue_below():
    one = draw_grid("t", "s", [flat((0, 0, 0))], rows(4), list("abcd"), side=64, columns=4)
    two = draw_grid("t", "s", [flat((0, 0, 0))], rows(5), list("abcde"), side=64, columns=4)
    assert two.width == one.width and two.height > one.height + 2 * 64


def test_a_missing_picture_is_refused():
    with pytest.raises(UserError, match=r"'Baseline' has 2 picture\(s\) for 3"):
        draw_grid("t", "s", [], rows(2), list("abc"))
    with pytest.raises(UserError, match="nothing to draw"):
        draw_grid("t", "s", [], [], [])


def test_text_is_wrapped_and_shortened():
    face = font(16)
    lines = wrap("a photo of a very long prompt that goes on and on", face, 120, lines=2)
    assert len(lines) == 2 and lines[1].endswith("…")
    assert all(face.getlength(line) <= 120 for line in lines)
    assert wrap("short", face, 120) == ["short"]
    assert wrap("", face, 120) == [""]
    assert face.getlength(wrap("x" * 100, face, 50)[0]) <= 50


def test_thumbnails_are_square_and_centred():
    wide = flat((0, 0, 0), 10).resize((30, 10))
    wide.paste((255, 255, 255), (10, 0, 20, 10))
    assert np.asarray(thumbnail(wide, 20)).min() == 255
