"""A matcher around another one."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from framework.interfaces import Backbone, FeatureExtractor, Matcher
from framework.interfaces.step import StepContext
from framework.options import build
from framework.types import Correspondence, Features, Masks

#: What the wrapper has in common with the matcher inside.
SHARED = (
    "needs_features",
    "needs_views",
    "needs_truth",
    "views_every",
    "history",
    "width",
    "differentiable",
    "invariant",
)


class Wrapper(Matcher):
    """Base of matchers whose option ``matcher`` is another matcher.

    A subclass declares ``correspond``, which calls ``self.inner(features, masks, views)``.
    """

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.inner: Matcher = build("matcher", self.config.matcher)
        for name in SHARED:
            setattr(self, name, getattr(self.inner, name))

    def prepare(self) -> None:
        """See :meth:`framework.interfaces.Matcher.prepare`."""
        self.inner.prepare()

    def check_extractor(self, extractor: FeatureExtractor, backbone: Backbone) -> None:
        """See :meth:`framework.interfaces.Matcher.check_extractor`."""
        self.inner.check_extractor(extractor, backbone)

    def begin_step(self, context: StepContext) -> None:
        """See :meth:`framework.interfaces.Matcher.begin_step`."""
        self.inner.begin_step(context)

    def match(self, target: Tensor, reference: Tensor, masks: Masks) -> Correspondence:
        """See :meth:`framework.interfaces.Matcher.match`."""
        return self.correspond(Features(target, reference), masks, None)
