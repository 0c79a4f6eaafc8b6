"""Textual Inversion: a concept as new words in the text encoder's vocabulary.

Gal et al., "An Image is Worth One Word", ICLR 2023, arXiv 2208.01618. The model stays as it is;
only the embedding rows of the placeholder are learned.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from torch import nn

from framework.concepts import write_concept_file
from framework.errors import UserError
from framework.interfaces import Personalizer
from framework.model import TextToImageModel
from framework.options import PartConfig, option
from framework.registry import PERSONALIZERS
from framework.text import SLOT
from framework.training.embeds import FILE, read_embeds, write_embeds
from framework.training.templates import expand_templates, usable_templates
from framework.training.words import (
    add_words,
    check_known,
    check_placeholder,
    initial_rows,
    towers,
    word_tokens,
)
from framework.types import Concept


@dataclass
class TextualInversionConfig(PartConfig):
    """Options of Textual Inversion; the defaults suit the small embedded model."""

    steps: int = option(250, "updates; about 3000 for Stable Diffusion", low=1)
    learning_rate: float = option(5e-3, "of AdamW, at its peak", low=0.0)
    schedule: str = option(
        "constant", "learning rate over the steps", choices=("constant", "linear", "cosine")
    )
    warmup: int = option(0, "updates of linear warm-up", low=0)
    batch_size: int = option(4, "images a step", low=1)
    weight_decay: float = option(0.0, "of AdamW", low=0.0)
    gradient_clip: float | None = option(1.0, "largest gradient norm; null: none", low=0.0)
    vectors: int = option(1, "embedding rows the placeholder has", low=1, high=64)
    initializer: str | None = option(None, "words to start from; null: the class name")
    templates: list[str] = option(
        ["object"], "sets 'object', 'style', or sentences with {}; unknown words drop a sentence"
    )
    with_class: bool = option(True, "write 'S* class' in them, as prompts do; false: 'S*' alone")
    min_snr: float | None = option(None, "gamma of min-SNR loss weights; null: equal", low=0.0)
    stratified: bool = option(True, "spread a batch's diffusion times evenly")
    sample_latents: bool = option(True, "draw from the VAE's posterior; false: its mean")
    mirror: bool = option(False, "also train on mirrored pictures")
    resolution: int | None = option(None, "side in pixels; null: the model's own", low=8)
    precision: str = option(
        "auto", "of computing; auto: as the weights", choices=("auto", "32", "bf16", "16")
    )
    gradient_checkpointing: bool = option(False, "less memory, a third more time")
    checkpoint_every: int = option(100, "updates between checkpoints", low=1)


@PERSONALIZERS.register("textual_inversion")
class TextualInversion(Personalizer):
    """Learns the embedding rows of a new word; the model's weights stay as they are."""

    Config = TextualInversionConfig

    def check(self, pipe: Any, concept: Concept) -> None:
        """Refuse a placeholder, words, a size or a precision that cannot be used."""
        from framework.training.loop import choose_precision
        from framework.training.objective import Objective

        config, model = self.config, TextToImageModel(pipe)
        side = config.resolution or model.image_size
        model.latent_size(side, side)
        check_placeholder(pipe, concept.placeholder)
        check_known(pipe, concept.class_name, "The class name")
        if config.initializer is not None:
            check_known(pipe, config.initializer, "The initializer")
        Objective.of(pipe)
        choose_precision(config.precision, model.dtype, model.device)
        self._start(pipe, concept)
        self._check_length(pipe, concept, self._prompts(pipe, concept))

    def train(self, pipe: Any, concept: Concept, folder: Path, *, seed: int = 0) -> Path:
        """Learn the concept; goes on from the folder's checkpoints if there are any.

        The folder gets ``learned_embeds.safetensors``, which diffusers' own
        ``pipe.load_textual_inversion`` loads too, ``concept.yaml``, ``checkpoints/`` and ``logs/``.

        Raises:
            UserError: the placeholder is taken or no single word, the class or the initializer has
                words the model does not know, training diverges, or the folder holds another
                training's checkpoints.
        """
        from framework.training import loop  # Lightning takes seconds to import

        self.check(pipe, concept)
        config, model = self.config, TextToImageModel(pipe)
        side = config.resolution or model.image_size
        prompts = self._prompts(pipe, concept)
        rows = self._start(pipe, concept)
        lean = config.gradient_checkpointing and not model.unet.is_gradient_checkpointing
        with loop.frozen(loop.networks(pipe)):
            restore = add_words(pipe, concept.placeholder, rows, trained=True)
            try:
                if lean:
                    model.unet.enable_gradient_checkpointing()
                self._fit(model, concept, prompts, rows, side, Path(folder), seed)
            finally:
                restore()
                if lean:
                    model.unet.disable_gradient_checkpointing()
        write_concept_file(folder, concept.class_name, concept.placeholder, concept.name)
        return write_embeds(Path(folder) / FILE, concept.placeholder, dict(rows))

    def load(self, pipe: Any, path: Path, concept: Concept) -> Callable[[], None]:
        """Put learned rows into the pipeline under the concept's placeholder.

        Args:
            pipe: a pipeline of the family they were trained for.
            path: a file, or a folder with ``learned_embeds.safetensors``; see
                :func:`framework.training.embeds.read_embeds` for the formats.
            concept: names the placeholder, whichever word the file itself names.

        Returns:
            A function that restores the pipeline; several concepts are taken out in reverse order.

        Raises:
            UserError: the file is missing, damaged or of another width, or the placeholder is
                taken.
        """
        present = towers(pipe)
        rows = read_embeds(Path(path), present)
        for tower in present:
            got, expected = rows[tower.key].shape[1], tower.width(pipe)
            if got != expected:
                raise UserError(
                    f"{path} holds embeddings of width {got}, but this model's text encoder has "
                    f"width {expected}. They were trained for another model: load that one, or "
                    "train the concept for this one."
                )
        return add_words(pipe, concept.placeholder, rows, trained=False)

    def _prompts(self, pipe: Any, concept: Concept) -> list[str]:
        """Every training sentence, the concept filled in."""
        tokenizers = [tower.tokenizer(pipe) for tower in towers(pipe)]
        templates = usable_templates(expand_templates(self.config.templates), tokenizers)
        phrase = concept.phrase if self.config.with_class else concept.placeholder
        return [template.replace(SLOT, phrase) for template in templates]

    def _start(self, pipe: Any, concept: Concept) -> dict[str, nn.Parameter]:
        text = self.config.initializer or concept.class_name
        return {
            tower.key: nn.Parameter(initial_rows(pipe, tower, text, self.config.vectors))
            for tower in towers(pipe)
        }

    def _check_length(self, pipe: Any, concept: Concept, prompts: list[str]) -> None:
        """Refuse vectors that do not fit: a cut-off prompt would train on something else."""
        for tower in towers(pipe):
            tokenizer = tower.tokenizer(pipe)
            for prompt in prompts:
                others = prompt.replace(concept.placeholder, " ")
                length = len(tokenizer(others).input_ids) + self.config.vectors
                if length > tokenizer.model_max_length:
                    raise UserError(
                        f"The training sentence '{prompt}' has {length} tokens with "
                        f"{self.config.vectors} vector(s); the text encoder reads "
                        f"{tokenizer.model_max_length}. Use fewer vectors or shorter templates."
                    )

    def _fit(
        self,
        model: TextToImageModel,
        concept: Concept,
        prompts: list[str],
        rows: dict[str, nn.Parameter],
        side: int,
        folder: Path,
        seed: int,
    ) -> None:
        from framework.training.data import ConceptBatches, cache_latents
        from framework.training.loop import fit
        from framework.training.objective import Objective
        from framework.training.system import DenoisingSystem, Optimization

        config = self.config
        objective = Objective.of(model.pipe, config.min_snr)
        latents = cache_latents(
            model, concept.images, side, side, sample=config.sample_latents, mirror=config.mirror
        )
        batches = ConceptBatches(
            latents,
            prompts,
            config.batch_size,
            len(objective.alpha_bar),
            seed,
            stratified=config.stratified,
        )
        optimization = Optimization(
            config.steps,
            config.learning_rate,
            config.schedule,
            config.warmup,
            config.weight_decay,
            config.gradient_clip,
        )
        identity = self._identity(model, concept, prompts, rows, side, seed)
        system = DenoisingSystem(model, objective, rows, optimization, (side, side), identity)
        fit(
            system,
            batches,
            folder,
            label=f"learning {word_tokens(concept.placeholder, 1)[0]}",
            precision=config.precision,
            checkpoint_every=config.checkpoint_every,
            device=model.device,
        )

    def _identity(
        self,
        model: TextToImageModel,
        concept: Concept,
        prompts: list[str],
        rows: dict[str, nn.Parameter],
        side: int,
        seed: int,
    ) -> str:
        """A hash of what the result depends on; of the model's weights a few tell it apart."""
        options = asdict(self.config)
        del options["checkpoint_every"]
        digest = hashlib.sha256()
        digest.update(json.dumps([options, prompts, side, seed], sort_keys=True).encode())
        for image in concept.images:
            digest.update(image.convert("RGB").tobytes())
        for tensor in (*rows.values(), *list(model.unet.parameters())[:4]):
            digest.update(tensor.detach().float().cpu().numpy().tobytes())
        return digest.hexdigest()
