"""The judge of drawn pictures: an exported folder's CLIP, probe and identity encoder."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn
from transformers import CLIPTokenizer, VisionTextDualEncoderModel

from framework.toyworld.palette import PATTERNS
from framework.toyworld.pretrain import models, prompts
from framework.toyworld.pretrain.attribute_prompts import NOTHING
from framework.toyworld.pretrain.clip import class_scores, image_features, text_features
from framework.toyworld.pretrain.measures import Figure, figure
from framework.toyworld.pretrain.probe import ATTRIBUTES, Probe, told

PLAIN = (PATTERNS.index("solid"), PATTERNS.index("dots"))
"""Patterns in which the picture says which colour is the main one."""


@dataclass(frozen=True)
class Judge:
    """What tells what a picture shows.

    Attributes:
        clip: Tells category, place and main colour by their prompts.
        tokenizer: Of the prompts.
        probe: Tells pattern and accessory; None where the folder has none.
        identity: The identity encoder, or None.
    """

    clip: VisionTextDualEncoderModel
    tokenizer: CLIPTokenizer
    probe: Probe | None
    identity: nn.Module | None

    @classmethod
    def load(cls, folder: Path) -> Judge:
        """The judge of an exported folder, float32."""
        clip = VisionTextDualEncoderModel.from_pretrained(
            models.present(folder / "clip"), dtype=torch.float32
        )
        encoder, probe = folder / "identity", folder / "probe"
        return cls(
            clip.eval(),
            CLIPTokenizer.from_pretrained(folder / "clip"),
            Probe.load(probe) if probe.is_dir() else None,
            models.load_identity(encoder).float() if encoder.is_dir() else None,
        )

    @torch.no_grad()
    def told(self, pictures: Tensor, category: Tensor) -> dict[str, Tensor]:
        """Class numbers (B,) told of pictures in -1..1; colours are told within ``category``."""
        texts = prompts.category_prompts() + prompts.place_prompts()
        texts += prompts.all_colour_prompts()
        classes = text_features(self.clip, prompts.token_ids(self.tokenizer, texts, 0))
        scores = class_scores(image_features(self.clip, pictures), classes, category)
        found = {name: value.argmax(-1).cpu() for name, value in scores.items()}
        return found | (told(self.probe, self.clip, pictures) if self.probe is not None else {})

    def verdicts(self, pictures: Tensor, labels: dict[str, Tensor]) -> dict[str, Figure]:
        """Shares of pictures that show what they shall.

        Args:
            pictures: (B, 3, H, W) in -1..1.
            labels: Class numbers (B,), :data:`NOTHING` where anything is right.

        Returns:
            ``category``, ``place``, ``pattern`` and ``accessory`` over the pictures with that label
            (the last two where there is a probe). ``colour`` over those whose main colour can be
            told: whose pattern is labelled as none or dots or, without label, told to be.
            ``colour_any`` over all.
        """
        found = self.told(pictures, labels["category"])
        right = {name: value == labels[name] for name, value in found.items()}
        table = {
            name: figure(right[name][labels[name] != NOTHING])
            for name in ("category", "place", *ATTRIBUTES)
            if name in right
        }
        table["colour_any"] = figure(right["colour"])
        if "pattern" in labels and ("pattern" in found or (labels["pattern"] != NOTHING).all()):
            pattern = labels["pattern"].clone()
            left_open = pattern == NOTHING
            if left_open.any():
                pattern[left_open] = found["pattern"][left_open]
            plain = torch.isin(pattern, torch.tensor(PLAIN))
            table["colour"] = figure(right["colour"][plain])
        return table
