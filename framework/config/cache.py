"""Options of the cache."""

from __future__ import annotations

from dataclasses import dataclass

from framework.options import PartConfig, option

#: Environment variable that names the folder of the disk cache.
VARIABLE = "DREAMMATCHER_CACHE"


@dataclass
class CacheConfig(PartConfig):
    """Where the reference branch's results are kept; results do not depend on it."""

    where: str = option(
        "memory", "memory of this process, disk, or none", choices=("memory", "disk", "none")
    )
    folder: str | None = option(
        None, f"folder of the disk cache; null: ${VARIABLE}, or .cache/dreammatcher at home"
    )
    max_gigabytes: float = option(2.0, "bound of all entries together", low=0.0)
    max_entries: int = option(20000, "bound of their number (one a step and reference)", low=1)

    def __post_init__(self) -> None:
        if self.where in (False, "off"):  # its former name, which YAML takes for a switch
            self.where = "none"
        super().__post_init__()
