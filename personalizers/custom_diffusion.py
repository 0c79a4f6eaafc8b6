"""Custom Diffusion: keys and values of cross-attention, and a new word.

Kumari et al., "Multi-Concept Customization of Text-to-Image Diffusion", CVPR 2023, arXiv
2212.04488. At load the weights are merged into the network, which then runs as fast as before.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from framework.backbones.choose import backbone_of
from framework.backbones.layers import is_cross_attention
from framework.interfaces import PERSONALIZERS
from framework.options import option
from framework.training.companions import load_folder
from framework.training.copies import replace_parameter, shared_copy, swap
from framework.training.formats.custom_diffusion import (
    WEIGHTS,
    merged_networks,
    read_custom,
    write_custom,
)
from framework.training.formats.recognise import CUSTOM_DIFFUSION, located
from framework.training.new_word import NewWordConfig, NewWordPersonalizer
from framework.training.options import PriorConfig
from framework.training.words import add_words
from framework.types import Concept


@dataclass
class CustomDiffusionConfig(PriorConfig, NewWordConfig):
    """Options of Custom Diffusion; the defaults are the paper's."""

    steps: int = option(250, "updates", low=1)
    learning_rate: float = option(1e-5, "of AdamW, at its peak", low=0.0)
    word_learning_rate: float | None = option(
        None, "of the new word's embedding; null: the same", low=0.0
    )
    templates: list[str] = option(["custom"], "sets such as 'custom', or sentences with {}")
    queries: bool = option(False, "also train cross-attention's queries and outputs")
    random_resize: bool = option(
        True, "show pictures in several sizes, with words for them, the loss inside them alone"
    )
    prior_images: int = option(200, "how many class images", low=1)
    prior_template: str = option("photo of a {}", "their prompt; {} is the class name")


@PERSONALIZERS.register("custom_diffusion")
class CustomDiffusion(NewWordPersonalizer):
    """Trains cross-attention's keys and values and the embedding of a new word."""

    Config = CustomDiffusionConfig
    formats = (CUSTOM_DIFFUSION,)
    replaces = True

    def word_rate(self) -> float | None:
        """See the base class."""
        return self.config.word_learning_rate

    @contextmanager
    def prepared(self, pipe: Any, concept: Concept, seed: int) -> Iterator[dict[str, nn.Parameter]]:
        """A copy of the network with trained projections, and new rows; see the base class."""
        rows = self.start(pipe, concept)
        backbone = backbone_of(pipe)
        network = shared_copy(backbone.network)
        trained: dict[str, nn.Parameter] = {}
        for name in projections(network, self.config.queries):
            value = network.get_parameter(name).detach().float().clone()
            trained[name] = replace_parameter(network, name, value)
            trained[name].requires_grad_()
        undo = swap(pipe, {backbone.component: network}, "training")
        try:
            restore = add_words(pipe, concept.placeholder, rows, trained=True)
            try:
                words = {f"text_encoder.{key}": row for key, row in rows.items()}
                yield trained | words
            finally:
                restore()
        finally:
            undo()

    def write(
        self, pipe: Any, concept: Concept, folder: Path, trained: dict[str, nn.Parameter]
    ) -> Path:
        """``pytorch_custom_diffusion_weights.bin`` and ``<word>.bin``, as diffusers' script."""
        prefix = "text_encoder."
        rows = {k.removeprefix(prefix): v for k, v in trained.items() if k.startswith(prefix)}
        weights = {k: v for k, v in trained.items() if not k.startswith(prefix)}
        word: Any = next(iter(rows.values())) if len(rows) == 1 else rows
        write_custom(folder, backbone_of(pipe).network, weights, {concept.placeholder: word})
        return folder / WEIGHTS

    def load(self, pipe: Any, path: Path, concept: Concept) -> Callable[[], None]:
        """Merge weights into a copy of the network; add the word as the concept's placeholder.

        A file of several words keeps their names; the concept's placeholder must be one of them.

        Args:
            pipe: a pipeline of the family they were trained for.
            path: diffusers' file or its folder, or the original ``delta.bin``, compressed or not.
            concept: names the placeholder.

        Returns:
            A function that restores the pipeline; several concepts are taken out in reverse order.

        Raises:
            UserError: the file is missing, damaged or for another model, or the placeholder is
                taken.
        """
        found = located(Path(path), CUSTOM_DIFFUSION)
        weights = read_custom(found.path)
        what = f"'{concept.placeholder}'"
        return load_folder(
            pipe,
            found,
            concept,
            [lambda: swap(pipe, merged_networks(pipe, found.path, weights), what)],
            [found.path] if weights.has_words else [],
        )


def projections(network: nn.Module, queries: bool) -> list[str]:
    """Names of the cross-attention weights that are trained.

    Args:
        network: the denoising network.
        queries: also those of queries and outputs.
    """
    wanted = ("to_k.", "to_v.") + (("to_q.", "to_out.0.") if queries else ())
    return [
        f"{path}.{name}"
        for path, layer in network.named_modules()
        if is_cross_attention(layer)
        for name, _ in layer.named_parameters()
        if name.startswith(wanted)
    ]
