"""The true correspondence, handed on: what a perfect matcher would say."""

from __future__ import annotations

from framework.interfaces import MATCHERS, BaseMatcher, Needs
from framework.types import Correspondence, Features, Masks, Views
from matchers.functional import resize_correspondence


@MATCHERS.register("oracle")
class Oracle(BaseMatcher):
    """Hands on the true correspondence where it is known; the upper bound of a benchmark.

    It comes with the call as ``views.truth`` (see :class:`framework.types.Views`), on any grid, and
    is brought to the grid asked for: the flow is the mean over a cell's known points. Confidence is
    the share of the cell (of its pixels, where the truth is one of pixels) whose true match is
    known and visible in the reference. Cost: next to none.
    """

    needs = Needs(features=False, truth=True)

    def correspond(
        self, features: Features | None, masks: Masks, views: Views | None
    ) -> Correspondence:
        """See :meth:`framework.interfaces.BaseMatcher.correspond`."""
        assert views is not None and views.truth is not None
        height, width = masks.target.shape[1:]
        return resize_correspondence(views.truth, height, width)
