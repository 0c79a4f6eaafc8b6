"""The true correspondence, handed on: what a perfect matcher would say."""

from __future__ import annotations

from torch import Tensor

from framework.errors import UserError
from framework.interfaces import MATCHERS, Matcher
from framework.types import Correspondence, Features, Masks, Views
from matchers.functional import resize_correspondence


@MATCHERS.register("oracle")
class Oracle(Matcher):
    """Hands on the true correspondence where it is known; the upper bound of a benchmark.

    It comes with the call as ``views.truth`` (see :class:`framework.types.Views`), on any grid, and
    is brought to the grid asked for: the flow is the mean over a cell's known points. Confidence is
    the share of the cell (of its pixels, where the truth is one of pixels) whose true match is
    known and visible in the reference. Cost: next to none.
    """

    needs_features = False
    needs_truth = True

    def match(self, target: Tensor, reference: Tensor, masks: Masks) -> Correspondence:
        """Not offered: descriptors are not looked at."""
        raise UserError("Oracle hands on the truth; call it with views.")

    def correspond(
        self, features: Features | None, masks: Masks, views: Views | None
    ) -> Correspondence:
        """See :meth:`framework.interfaces.Matcher.correspond`."""
        assert views is not None and views.truth is not None
        height, width = masks.target.shape[1:]
        return resize_correspondence(views.truth, height, width)
