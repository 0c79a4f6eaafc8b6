"""A matcher around another one."""

from __future__ import annotations

from typing import Any

from framework.interfaces import Backbone, BaseMatcher, FeatureExtractor
from framework.interfaces.step import StepContext
from framework.options import build


class Wrapper(BaseMatcher):
    """Base of matchers whose option ``matcher`` is another matcher.

    A subclass declares ``correspond``, which calls ``self.inner(features, masks, views)``.
    """

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.inner: BaseMatcher = build("matcher", self.config.matcher)
        self.needs, self.promises = self.inner.needs, self.inner.promises

    def prepare(self) -> None:
        """See :meth:`framework.interfaces.BaseMatcher.prepare`."""
        self.inner.prepare()

    def check_extractor(self, extractor: FeatureExtractor, backbone: Backbone) -> None:
        """See :meth:`framework.interfaces.BaseMatcher.check_extractor`."""
        self.inner.check_extractor(extractor, backbone)

    def begin_step(self, context: StepContext) -> None:
        """See :meth:`framework.interfaces.BaseMatcher.begin_step`."""
        self.inner.begin_step(context)
