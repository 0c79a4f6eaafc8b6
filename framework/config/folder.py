"""The folder of a run that one configuration describes."""

from __future__ import annotations

from pathlib import Path

from framework.config.page import Config, to_plain
from framework.runs.folder import RunFolder

CONFIG_FILE = "config.yaml"


def config_folder(config: Config, default: Path | str) -> RunFolder:
    """The folder of a run that one configuration describes.

    Args:
        config: written as ``config.yaml``; its ``output`` names the folder, and then the folder
            must not hold another run.
        default: the folder otherwise; where it is taken, the next one by number.
    """
    given = config.output is not None
    path = Path(config.output or default).expanduser()
    folder = RunFolder(path, CONFIG_FILE, to_plain(config), config.to_yaml())
    return folder if given else folder.free()


def open_run(config: Config, default: Path | str) -> Path:
    """Open the folder of :func:`config_folder`.

    Raises:
        UserError: see :meth:`RunFolder.open`.
    """
    return config_folder(config, default).open()
