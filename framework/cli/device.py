"""Where the encoders of an evaluation run."""

from __future__ import annotations


def scoring_device() -> str:
    """A GPU where there is one."""
    from framework.backbones.loading import pick_device

    return str(pick_device("auto"))
