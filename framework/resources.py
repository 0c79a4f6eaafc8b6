"""Finding files: in the file system, or inside an installed package as ``package:NAME/PATH``."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path

from framework.errors import UserError, nearest

PREFIX = "package:"


def resolve_path(text: str | Path) -> Path:
    """Path of a file or folder; ``package:framework.toyworld/weights`` lies inside a package.

    Raises:
        UserError: there is no such package.
    """
    raw = str(text)
    if not raw.startswith(PREFIX):
        return Path(raw).expanduser()
    package, _, inside = raw[len(PREFIX) :].partition("/")
    try:
        root = files(package)
    except ModuleNotFoundError as error:
        raise UserError(
            f"'{raw}' names the package '{package}', which is not installed."
        ) from error
    return Path(str(root.joinpath(inside)))


def config_file(name: str | Path) -> Path:
    """A configuration file, by path or by its name below ``configs/``, e.g. ``presets/paper``.

    Raises:
        UserError: no such file; the message gives the nearest shipped name.
    """
    path = Path(name).expanduser()
    if path.suffix in (".yaml", ".yml"):
        if path.is_file():
            return path
        name = str(path.with_suffix(""))
    root = Path(str(files("configs")))
    shipped = root / f"{name}.yaml"
    if shipped.is_file():
        return shipped
    known = sorted(str(p.relative_to(root).with_suffix("")) for p in root.rglob("*.yaml"))
    raise UserError(
        f"No configuration '{name}': it is neither a YAML file nor a shipped configuration."
        f"{nearest(str(name), known)} Shipped: {', '.join(known)}."
    )
