"""The former names of what stands in choose and in interfaces."""

from __future__ import annotations

from framework.backbones.choose import backbone_of as TextToImageModel
from framework.interfaces.backbone import Condition

__all__ = ["Condition", "TextToImageModel"]
