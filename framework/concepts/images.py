"""Pictures from a user's folder -> RGB images, every one decoded completely or refused by name."""

from __future__ import annotations

import logging
import warnings
from importlib.util import find_spec
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from framework.config.resources import plain_file
from framework.errors import UserError

#: Files that may lie among the pictures without a word; hidden files and subfolders may, too.
IGNORED = ("concept.yaml", "metadata.json", "Thumbs.db", "desktop.ini")
#: Pictures by their names that PIL does not read: to be converted, not passed over.
_FOREIGN = (
    ".heic",
    ".heif",
    ".jxl",
    ".svg",
    ".dng",
    ".cr2",
    ".cr3",
    ".nef",
    ".arw",
    ".raf",
    ".rw2",
)
#: Endings PIL lists for data that are seldom pictures.
_TEXTS = (".txt", ".bin", ".h5", ".hdf", ".pdf", ".mpg", ".mpeg", ".npz")
#: What a file of another name is looked at for; their first bytes leave no doubt.
_SURE = ("PNG", "JPEG", "WEBP", "BMP", "GIF", "TIFF", "AVIF", "JPEG2000", "MPO")
#: Ends of names by which training programs keep masks beside their pictures.
_MASKS = ("-masklabel", "-condlabel")
MINIMUM_SIDE = 16

logger = logging.getLogger(__name__)


def load_images(folder: str | Path) -> list[tuple[Path, Image.Image]]:
    """Read every picture of a folder, sorted by file name.

    Orientation tags are applied, transparency is put on white, and every colour mode (grey,
    palette, CMYK, 16 bits, floating point) becomes 8-bit RGB; of an animation the first frame.
    What is no picture by name and content (captions, notes, caches of training programs) is passed
    over with one line.

    Args:
        folder: a folder of pictures.

    Returns:
        Pairs (file, RGB image), at least one.

    Raises:
        UserError: the folder is missing or a file or holds no picture; or a picture in it is
            damaged, of a kind that is not read, or smaller than 16 pixels on a side.
    """
    path = Path(folder)
    files, inside = _listed(path)
    pictures = picture_files(path)
    others = [file.name for file in files if file not in pictures]
    if pictures and others:
        shown = ", ".join(others[:4]) + (", ..." if len(others) > 4 else "")
        logger.warning(
            "Passed over %d file(s) in '%s' that are no pictures of the object: %s.",
            len(others),
            path,
            shown,
        )
    if pictures and inside:
        logger.warning(
            "The folder '%s' has the folder '%s' in it, which is not read; pictures lie beside "
            "each other.",
            path,
            inside[0],
        )
    if not pictures:
        hint = (
            f" It has the folder '{inside[0]}' in it; perhaps that one is meant." if inside else ""
        )
        beside = f" beside {', '.join(others[:3])}" if others else ""
        raise UserError(
            f"The folder '{path}' has no image in it{beside}; put at least one PNG or JPEG in."
            f"{hint}"
        )
    return [(file, load_image(file)) for file in pictures]


def picture_files(folder: str | Path) -> list[Path]:
    """The files of a folder that :func:`load_images` would read, sorted; none is opened fully.

    Raises:
        UserError: the folder is missing or may not be read.
    """
    files, _ = _listed(Path(folder))
    return [file for file in files if not _is_mask(file, files) and _is_picture(file)]


def _listed(path: Path) -> tuple[list[Path], list[str]]:
    """The visible files of a folder and the names of its visible folders, sorted."""
    try:
        if path.is_file():
            raise UserError(
                f"'{path}' is a file; expected a folder of pictures. Put the picture into a folder "
                "of its own and give that."
            )
        entries = sorted(path.iterdir())
    except FileNotFoundError as error:
        raise UserError(
            f"The image folder '{path}' does not exist. Give a folder of pictures of one object."
        ) from error
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise UserError(f"The folder '{str(path)[:200]}' may not be read: {reason}.") from error
    files = [entry for entry in entries if _counts(entry)]
    return files, [entry.name for entry in entries if _is_open_folder(entry)]


def _is_mask(file: Path, files: list[Path]) -> bool:
    """Whether a file is the mask of a picture beside it."""
    stems = [file.stem.removesuffix(end) for end in _MASKS if file.stem.endswith(end)]
    return any(other.stem == stem for stem in stems for other in files)


def _is_picture(file: Path) -> bool:
    """Whether a file is meant as a picture: by its name, or else by what it holds."""
    Image.init()
    suffix = file.suffix.lower()
    if suffix in _FOREIGN or (suffix in Image.EXTENSION and suffix not in _TEXTS):
        return True
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with Image.open(plain_file(file, "picture"), formats=_SURE):
                return True
    except Image.DecompressionBombError:
        return True
    except Exception:  # whatever PIL says, it opens no picture there
        return False


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
            with Image.open(plain_file(path, "picture")) as opened:
                opened.load()
                picture = to_rgb(_upright(opened))
    except UserError:
        raise
    except UnidentifiedImageError as error:
        raise UserError(_unreadable(path)) from error
    except PermissionError as error:
        raise UserError(f"'{path}' may not be read: {error.strerror}.") from error
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
        f"'{path}' is not an image that can be read (PNG, JPEG, WebP, ...): convert it, or move it "
        "away."
    )
