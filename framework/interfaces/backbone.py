"""Backbone: a pipeline of one model family -> the calls that sampling and training need."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from framework.errors import UserError
from framework.interfaces.condition import Condition, TokenSequence, clip_sequence
from framework.interfaces.finite import require_finite
from framework.interfaces.layers import Attend, MapObserver, resolve
from framework.interfaces.schedule import Schedule
from framework.registry import Registry


class Backbone(ABC):
    """One diffusers pipeline, seen through the calls that sampling and training need.

    What differs between model families is in a subclass of this and nowhere else: how prompts are
    encoded, what the denoising network is called and given, where its attention layers are and what
    they compute, how pictures become latents, which noise levels sampling passes. The pipeline is
    used, never changed. A family joins by registering such a class with
    ``@BACKBONES.register("name")``; it is found by the class of the pipeline.

    What a subclass declares: :attr:`label`, :attr:`pipelines`, and the abstract methods. Its
    constructor refuses pipelines that would fail later.

    Args:
        pipe: the pipeline.

    Raises:
        UserError: the pipeline cannot be used.
    """

    name: ClassVar[str] = ""
    #: The family in words, for messages.
    label: ClassVar[str] = ""
    #: Class names of its pipelines, as ``model_index.json`` has them.
    pipelines: ClassVar[tuple[str, ...]] = ()
    #: The pipeline's component that denoises.
    component: ClassVar[str] = ""

    def __init__(self, pipe: Any) -> None:
        self.pipe = pipe

    @classmethod
    def serves(cls, pipe: Any) -> bool:
        """Whether a pipeline is of this family: of a class in :attr:`pipelines`."""
        return any(base.__name__ in cls.pipelines for base in type(pipe).__mro__)

    @classmethod
    def load(cls, source: str, **options: Any) -> Any:
        """Load a pipeline from a folder or hub name; options are those of ``from_pretrained``."""
        import diffusers

        # The class itself knows which parts may be left out; DiffusionPipeline does not.
        name = diffusers.DiffusionPipeline.load_config(source).get("_class_name")
        own = getattr(diffusers, str(name), diffusers.DiffusionPipeline)
        return own.from_pretrained(source, **options)

    def describe(self) -> str:
        """The pipeline in words, for messages."""
        return f"This {type(self.pipe).__name__}"

    # ---------------------------------------------------------------- the networks

    @property
    def network(self) -> nn.Module:
        """The denoising network."""
        return getattr(self.pipe, self.component)

    @property
    def device(self) -> torch.device:
        """Device the network computes on."""
        return next(self.network.parameters()).device

    @property
    def dtype(self) -> torch.dtype:
        """Type the network computes in."""
        return next(p.dtype for p in self.network.parameters() if p.is_floating_point())

    @property
    def tokenizer(self) -> Any:
        """Tokenizer of the text that the network's attention reads."""
        return self.pipe.tokenizer

    @property
    def text_encoders(self) -> list[nn.Module]:
        """Every text encoder."""
        names = sorted(name for name in self.pipe.components if name.startswith("text_encoder"))
        encoders = [getattr(self.pipe, name) for name in names]
        return [encoder for encoder in encoders if encoder is not None]

    # ---------------------------------------------------------------- sizes

    @property
    @abstractmethod
    def channels(self) -> int:
        """Channels C of a latent, as :meth:`denoise` takes it."""

    @property
    @abstractmethod
    def image_size(self) -> int:
        """Native image side in pixels."""

    @abstractmethod
    def latent_size(self, height: int, width: int) -> tuple[int, int]:
        """Latent grid (h, w) of an image.

        Raises:
            UserError: a side is not a positive multiple of the model's pixel step.
        """

    # ---------------------------------------------------------------- text

    @property
    def sequences(self) -> list[TokenSequence]:
        """What the tokens of :attr:`Condition.embeds` are, in their order; by default CLIP's."""
        return [clip_sequence(self.pipe, self.tokenizer)]

    @abstractmethod
    def encode_prompt(self, prompt: str, height: int, width: int) -> tuple[Condition, Condition]:
        """Conditional and unconditional (empty prompt) condition of one prompt, one row each; no
        gradient."""

    @abstractmethod
    def encode_texts(
        self, prompts: Sequence[str], height: int, width: int, frames: Tensor | None = None
    ) -> Condition:
        """Condition of some prompts, one row each, through which gradients flow.

        Args:
            prompts: b sentences.
            height: of the pictures in pixels.
            width: likewise.
            frames: height and width of each original picture, top and left of what is seen of it,
                (b, 4), in pixels; None: whole pictures. For families that are told.
        """

    def encode_plain(self, prompt: str, height: int, width: int) -> Condition:
        """Condition of a prompt as a text of its own; the empty prompt included.

        That is the unconditional half of sampling, also where it is another (SDXL's are zeros).
        """
        conditional, unconditional = self.encode_prompt(prompt, height, width)
        return unconditional if prompt == "" else conditional

    # ---------------------------------------------------------------- latents

    @abstractmethod
    def denoise(self, latents: Tensor, timestep: Tensor | float, condition: Condition) -> Tensor:
        """One evaluation of the network, (rows, C, h, w) -> (rows, C, h, w), in the checkpoint's
        prediction type.

        Args:
            latents: noisy latents as a grid, however the network packs them.
            timestep: diffusion time, one for all rows or (rows,).
            condition: of the rows.
        """

    @abstractmethod
    def posterior(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """Scaled mean and standard deviation of a picture's latent, float32 on the CPU.

        Args:
            image: (1, 3, H_px, W_px) in [-1, 1].

        Returns:
            Two tensors (1, C, h, w); the deviation is 0 where the encoder is deterministic.
        """

    @abstractmethod
    def encode_image(self, image: Tensor) -> Tensor:
        """Image (1, 3, H_px, W_px) in [-1, 1] -> scaled posterior mean z0, (1, C, h, w)."""

    @abstractmethod
    def decode(self, latents: Tensor) -> Tensor:
        """Latents (n, C, h, w) -> images (n, 3, H_px, W_px), about [-1, 1], one by one so that an
        image does not depend on the batch and memory stays that of one image."""

    def to_output(self, latents: Tensor, output_type: str) -> Any:
        """Latents (n, C, h, w) -> what ``output_type`` names, all finite; see
        :class:`framework.types.SamplerOutput`."""
        self.require_finite(latents, self.network, "The denoised latents")
        if output_type == "latent":
            return latents
        with torch.no_grad():
            images = self.decode(latents)
        return self.pipe.image_processor.postprocess(images.detach(), output_type=output_type)

    def require_finite(self, tensor: Tensor, network: nn.Module, what: str) -> Tensor:
        """Refuse values (any shape) that are not finite, with the likely cause."""
        return require_finite(tensor, network, what, self.dtype)

    # ---------------------------------------------------------------- sampling

    @abstractmethod
    def schedule(
        self,
        steps: int,
        size: tuple[int, int],
        scheduler: str = "keep",
        spacing: str | None = None,
        options: Mapping[str, Any] | None = None,
    ) -> Schedule:
        """Noise levels and scheduler of sampling; the pipeline's own scheduler is left alone.

        Args:
            steps: how many steps.
            size: height and width in pixels, for families whose levels depend on it.
            scheduler: a diffusers class name, or ``keep`` for the pipeline's.
            spacing: how the steps are spaced; None is the scheduler's own.
            options: of the scheduler's constructor.

        Raises:
            UserError: the scheduler cannot be followed, or takes no such options or steps.
        """

    # ---------------------------------------------------------------- layers

    @abstractmethod
    def self_attentions(self, patterns: Sequence[str], what: str = "injector.layers") -> list[str]:
        """Paths of layers in which image cells attend to one another, in their order.

        Args:
            patterns: regular expressions, each on a whole path.
            what: the option they come from, for messages.

        Raises:
            UserError: a pattern is no regular expression, or matches no such layer.
        """

    @abstractmethod
    def text_attentions(self, patterns: Sequence[str], what: str = "mask.layers") -> list[str]:
        """Paths of layers in which image cells attend to the text; see :meth:`self_attentions`."""

    @abstractmethod
    def attending(self, layers: Sequence[str], attend: Attend) -> AbstractContextManager[None]:
        """While it lasts somebody decides what self-attention layers give.

        Every evaluation of the network has to ask for every layer, else it is refused: injection
        without effect must not pass for the baseline.

        Args:
            layers: paths that :meth:`self_attentions` gave.
            attend: called once a layer and evaluation; the layer's own text, if it has any,
                attends as it would.

        Raises:
            UserError: a layer does what cannot be stood in for.
        """

    @abstractmethod
    def tapped(self, layers: Sequence[str], observer: MapObserver) -> AbstractContextManager[None]:
        """While it lasts somebody looks at the attention that image cells pay to the text.

        Several may look at one layer.

        Args:
            layers: paths that :meth:`text_attentions` gave.
            observer: is asked before, and handed the maps.
        """

    @abstractmethod
    def detached_attention(self) -> AbstractContextManager[None]:
        """While it lasts gradients are cut at the output of every attention layer."""

    def modules(self, patterns: Sequence[str], what: str) -> dict[str, nn.Module]:
        """Any modules of the network by path; see :meth:`self_attentions`."""
        return resolve(self.network, patterns, lambda module: True, what)

    def to_grid(self, path: str, output: Any, what: str) -> Tensor:
        """What a module gave as a grid of image cells, (rows, channels, H, W).

        Args:
            path: the module's, for families whose modules give the image in several ways.
            output: what it returned in the evaluation that has just run.
            what: the option that names it, for messages.

        Raises:
            UserError: it is no grid.
        """
        tensor = output[0] if isinstance(output, tuple) else output
        if not isinstance(tensor, Tensor) or tensor.dim() != 4:
            shape = tuple(getattr(tensor, "shape", ())) or type(tensor).__name__
            raise UserError(
                f"{what}: '{path}' returns shape {shape}; expected (rows, channels, H, W): name a "
                "block, a resnet or an attention block."
            )
        return tensor


BACKBONES = Registry(
    "backbone", "framework.backbones", Backbone, "pipeline → the network's calls", section=False
)
