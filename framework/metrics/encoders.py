"""Encoders: pictures or texts -> normalised vectors. Any callable of that form serves as one."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import torch
from PIL import Image
from torch import Tensor

from framework.concepts.text import cut_off
from framework.metrics.preprocess import Preprocess

logger = logging.getLogger(__name__)

ImagesToVectors: TypeAlias = Callable[[Sequence[Image.Image]], Tensor]
"""Pictures -> (n, D), float32, L2-normalised, on the CPU."""

TextsToVectors: TypeAlias = Callable[[Sequence[str]], Tensor]
"""Texts -> (n, D), float32, L2-normalised, on the CPU."""


def normalised(vectors: Tensor) -> Tensor:
    """L2-normalise (..., D) over the last axis, as float32 on the CPU; a zero vector stays zero."""
    plain = vectors.detach().float().cpu()
    return plain / plain.norm(dim=-1, keepdim=True).clamp_min(1e-12)


def pooled(output: Any) -> Tensor:
    """(B, D): the tensor, or the ``pooler_output`` that newer transformers return instead."""
    return output if isinstance(output, Tensor) else output.pooler_output


class _Encoder:
    """A network in evaluation mode, used in batches; subclasses say how items reach it.

    Args:
        model: the network; put on ``device`` and into evaluation mode.
        device: where it runs.
        batch_size: items encoded together.
    """

    def __init__(
        self, model: Any, device: torch.device | str = "cpu", batch_size: int = 32
    ) -> None:
        self.model = model.to(device).eval()
        self.device = torch.device(device)
        self.batch_size = batch_size

    def _encode(self, items: list[Any]) -> Tensor:
        raise NotImplementedError

    @torch.no_grad()
    def __call__(self, items: Sequence[Any]) -> Tensor:
        """Items -> (n, D), float32, L2-normalised, on the CPU; (0, 0) without items."""
        chunks = [
            normalised(self._encode(list(items[start : start + self.batch_size])))
            for start in range(0, len(items), self.batch_size)
        ]
        return torch.cat(chunks) if chunks else torch.empty(0, 0)


class ImageEncoder(_Encoder):
    """CLIP's image tower.

    Args:
        model: a transformers ``CLIPModel``, or another with a tower of pictures and one of texts.
        preprocess: how pictures are made ready.
        device: where it runs.
        batch_size: pictures encoded together.
    """

    def __init__(
        self,
        model: Any,
        preprocess: Preprocess,
        device: torch.device | str = "cpu",
        batch_size: int = 32,
    ) -> None:
        super().__init__(model, device, batch_size)
        self.preprocess = preprocess

    def _encode(self, items: list[Image.Image]) -> Tensor:
        pixels = self.preprocess(items).to(self.device, self.model.dtype)
        return pooled(self.model.get_image_features(pixel_values=pixels))


class TextEncoder(_Encoder):
    """CLIP's text tower.

    Args:
        model: a transformers ``CLIPModel``, or another with a tower of pictures and one of texts.
        tokenizer: its tokenizer.
        device: where it runs.
        batch_size: texts encoded together.
    """

    def __init__(
        self,
        model: Any,
        tokenizer: Any,
        device: torch.device | str = "cpu",
        batch_size: int = 32,
    ) -> None:
        super().__init__(model, device, batch_size)
        self.tokenizer = tokenizer

    def _encode(self, items: list[str]) -> Tensor:
        length = self.model.config.text_config.max_position_embeddings
        for text in items:
            end = cut_off(self.tokenizer, text, length)
            if end:
                logger.warning(
                    "CLIP reads %d tokens of the text '%s...'; not scored: '%s'.",
                    length - 2,
                    text[:40],
                    end,
                )
        tokens = self.tokenizer(
            items, padding="max_length", max_length=length, truncation=True, return_tensors="pt"
        ).to(self.device)
        features = self.model.get_text_features(
            input_ids=tokens.input_ids, attention_mask=tokens.attention_mask
        )
        return pooled(features)


class IdentityEncoder(_Encoder):
    """A timm network without its classifier; DINO is the usual choice.

    Args:
        model: maps (n, 3, size, size) to (n, D).
        preprocess: how pictures are made ready.
        device: where it runs.
        batch_size: pictures encoded together.
    """

    def __init__(
        self,
        model: Any,
        preprocess: Preprocess,
        device: torch.device | str = "cpu",
        batch_size: int = 32,
    ) -> None:
        super().__init__(model, device, batch_size)
        self.preprocess = preprocess

    def _encode(self, items: list[Image.Image]) -> Tensor:
        return self.model(self.preprocess(items).to(self.device))
