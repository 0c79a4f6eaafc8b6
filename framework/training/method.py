"""What the trained personalizers share: checks, data, the loop, resuming, the finished note.

A method derives from :class:`TrainedPersonalizer` and says what is trained and how it is written;
everything else is here once.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from abc import abstractmethod
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import nn

from framework.backbones.choose import backbone_of
from framework.concepts.folders import write_concept_file
from framework.concepts.text import SLOT
from framework.errors import UserError
from framework.interfaces import Backbone, Personalizer
from framework.runs.atomic import write_atomic
from framework.training.options import WATCHING, PriorConfig, TrainingConfig
from framework.training.templates import expand_templates, usable_templates
from framework.training.words import check_known, towers
from framework.types import Concept

NOTE = "training.json"


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
        self._check_length(pipe, concept, [f"{a} {b}".strip() for a in notes for b in prompts])

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
        done = _finished(folder, identity)
        if done is not None:
            return done
        precision = loop.choose_precision(self.config.precision, model.dtype, model.device)
        prior = self._prior(pipe, concept, folder, seed)
        with (
            loop.frozen(loop.networks(pipe)),
            self.prepared(pipe, concept, seed) as trained,
            _lean(model.network, self.config.gradient_checkpointing),
        ):
            self._fit(model, concept, prompts, trained, prior, folder, seed, identity, precision)
            if not loop.is_main(self.config.devices):
                return folder
            path = self.write(pipe, concept, folder, trained)
        write_concept_file(folder, concept.class_name, concept.placeholder, concept.name)
        said = {"identity": identity, "file": path.relative_to(folder).as_posix()}
        write_atomic(folder / NOTE, json.dumps(said, indent=2) + "\n")
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

    def _check_length(self, pipe: Any, concept: Concept, prompts: list[str]) -> None:
        """Refuse words that do not fit: a cut-off prompt would train on something else."""
        for tower in towers(pipe):
            tokenizer = tower.tokenizer(pipe)
            for prompt in prompts:
                length = len(tokenizer(prompt).input_ids)
                if self.extra_tokens:  # the placeholder is no word yet
                    others = prompt.replace(concept.placeholder, " ")
                    length = len(tokenizer(others).input_ids) + self.extra_tokens
                if length > tokenizer.model_max_length:
                    vectors = f" with {self.extra_tokens} vector(s)" if self.extra_tokens else ""
                    raise UserError(
                        f"The training sentence '{prompt}' has {length} tokens{vectors}; the text "
                        f"encoder reads {tokenizer.model_max_length}. Use fewer vectors or shorter "
                        "templates."
                    )

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
        folder: Path,
        seed: int,
        identity: str,
        precision: str,
    ) -> None:
        from framework.training.callbacks import Previews
        from framework.training.data import ConceptBatches, cache_latents
        from framework.training.loop import Recording, fit
        from framework.training.objective import Objective
        from framework.training.system import DenoisingSystem, Optimization
        from framework.training.views import RANDOM_SIZES

        config, side = self.config, self._side(model)
        objective = Objective.of(model.pipe, config.min_snr, config.prediction)
        latents = cache_latents(
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
        batches = ConceptBatches(
            latents,
            prompts,
            config.batch_size,
            len(objective.alpha_bar),
            seed,
            stratified=config.stratified,
            prior=prior,
        )
        optimization = Optimization(
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
        previews = None
        if config.preview_every is not None:
            shown = [text.replace(SLOT, concept.phrase) for text in config.preview_prompts]
            previews = Previews(
                folder / "previews",
                config.preview_every,
                shown,
                config.preview_steps,
                config.preview_guidance,
            )
        recording = Recording(
            f"learning {concept.placeholder.split(' ')[0]}",
            config.checkpoint_every,
            1 if self.large else config.keep_checkpoints,
            config.logger,
            config.log_every,
            previews,
        )
        fit(
            DenoisingSystem(model, objective, trained, optimization, (side, side), identity),
            batches,
            folder,
            recording,
            precision=precision,
            device=model.device,
            devices=config.devices,
        )

    def _identity(self, model: Backbone, concept: Concept, prompts: list[str], seed: int) -> str:
        """A hash of what the result depends on; of the model's weights a few tell it apart."""
        options = {k: v for k, v in asdict(self.config).items() if k not in WATCHING}
        said = [type(self).__name__, options, prompts, self._side(model), seed]
        digest = hashlib.sha256(json.dumps(said, sort_keys=True).encode())
        for image in concept.images:
            digest.update(f"{image.size}".encode() + image.convert("RGB").tobytes())
        encoders = [
            tower.encoder(model.pipe).get_input_embeddings() for tower in towers(model.pipe)
        ]
        tensors = [encoder.weight for encoder in encoders] + list(model.network.parameters())[:4]
        for tensor in tensors:
            digest.update(tensor.detach().float().cpu().numpy().tobytes())
        return digest.hexdigest()


@contextmanager
def _lean(network: Any, enabled: bool) -> Iterator[None]:
    """Gradient checkpointing while the context lasts."""
    changes = enabled and not network.is_gradient_checkpointing
    if changes:
        network.enable_gradient_checkpointing()
    try:
        yield
    finally:
        if changes:
            network.disable_gradient_checkpointing()


def _finished(folder: Path, identity: str) -> Path | None:
    """The result of an identical training that has ended here.

    Raises:
        UserError: another training has ended here.
    """
    try:
        said = json.loads((folder / NOTE).read_text(encoding="utf-8"))
        found, file = str(said["identity"]), folder / str(said["file"])
    except (OSError, ValueError, KeyError, TypeError):
        return None
    if found != identity:
        raise UserError(
            f"{folder} holds the weights of another training (other options, pictures, seed or "
            "model). Choose another output folder, or remove that one."
        )
    return file if file.exists() else None
