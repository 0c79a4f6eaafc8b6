"""What the trained personalizers share: checks, data, the loop, resuming, the finished note.

A method derives from :class:`TrainedPersonalizer` and says what is trained and how it is written;
everything else is here once.
"""

from __future__ import annotations

import shutil
from abc import abstractmethod
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import nn

from framework.backbones.choose import backbone_of
from framework.concepts.folders import write_concept_file
from framework.concepts.text import SLOT
from framework.errors import UserError
from framework.interfaces import Backbone, Personalizer
from framework.training.finished import finished, note_finished, training_identity
from framework.training.lean import lean
from framework.training.options import WATCHING, PriorConfig, TrainingConfig
from framework.training.templates import expand_templates, usable_templates
from framework.training.words import check_known, check_lengths, towers
from framework.types import Concept


@dataclass(frozen=True)
class _Run:
    """One training: where it writes, its seed, what it depends on, how it computes."""

    folder: Path
    seed: int
    identity: str
    precision: str


class TrainedPersonalizer(Personalizer):
    """A method that minimises the denoising loss of a few pictures.

    What a subclass declares:

    * ``Config``, derived from :class:`framework.training.options.TrainingConfig` (or
      :class:`~framework.training.options.PriorConfig` for prior preservation);
    * :meth:`prepared`, a context in which the pipeline carries the trained parameters;
    * :meth:`write`, the weights in the format diffusers loads; and :meth:`load`;
    * :meth:`check_words`, and ``large = True`` if its checkpoints are as large as a model.
    """

    Config: ClassVar[type] = TrainingConfig
    #: Whether weights of networks are trained, which needs float32 or autocast throughout.
    trains_networks: ClassVar[bool] = True
    #: Whether checkpoints are removed when training has finished, for their size.
    large: ClassVar[bool] = False
    #: Tokens one placeholder takes in a prompt beyond its own.
    extra_tokens: int = 0

    # ---------------------------------------------------------------- what a method declares

    @abstractmethod
    def prepared(
        self, pipe: Any, concept: Concept, seed: int
    ) -> AbstractContextManager[dict[str, nn.Parameter]]:
        """Install what is trained; on leaving, the pipeline is as it was.

        Args:
            pipe: the pipeline, every network frozen and in evaluation mode.
            concept: the concept.
            seed: of start values.

        Returns:
            A context whose value is the trained float32 parameters by name. Names of parameters in
            a text encoder begin with ``text_encoder``.
        """

    @abstractmethod
    def write(
        self, pipe: Any, concept: Concept, folder: Path, trained: dict[str, nn.Parameter]
    ) -> Path:
        """Write what was learned, inside :meth:`prepared`'s context; returns its path."""

    @abstractmethod
    def check_words(self, pipe: Any, concept: Concept) -> None:
        """Refuse a placeholder that this method cannot use.

        Raises:
            UserError: with what to choose instead.
        """

    # ---------------------------------------------------------------- Personalizer

    def check(self, pipe: Any, concept: Concept) -> None:
        """Refuse words, a size, a precision or devices that cannot be used."""
        from framework.runs.loggers import check_logger
        from framework.training.loop import check_devices, choose_precision
        from framework.training.objective import Objective

        config, model = self.config, backbone_of(pipe)
        side = config.resolution or model.image_size
        model.latent_size(side, side)
        self.check_words(pipe, concept)
        check_known(pipe, concept.class_name, "The class name")
        Objective.of(pipe, prediction=config.prediction)
        precision = choose_precision(config.precision, model.dtype, model.device)
        if precision == "32" and model.dtype != torch.float32 and self.trains_networks:
            raise UserError(
                f"The weights are {str(model.dtype).removeprefix('torch.')} and training is to be "
                "in 32 bits. Load them with model.dtype=float32, or use "
                "personalizer.precision=bf16."
            )
        check_devices(config.devices, model.device)
        check_logger(config.logger, "personalizer.logger")
        notes = ["", *(text for texts in self._notes(pipe) for text in texts)]
        prompts = self.prompts(pipe, concept)
        texts = [f"{a} {b}".strip() for a in notes for b in prompts]
        check_lengths(pipe, texts, concept.placeholder, self.extra_tokens)

    def train(self, pipe: Any, concept: Concept, folder: Path, *, seed: int = 0) -> Path:
        """Learn the concept; goes on from the folder's checkpoints if there are any.

        The folder gets the weights, ``concept.yaml``, ``checkpoints/`` and ``logs/``, and what the
        options ask for. A training that has finished there is not done again.

        Raises:
            UserError: words or pictures cannot be used, training diverges, the disk is full, or the
                folder holds another training.
        """
        from framework.training import loop  # Lightning takes seconds to import

        self.check(pipe, concept)
        folder, model = Path(folder), backbone_of(pipe)
        prompts = self.prompts(pipe, concept)
        identity = self._identity(model, concept, prompts, seed)
        done = finished(folder, identity)
        if done is not None:
            return done
        precision = loop.choose_precision(self.config.precision, model.dtype, model.device)
        prior = self._prior(pipe, concept, folder, seed)
        with (
            loop.frozen(loop.networks(pipe)),
            self.prepared(pipe, concept, seed) as trained,
            lean(model.network, self.config.gradient_checkpointing),
        ):
            run = _Run(folder, seed, identity, precision)
            self._fit(model, concept, prompts, trained, prior, run)
            if not loop.is_main(self.config.devices):
                return folder
            path = self.write(pipe, concept, folder, trained)
        write_concept_file(folder, concept.class_name, concept.placeholder, concept.name)
        note_finished(folder, identity, path)
        if self.large:
            shutil.rmtree(folder / "checkpoints", ignore_errors=True)
        return path

    def word_rate(self) -> float | None:
        """Learning rate of what is trained in the text encoder; None: as everything else's."""
        return None

    def prompts(self, pipe: Any, concept: Concept) -> list[str]:
        """Every training sentence, the concept filled in."""
        tokenizers = [tower.tokenizer(pipe) for tower in towers(pipe)]
        templates = usable_templates(expand_templates(self.config.templates), tokenizers)
        phrase = concept.phrase if self.config.with_class else concept.placeholder
        return [template.replace(SLOT, phrase) for template in templates]

    # ---------------------------------------------------------------- inside

    def _side(self, model: Backbone) -> int:
        return self.config.resolution or model.image_size

    def _notes(self, pipe: Any) -> tuple[list[str], list[str]]:
        """Words for pictures shown small and large; none without ``random_resize``."""
        from framework.training.views import known_notes

        if not self.config.random_resize:
            return [], []
        return known_notes([tower.tokenizer(pipe) for tower in towers(pipe)])

    def _prior(self, pipe: Any, concept: Concept, folder: Path, seed: int) -> Any:
        """Latents of class images, or None."""
        from framework.training.data import Prior, cache_latents
        from framework.training.prior import class_images, class_prompt

        config = self.config
        if not isinstance(config, PriorConfig) or not config.prior:
            return None
        images = class_images(pipe, concept, config, folder, seed)
        model = backbone_of(pipe)
        side = self._side(model)
        return Prior(
            cache_latents(model, images, side, side, sample=config.sample_latents),
            class_prompt(config, concept),
            config.prior_batch or config.batch_size,
            config.prior_weight,
        )

    def _fit(
        self,
        model: Backbone,
        concept: Concept,
        prompts: list[str],
        trained: dict[str, nn.Parameter],
        prior: Any,
        run: _Run,
    ) -> None:
        from framework.training.data import ConceptBatches
        from framework.training.loop import fit
        from framework.training.objective import Objective
        from framework.training.system import DenoisingSystem

        config, side = self.config, self._side(model)
        objective = Objective.of(model.pipe, config.min_snr, config.prediction)
        batches = ConceptBatches(
            self._latents(model, concept, run.seed),
            prompts,
            config.batch_size,
            len(objective.alpha_bar),
            run.seed,
            stratified=config.stratified,
            prior=prior,
        )
        size = (side, side)
        fit(
            DenoisingSystem(model, objective, trained, self._optimization(), size, run.identity),
            batches,
            run.folder,
            self._recording(concept, run.folder),
            precision=run.precision,
            device=model.device,
            devices=config.devices,
        )

    def _latents(self, model: Backbone, concept: Concept, seed: int) -> Any:
        """The pictures as latents, in every size and crop that is shown."""
        from framework.training.data import cache_latents
        from framework.training.views import RANDOM_SIZES

        config, side = self.config, self._side(model)
        return cache_latents(
            model,
            concept.images,
            side,
            side,
            sample=config.sample_latents,
            mirror=config.mirror,
            crop=config.crop,
            seed=seed,
            sizes=RANDOM_SIZES if config.random_resize else 1,
            notes=self._notes(model.pipe),
        )

    def _optimization(self) -> Any:
        from framework.training.system import Optimization

        config = self.config
        return Optimization(
            config.steps,
            config.learning_rate,
            config.schedule,
            config.warmup,
            config.weight_decay,
            config.gradient_clip,
            self.word_rate(),
            config.ema,
            config.accumulate,
        )

    def _recording(self, concept: Concept, folder: Path) -> Any:
        """What is kept and shown while training goes on."""
        from framework.training.callbacks import Previews
        from framework.training.loop import Recording

        config, previews = self.config, None
        if config.preview_every is not None:
            shown = [text.replace(SLOT, concept.phrase) for text in config.preview_prompts]
            previews = Previews(
                folder / "previews",
                config.preview_every,
                shown,
                config.preview_steps,
                config.preview_guidance,
            )
        return Recording(
            f"learning {concept.placeholder.split(' ')[0]}",
            config.checkpoint_every,
            1 if self.large else config.keep_checkpoints,
            config.logger,
            config.log_every,
            previews,
        )

    def _identity(self, model: Backbone, concept: Concept, prompts: list[str], seed: int) -> str:
        options = {k: v for k, v in asdict(self.config).items() if k not in WATCHING}
        said = [type(self).__name__, options, prompts, self._side(model), seed]
        return training_identity(model, concept, said)
