"""Named, pinned protocols: which text, which references, which preprocessing.

Papers report the same three names for numbers that differ in these; a protocol fixes them, and the
encoders stay as the configuration names them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from framework.config.evaluation import EvaluationConfig
from framework.errors import unknown_name


@dataclass(frozen=True)
class Protocol:
    """How pictures and texts reach the encoders.

    Attributes:
        name: of the protocol.
        text: which text a picture is compared with.
        references: which pictures it is compared with.
        identity: preprocessing before the identity encoder (I_DINO).
        clip: preprocessing before CLIP's image tower (I_CLIP, T_CLIP).
        options: the options of :class:`EvaluationConfig` it fixes.
    """

    name: str
    text: str
    references: str
    identity: str
    clip: str
    options: Mapping[str, object]

    def apply(self, config: EvaluationConfig) -> EvaluationConfig:
        """The configuration with what this protocol fixes."""
        return replace(config, **self.options)  # type: ignore[arg-type]


PROTOCOLS: dict[str, Protocol] = {
    "corrected": Protocol(
        name="corrected",
        text="the prompt without the placeholder: 'a photo of a dog in the snow'",
        references="all pictures of the concept; mean of all cosines (set to set)",
        identity="square crop, the encoder's own size, its own mean and deviation",
        clip="square crop, CLIP's size, its mean and deviation",
        options={
            "resize": "crop",
            "first_size": None,
            "identity_size": None,
            "identity_normalisation": "model",
            "text": "plain",
        },
    ),
    "official": Protocol(
        name="official",
        text="the template with a literal {}: 'a photo of a {} in the snow'",
        references="all pictures of the concept; mean of all cosines (set to set)",
        identity="stretched to 256 x 256, values in [-1, 1], no mean and deviation of ImageNet",
        clip="stretched to 256 x 256, then CLIP's size, mean and deviation",
        options={
            "resize": "stretch",
            "first_size": 256,
            "identity_size": 256,
            "identity_normalisation": "half",
            "text": "template",
        },
    ),
    "configured": Protocol(
        name="configured",
        text="as evaluation.text says",
        references="all pictures of the concept; mean of all cosines (set to set)",
        identity="as the section evaluation says",
        clip="as the section evaluation says",
        options={},
    ),
}


def protocol(name: str) -> Protocol:
    """A protocol by name.

    Raises:
        UserError: there is none of that name; the nearest is given.
    """
    if name not in PROTOCOLS:
        raise unknown_name("protocol", name, PROTOCOLS)
    return PROTOCOLS[name]


def protocol_table() -> str:
    """All protocols as a Markdown table."""
    head = "| protocol | text | references | identity encoder sees | CLIP sees |"
    rows = [
        f"| {p.name} | {p.text} | {p.references} | {p.identity} | {p.clip} |"
        for p in PROTOCOLS.values()
    ]
    return "\n".join([head, "| --- | --- | --- | --- | --- |", *rows]) + "\n"
