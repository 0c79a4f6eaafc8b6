"""DreamBooth: the whole network learns the object under a rare word.

Ruiz et al., "DreamBooth", CVPR 2023, arXiv 2208.12242.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from framework.backbones.choose import backbone_of
from framework.interfaces import PERSONALIZERS
from framework.options import option
from framework.training.companions import load_folder
from framework.training.copies import swap
from framework.training.formats.pipelines import load_parts, master_copy, write_pipeline
from framework.training.formats.recognise import DREAMBOOTH, located
from framework.training.identifier import IdentifierConfig, IdentifierPersonalizer
from framework.training.words import towers
from framework.types import Concept

FOLDER = "pipeline"


@dataclass
class DreamBoothConfig(IdentifierConfig):
    """Options of DreamBooth; the defaults are the paper's, with diffusers' learning rate."""

    steps: int = option(800, "updates", low=1)
    learning_rate: float = option(5e-6, "of AdamW, at its peak", low=0.0)
    weight_decay: float = option(0.01, "of AdamW", low=0.0)
    prior_images: int = option(200, "how many class images", low=1)


@PERSONALIZERS.register("dreambooth")
class DreamBooth(IdentifierPersonalizer):
    """Trains every weight of the network, and of the text encoder if wanted."""

    Config = DreamBoothConfig
    formats = (DREAMBOOTH,)
    large = True
    replaces = True

    @contextmanager
    def prepared(self, pipe: Any, concept: Concept, seed: int) -> Iterator[dict[str, nn.Parameter]]:
        """float32 copies of the networks, trained; see the base class."""
        backbone = backbone_of(pipe)
        parts: dict[str, Any] = {backbone.component: master_copy(backbone.network)}
        if self.config.train_text_encoder:
            for tower in towers(pipe):
                parts[tower.encoder_name] = master_copy(tower.encoder(pipe))
        trained = {
            f"{name}.{path}": parameter.requires_grad_()
            for name, part in parts.items()
            for path, parameter in part.named_parameters()
        }
        undo = swap(pipe, parts, "training")
        try:
            yield trained
        finally:
            undo()

    def write(
        self, pipe: Any, concept: Concept, folder: Path, trained: dict[str, nn.Parameter]
    ) -> Path:
        """``pipeline/``, a folder ``DiffusionPipeline.from_pretrained`` loads."""
        return write_pipeline(pipe, folder / FOLDER)

    def load(self, pipe: Any, path: Path, concept: Concept) -> Callable[[], None]:
        """Put a fine-tuned model's networks in place of the pipeline's.

        Args:
            pipe: a pipeline of the same family; its device and data type are kept.
            path: a pipeline folder, a folder with some of its networks, or the denoising
                network's own folder.
            concept: names the object.

        Returns:
            A function that restores the pipeline; several concepts are taken out in reverse order.

        Raises:
            UserError: the folder is missing, damaged or of another family (both shapes given).
        """
        found = located(Path(path), DREAMBOOTH)
        what = f"DreamBooth's '{concept.placeholder}'"
        return load_folder(
            pipe, found, concept, [lambda: swap(pipe, load_parts(pipe, found.path), what)]
        )
