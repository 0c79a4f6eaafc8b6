"""DreamBooth with LoRA: low-rank updates of attention in place of whole weights.

Ruiz et al. 2023 (DreamBooth) with the adapters of Hu et al., "LoRA", ICLR 2022, arXiv 2106.09685.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from framework.backbones.choose import backbone_of
from framework.errors import UserError
from framework.interfaces import PERSONALIZERS
from framework.options import option
from framework.training.companions import load_folder, with_bundled
from framework.training.copies import shared_copy, swap
from framework.training.formats.adapters import adapters, inject
from framework.training.formats.lora import FILE, load_lora, write_lora
from framework.training.formats.recognise import LORA, located
from framework.training.identifier import IdentifierConfig, IdentifierPersonalizer
from framework.training.words import towers
from framework.types import Concept

ADAPTER = "learned"
TEXT_TARGETS = ("q_proj", "k_proj", "v_proj", "out_proj")


@dataclass
class DreamBoothLoraConfig(IdentifierConfig):
    """Options of DreamBooth with LoRA; the defaults are diffusers' example's."""

    steps: int = option(500, "updates", low=1)
    learning_rate: float = option(1e-4, "of AdamW, at its peak", low=0.0)
    rank: int = option(4, "of every update", low=1)
    alpha: float | None = option(None, "updates are scaled by alpha / rank; null: rank", low=0.0)
    targets: list[str] = option(
        ["to_q", "to_k", "to_v", "to_out.0"], "ends of the network's layer names"
    )
    scale: float = option(1.0, "factor on the updates when they are loaded")
    merge: bool = option(True, "loading merges into the weights; false: keeps adapters apart")


@PERSONALIZERS.register("dreambooth_lora")
class DreamBoothLora(IdentifierPersonalizer):
    """Trains low-rank updates of the network's attention, and of the text encoder's if wanted."""

    Config = DreamBoothLoraConfig
    formats = (LORA,)

    def check(self, pipe: Any, concept: Concept) -> None:
        """See the base class; also refuse targets that name no layer."""
        super().check(pipe, concept)
        network = backbone_of(pipe).network
        names = [name for name, layer in network.named_modules() if _adaptable(layer)]
        for target in self.config.targets:
            if not any(name == target or name.endswith(f".{target}") for name in names):
                raise UserError(
                    f"personalizer.targets has '{target}', which ends the name of no linear or "
                    f"convolution layer of this network; it has e.g. {', '.join(names[:3])}."
                )
        if not self.config.targets:
            raise UserError("personalizer.targets is empty; give e.g. [to_k, to_v].")

    @contextmanager
    def prepared(self, pipe: Any, concept: Concept, seed: int) -> Iterator[dict[str, nn.Parameter]]:
        """Copies of the networks with adapters; see the base class."""
        from peft import LoraConfig

        config, backbone = self.config, backbone_of(pipe)
        alpha = config.rank if config.alpha is None else config.alpha

        def adapted(network: Any, targets: list[str]) -> Any:
            copied = shared_copy(network)
            lora = LoraConfig(
                r=config.rank,
                lora_alpha=alpha,
                init_lora_weights="gaussian",
                target_modules=targets,
            )
            inject(copied, lora, ADAPTER)
            return copied

        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            parts = {backbone.component: adapted(backbone.network, config.targets)}
            if config.train_text_encoder:
                for tower in towers(pipe):
                    parts[tower.encoder_name] = adapted(tower.encoder(pipe), list(TEXT_TARGETS))
        trained = {}
        for name, part in parts.items():
            for path, parameter in part.named_parameters():
                if "lora_" in path:
                    parameter.data = parameter.data.float()
                    trained[f"{name}.{path}"] = parameter.requires_grad_()
        undo = swap(pipe, parts, "training")
        try:
            yield trained
        finally:
            undo()

    def write(
        self, pipe: Any, concept: Concept, folder: Path, trained: dict[str, nn.Parameter]
    ) -> Path:
        """``pytorch_lora_weights.safetensors``, which ``pipe.load_lora_weights`` loads too."""
        backbone = backbone_of(pipe)
        parts = {backbone.component: adapters(backbone.network, ADAPTER)}
        if self.config.train_text_encoder:
            for tower in towers(pipe):
                parts[tower.encoder_name] = adapters(tower.encoder(pipe), ADAPTER)
        return write_lora(pipe, folder / FILE, parts)

    def load(self, pipe: Any, path: Path, concept: Concept) -> Callable[[], None]:
        """Add updates to copies of the networks.

        Args:
            pipe: a pipeline of the family they were trained for.
            path: a file or folder by any program (diffusers, kohya, LyCORIS, peft); words learned
                with the updates (pivotal tuning) are loaded, too.
            concept: its name names the adapter, its placeholder the word, if there is one.

        Returns:
            A function that restores the pipeline; several concepts are taken out in reverse order.

        Raises:
            UserError: the file is missing, damaged or for another model.
        """
        found, config = located(Path(path), LORA), self.config

        def add() -> Callable[[], None]:
            return load_lora(pipe, found.path, concept.name, scale=config.scale, merge=config.merge)

        return load_folder(pipe, found, concept, [add], with_bundled(found.path))


def _adaptable(layer: nn.Module) -> bool:
    return isinstance(layer, nn.Linear | nn.Conv2d)
