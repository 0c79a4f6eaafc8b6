"""Pictures from a user's folder -> RGB images, every one decoded completely or refused by name."""

from __future__ import annotations

import logging
import warnings
from importlib.util import find_spec
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from framework.errors import UserError

#: Files that may lie among the pictures; hidden files and subfolders may, too.
IGNORED = ("concept.yaml", "metadata.json", "Thumbs.db", "desktop.ini")
MINIMUM_SIDE = 16

logger = logging.getLogger(__name__)


def load_images(folder: str | Path) -> list[tuple[Path, Image.Image]]:
    """Read every picture of a folder, sorted by file name.

    Orientation tags are applied, transparency is put on white, and every colour mode (grey,
    palette, CMYK, 16 bits, floating point) becomes 8-bit RGB; of an animation the first frame.

    Args:
        folder: a folder with nothing but pictures, :data:`IGNORED`, hidden files and subfolders.

    Returns:
        Pairs (file, RGB image), at least one.

    Raises:
        UserError: the folder is missing or a file or holds no picture; or a file in it is no
            picture, is damaged, or is smaller than 16 pixels on a side.
    """
    path = Path(folder)
    if not path.exists():
        raise UserError(
            f"The image folder '{path}' does not exist. Give a folder of pictures of one object."
        )
    if not path.is_dir():
        raise UserError(
            f"'{path}' is a file; expected a folder of pictures. Put the picture into a folder of "
            "its own and give that."
        )
    try:
        files = sorted(entry for entry in path.iterdir() if _counts(entry))
    except PermissionError as error:
        raise UserError(f"The folder '{path}' may not be read: {error.strerror}.") from error
    inside = sorted(entry.name for entry in path.iterdir() if _is_open_folder(entry))
    if files and inside:
        logger.warning(
            "The folder '%s' has the folder '%s' in it, which is not read; pictures lie beside "
            "each other.",
            path,
            inside[0],
        )
    if not files:
        hint = (
            f" It has the folder '{inside[0]}' in it; perhaps that one is meant." if inside else ""
        )
        raise UserError(
            f"The folder '{path}' has no image in it; put at least one PNG or JPEG in.{hint}"
        )
    return [(file, load_image(file)) for file in files]


def load_image(file: str | Path) -> Image.Image:
    """Read one picture; see :func:`load_images`.

    Returns:
        An 8-bit RGB image, fully decoded, at least 16 pixels on each side.

    Raises:
        UserError: the file is no picture, is damaged, too small or may not be read.
    """
    path = Path(file)
    if path.suffix.lower() in (".heic", ".heif") and find_spec("pillow_heif") is not None:
        import pillow_heif

        pillow_heif.register_heif_opener()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with Image.open(path) as opened:
                opened.load()
                picture = to_rgb(_upright(opened))
    except UnidentifiedImageError as error:
        raise UserError(_unreadable(path)) from error
    except PermissionError as error:
        raise UserError(f"'{path}' may not be read: {error.strerror}.") from error
    except FileNotFoundError as error:
        raise UserError(f"'{path}' does not exist.") from error
    except Image.DecompressionBombError as error:
        raise UserError(f"'{path}' is too large an image: {error} Make it smaller.") from error
    except Exception as error:  # decoders raise OSError, SyntaxError, ValueError, EOFError, ...
        raise UserError(
            f"'{path}' is a damaged image: {error}. Replace it by an intact copy, or remove it."
        ) from error
    if min(picture.size) < MINIMUM_SIDE:
        raise UserError(
            f"'{path}' is {picture.width} x {picture.height} pixels; expected at least "
            f"{MINIMUM_SIDE} on each side. Use a larger picture, or remove it."
        )
    return picture


def to_rgb(image: Image.Image) -> Image.Image:
    """Any PIL image as 8-bit RGB; transparency is put on white."""
    if image.mode == "RGB" and "transparency" not in image.info:
        return image.copy()
    if image.mode[0] in "IF":
        return _from_numbers(image)
    if image.has_transparency_data:
        layer = image.convert("RGBA")
        white = Image.new("RGBA", layer.size, (255, 255, 255, 255))
        return Image.alpha_composite(white, layer).convert("RGB")
    return image.convert("RGB")


def _from_numbers(image: Image.Image) -> Image.Image:
    """16-bit, 32-bit and floating-point grey, brought to 8 bits by the range it evidently has."""
    values = np.nan_to_num(np.asarray(image).astype(np.float64))
    if image.mode.startswith("I;16"):
        full = 65535.0
    else:
        top = float(values.max(initial=0.0))
        full = next((limit for limit in (1.0, 255.0, 65535.0) if top <= limit), top)
        full = 255.0 if image.mode == "I" and full == 1.0 else full
    grey = np.clip(np.rint(values * (255.0 / full)), 0, 255).astype(np.uint8)
    return Image.fromarray(grey).convert("RGB")


def _upright(image: Image.Image) -> Image.Image:
    """The picture turned as its orientation tag says; a malformed tag is no reason to refuse it."""
    try:
        return ImageOps.exif_transpose(image)
    except Exception:
        return image


def _counts(entry: Path) -> bool:
    return not (entry.name.startswith(".") or entry.name in IGNORED or entry.is_dir())


def _is_open_folder(entry: Path) -> bool:
    return entry.is_dir() and not entry.name.startswith((".", "__"))


def _unreadable(path: Path) -> str:
    if path.stat().st_size == 0:
        return f"'{path}' is empty (0 bytes), not an image. Remove it, or replace it."
    Image.init()
    if path.suffix.lower() in Image.EXTENSION:
        return (
            f"'{path}' is a damaged image: its content is not what its name says. Replace it by an "
            "intact copy, or remove it."
        )
    if path.suffix.lower() in (".heic", ".heif"):
        return (
            f"'{path}' is a HEIC picture, which is read only where the package pillow-heif is "
            "installed (pip install 'dreammatcher[heif]'). Install it, or convert to JPEG."
        )
    return (
        f"'{path}' is not an image that can be read. The folder may hold pictures (PNG, JPEG, "
        f"WebP, ...) and {' and '.join(IGNORED[:2])} only: convert it, or move it away."
    )
