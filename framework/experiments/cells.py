"""Cells: one picture each, named by what it is made of, seeded by concept, prompt and seed."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from framework.config.page import MAX_SEED, Config
from framework.types import Concept

#: Settings that say where, how fast, or what is done with the pictures afterwards.
WITHOUT_EFFECT = (
    "output",
    "evaluation",
    "prompts",
    "seeds",
    "plugins",
    "cache",
    "personalizers",
)


@dataclass(frozen=True)
class Cell:
    """One picture of a plan.

    Attributes:
        id: hash of everything the picture is made of.
        variant: name of its variant.
        concept: name of its concept.
        prompt_index: place of the prompt in its list.
        prompt: with ``{}`` for the concept.
        seed: as the plan gives it.
        file: path of the picture inside the run folder.
        noise_seed: of the start noise; the same for every variant, whatever the order.
    """

    id: str
    variant: str
    concept: str
    prompt_index: int
    prompt: str
    seed: int
    file: str
    noise_seed: int = 0

    @property
    def pair(self) -> tuple[str, str, int]:
        """What cells that share their noise have in common."""
        return self.concept, self.prompt, self.seed


@dataclass(frozen=True)
class Setting:
    """A variant with a concept: all that its cells share.

    Attributes:
        variant: name of the variant.
        concept: name of the concept.
        config: the resolved configuration.
        subject: the concept with its pictures.
        digest: hash of the configuration, of the concept's words and pictures.
        cells: the pictures, prompt by prompt.
    """

    variant: str
    concept: str
    config: Config = field(repr=False)
    subject: Concept = field(repr=False)
    digest: str
    cells: tuple[Cell, ...] = field(repr=False)


def noise_seed(concept: str, prompt: str, seed: int) -> int:
    """A seed that depends on these three and nothing else, in [0, 2^63)."""
    told = json.dumps([concept, prompt, seed]).encode()
    return int.from_bytes(hashlib.sha256(told).digest()[:8]) & MAX_SEED


def digest_of(config: Config, *more: Any) -> str:
    """Hash of a resolved configuration and of what else a picture depends on."""
    plain = asdict(config)
    if not config.sources:  # nothing but our own parts
        del plain["sources"]
    for key in WITHOUT_EFFECT:
        plain.pop(key, None)
    for key in ("device", "notes"):
        plain["model"].pop(key)
    return _hash([plain, *more])


def cell_id(digest: str, prompt: str, seed: int) -> str:
    """Hash of a setting's digest with prompt and seed, 16 hexadecimal digits."""
    return _hash([digest, prompt, seed])[:16]


def slug(name: str) -> str:
    """A file name for a variant or concept."""
    return re.sub(r"[^A-Za-z0-9._=+-]+", "-", name).strip("-.")[:100] or "variant"


def _hash(told: Any) -> str:
    return hashlib.sha256(json.dumps(told, sort_keys=True, default=str).encode()).hexdigest()


def metadata(cell: Cell, extra: Mapping[str, Any]) -> dict[str, Any]:
    """What stands beside a picture; nothing in it depends on when or where it was drawn."""
    return {
        "id": cell.id,
        "variant": cell.variant,
        "concept": cell.concept,
        "prompt_index": cell.prompt_index,
        "prompt": cell.prompt,
        "seed": cell.seed,
        "noise_seed": cell.noise_seed,
        **extra,
    }
