"""Options of the evaluation: which encoders look at the pictures, and how pictures reach them."""

from __future__ import annotations

from dataclasses import dataclass

from framework.options import PartConfig, option

RESIZE = ("crop", "stretch")
NORMALISATIONS = ("model", "half")
TEXTS = ("plain", "template")


@dataclass
class EvaluationConfig(PartConfig):
    """The encoders that judge pictures, and how pictures and prompts are handed to them."""

    clip: str = option("package:framework.toyworld/weights/clip", "CLIP: folder or hub name")
    identity: str = option(
        "package:framework.toyworld/weights/identity",
        "timm or transformers model that tells objects apart: folder or name",
    )
    resize: str = option("crop", "how a picture that is not square is made so", choices=RESIZE)
    first_size: int | None = option(
        None, "side in pixels every picture is first stretched to; null: none", low=16
    )
    identity_size: int | None = option(
        None, "side in pixels the identity encoder sees; null: its own", low=16
    )
    identity_normalisation: str = option(
        "model",
        "colours of its input: the model's own mean and deviation, or [-1, 1] ('half')",
        choices=NORMALISATIONS,
    )
    text: str = option(
        "plain",
        "text scored: the prompt without the placeholder, or its template with a literal {}",
        choices=TEXTS,
    )
    lpips: str | None = option(
        None, "backbone of LPIPS: alex, squeeze, vgg; null: one in torch.hub's cache, if any"
    )
    batch_size: int = option(32, "pictures or texts encoded together", low=1)
