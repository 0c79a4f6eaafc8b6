"""Finding files: in the file system, or inside an installed package as ``package:NAME/PATH``."""

from __future__ import annotations

import hashlib
import os
import re
import stat
from importlib.resources import files
from pathlib import Path

from framework.errors import UserError, nearest

PREFIX = "package:"
SUFFIXES = (".yaml", ".yml")


def resolve_path(text: str | Path) -> Path:
    """Path of a file or folder; ``package:framework.toyworld/weights`` lies inside a package.

    Raises:
        UserError: there is no such package, or the text is empty.
    """
    raw = str(text)
    if not raw.strip():
        raise UserError("An empty text was given where a path is needed.")
    if not raw.startswith(PREFIX):
        return Path(raw).expanduser()
    package, _, inside = raw[len(PREFIX) :].partition("/")
    try:
        root = files(package)
    except (ModuleNotFoundError, TypeError, ValueError) as error:
        raise UserError(
            f"'{raw}' names the package '{package}', which is not installed; "
            f"expected {PREFIX}NAME/PATH."
        ) from error
    return Path(str(root)).joinpath(inside)


def is_there(path: Path) -> bool:
    """Whether anything is there; a name no system accepts (too long, say) names nothing."""
    try:
        return path.exists()
    except (OSError, ValueError):
        return False


def is_folder(path: Path) -> bool:
    """Whether a folder is there, whatever the name."""
    return is_there(path) and path.is_dir()


def file_stem(text: str) -> str:
    """A file name made of a user's text: no separator, no control character, not too long.

    A plain word such as ``<my-duck>`` stays as it is; of what is replaced a short hash is kept, so
    that two texts never share a name.
    """
    plain = re.sub(r"[^\w<>@+=,.~-]", "_", text)[:80].lstrip(".") or "_"
    if plain == text:
        return plain
    return f"{plain}-{hashlib.sha256(text.encode('utf-8', 'replace')).hexdigest()[:8]}"


def plain_file(path: str | Path, what: str = "file") -> Path:
    """A path that is certainly a readable file with something in it; nothing that hangs.

    Args:
        path: of the file.
        what: it should be, for the message.

    Raises:
        UserError: there is none, it is a folder, a pipe or a device, it is empty, its name is no
            name, or it may not be read.
    """
    short = str(path) if len(str(path)) <= 160 else f"{str(path)[:80]}...{str(path)[-40:]}"
    try:
        status = Path(path).stat()
    except FileNotFoundError as error:
        raise UserError(f"'{short}' does not exist.") from error
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise UserError(f"'{short}' cannot be opened: {reason}.") from error
    if stat.S_ISDIR(status.st_mode):
        raise UserError(f"'{short}' is a folder; expected a {what}.")
    if not stat.S_ISREG(status.st_mode):
        raise UserError(f"'{short}' is a pipe, socket or device; expected a {what}.")
    if not os.access(path, os.R_OK):
        raise UserError(f"'{short}' may not be read: permission denied.")
    if status.st_size == 0:
        raise UserError(f"'{short}' is empty (0 bytes); expected a {what}. Give an intact copy.")
    return Path(path)


def shipped_configs() -> list[str]:
    """Names of the configurations below ``configs/``, e.g. ``presets/paper``."""
    root = Path(str(files("configs")))
    return sorted(p.relative_to(root).with_suffix("").as_posix() for p in root.rglob("*.yaml"))


def config_file(name: str | Path) -> Path:
    """A configuration file, by path or by its name below ``configs/``, e.g. ``presets/paper``.

    Raises:
        UserError: no such file; the message gives the nearest shipped name.
    """
    path = Path(name).expanduser()
    if path.is_file() and path.suffix in SUFFIXES:
        return path
    bare = path.with_suffix("") if path.suffix in SUFFIXES else path
    known = shipped_configs()
    if bare.as_posix() in known:
        return Path(str(files("configs"))) / f"{bare.as_posix()}.yaml"
    why = (
        "it is a folder"
        if path.is_dir()
        else "its name does not end in .yaml"
        if path.is_file()
        else "it is neither a file nor a shipped configuration"
    )
    raise UserError(
        f"No configuration '{name}': {why}.{nearest(bare.as_posix(), known)} "
        f"Shipped: {', '.join(known)}."
    )
