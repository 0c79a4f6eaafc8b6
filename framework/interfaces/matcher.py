"""Matcher: descriptors (or pictures) of target and reference -> dense correspondence."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from framework.errors import UserError
from framework.interfaces.backbone import Backbone
from framework.interfaces.extractor import FeatureExtractor
from framework.interfaces.part import Part
from framework.interfaces.shapes import check_shape
from framework.interfaces.step import StepContext
from framework.registry import Registry
from framework.types import Correspondence, Features, Masks, Views


@dataclass(frozen=True)
class Needs:
    """What a matcher is to be given.

    Attributes:
        features: descriptors; else none are extracted, and it may be called without.
        pictures: ``Views.target`` and ``Views.reference``. While sampling, each look costs a VAE
            decode a target.
        truth: the true correspondence, ``Views.truth``, which sampling does not have.
        every: while sampling, pictures are decoded anew in every so many steps.
        history: how many earlier steps' descriptors :meth:`BaseMatcher.begin_step` is handed.
        width: channels D the descriptors must have; None: any.
    """

    features: bool = True
    pictures: bool = False
    truth: bool = False
    every: int = 1
    history: int = 0
    width: int | None = None


@dataclass(frozen=True)
class Promises:
    """What a matcher promises beyond the contract of all matchers.

    Attributes:
        invariant: for descriptors that tell all cells apart, an image matched with itself gives the
            identity, a shifted one the shift, and swapping the two inverts the flow where it is
            confident. False where that depends on weights not given by default.
        differentiable: gradients reach the descriptors through the flow or the confidence.
    """

    invariant: bool = True
    differentiable: bool = False


#: What stands in ``needs`` and ``promises`` now.
FORMER = {
    "needs_features": "needs = Needs(features=...)",
    "needs_views": "needs = Needs(pictures=...)",
    "needs_truth": "needs = Needs(truth=...)",
    "views_every": "needs = Needs(every=...)",
    "history": "needs = Needs(history=...)",
    "width": "needs = Needs(width=...)",
    "invariant": "promises = Promises(invariant=...)",
    "differentiable": "promises = Promises(differentiable=...)",
}


class BaseMatcher(Part, ABC):
    """Finds, for every cell of the target, the cell of the reference that shows the same thing.

    Most matchers derive from :class:`Matcher`, which matches descriptors, or from
    :class:`ImageMatcher`, which matches pictures. What a subclass of this one declares:

    * :meth:`correspond`: no state is kept between calls that changes a result, no row of the batch
      influences another, the same input gives the same output on every run;
    * a flow in cells, ``(x, y)``, target to reference (see :mod:`framework.types`);
    * a confidence in [0, 1] whose meaning its docstring states: a probability that the match is
      right, or a decision 0 / 1. It decides nothing itself: whether and from what value on a match
      is used is the injector's ``confidence_threshold``;
    * ``needs`` and ``promises``, where they differ from the defaults of :class:`Needs` and
      :class:`Promises`. A constructor may set them, as a wrapper of another matcher does.

    Call the matcher itself (``matcher(features, masks)``): the call checks shapes and values.
    """

    needs: Needs = Needs()
    promises: Promises = Promises()

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        for name in FORMER.keys() & vars(cls).keys():
            raise UserError(f"{cls.__name__} sets {name}; write {FORMER[name]} instead.")

    def prepare(self) -> None:
        """Load what matching needs, such as weights; called before a sampling call begins, so that
        what is missing is told at once. Default: nothing to load."""

    def begin_step(self, context: StepContext) -> None:
        """Learn what is known of the step whose layers are matched next: its index and noise level,
        the matches of the step before, earlier descriptors. Default: nothing is kept.

        A match depends on its arguments and on the last context alone; one that was told none
        matches as if there had been no step before.
        """

    def check_extractor(self, extractor: FeatureExtractor, backbone: Backbone) -> None:
        """Refuse an extractor whose descriptors it cannot use, before anything is computed.

        Default: any will do.

        Args:
            extractor: whose descriptors it will be given.
            backbone: the model that extractor looks at.

        Raises:
            UserError: with what is different and what to choose.
        """

    @abstractmethod
    def correspond(
        self, features: Features | None, masks: Masks, views: Views | None
    ) -> Correspondence:
        """Match what is at hand, already checked.

        Args:
            features: descriptors (B, H, W, D) of both; None where ``needs`` names none.
            masks: soft foreground masks, (B, H, W) each, in [0, 1]; all ones where no mask
                provider is in use.
            views: pictures and truth, where ``needs`` names them.

        Returns:
            Flow (B, H, W, 2) and confidence (B, H, W).
        """

    def __call__(
        self, features: Features | None, masks: Masks, views: Views | None = None
    ) -> Correspondence:
        """Check the input, match, check the output.

        Args:
            features: descriptors of both; None is permitted if ``needs`` names none.
            masks: soft foreground masks on the same grid.
            views: pictures and truth, for matchers that need them.

        Raises:
            UserError: a shape or a value is not what the contract says, or pictures or truth are
                needed and missing.
        """
        who = type(self).__name__
        if features is None:
            if self.needs.features:
                raise UserError(f"{who} matches descriptors; give it the features of both images.")
            check_shape(f"{who}: target mask", masks.target, (None, None, None))
            shape = tuple(masks.target.shape)
        else:
            whole = tuple(features.target.shape)
            check_shape(f"{who}: target descriptors", features.target, (None,) * 4)
            check_shape(f"{who}: reference descriptors", features.reference, whole)
            shape = whole[:3]
            check_shape(f"{who}: target mask", masks.target, shape)
            if not bool(features.target.isfinite().all() & features.reference.isfinite().all()):
                raise UserError(
                    f"{who}: the descriptors are not finite; the model overflowed. Give it a wider "
                    "data type (model.dtype=float32 or bfloat16)."
                )
        check_shape(f"{who}: reference mask", masks.reference, shape)
        self._check_views(views, shape[0])
        return self._checked(self.correspond(features, masks, views), shape)

    def _checked(self, result: Correspondence, shape: tuple[int, ...]) -> Correspondence:
        """The result, refused where it is no flow (B, H, W, 2) and confidence (B, H, W)."""
        who = type(self).__name__
        if not isinstance(result, Correspondence):
            raise UserError(
                f"{who}.match gave {type(result).__name__}; expected Correspondence(flow, "
                "confidence). Is a return missing?"
            )
        check_shape(f"{who}.match: flow", result.flow, (*shape, 2))
        check_shape(f"{who}.match: confidence", result.confidence, shape)
        valid = (result.confidence >= 0) & (result.confidence <= 1)
        if not bool((valid & result.flow.isfinite().all(dim=-1)).all()):
            raise UserError(
                f"{who}.match gave a flow that is not finite or a confidence outside [0, 1]; "
                "clamp the confidence, and give 0 where there is no match."
            )
        return result

    def _check_views(self, views: Views | None, pairs: int) -> None:
        who = self.name or type(self).__name__
        if self.needs.truth:
            if views is None or views.truth is None:
                raise UserError(
                    f"Matcher '{who}' hands on the true correspondence, and none was given: it is "
                    "known for renders and synthetic warps (dreammatcher match-bench), not while "
                    "sampling. Choose another matcher, e.g. matcher.name=cycle_argmax."
                )
            check_shape(f"{who}: true flow", views.truth.flow, (pairs, None, None, 2))
            grid = tuple(views.truth.flow.shape[:3])
            check_shape(f"{who}: true confidence", views.truth.confidence, grid)
        if self.needs.pictures:
            if views is None or views.target is None or views.reference is None:
                raise UserError(
                    f"Matcher '{who}' matches pictures, and none were given; pass views=Views("
                    "target, reference) with pictures (B, 3, H, W) in [-1, 1]."
                )
            check_shape(f"{who}: target pictures", views.target, (pairs, 3, None, None))
            check_shape(f"{who}: reference pictures", views.reference, (pairs, 3, None, None))


class Matcher(BaseMatcher):
    """A matcher of descriptors.

    What a subclass declares: :meth:`match`, a pure function of tensors, under the conditions of
    :class:`BaseMatcher`.
    """

    @abstractmethod
    def match(self, target: Tensor, reference: Tensor, masks: Masks) -> Correspondence:
        """Match two descriptor grids.

        Args:
            target: psi^Y, (B, H, W, D), float32, L2-normalised.
            reference: psi^X, (B, H, W, D), likewise.
            masks: soft foreground masks, (B, H, W) each, in [0, 1]; all ones where no mask
                provider is in use.

        Returns:
            Flow (B, H, W, 2) and confidence (B, H, W).
        """

    def correspond(
        self, features: Features | None, masks: Masks, views: Views | None
    ) -> Correspondence:
        """See :meth:`BaseMatcher.correspond`."""
        assert features is not None
        return self.match(features.target, features.reference, masks)


class ImageMatcher(BaseMatcher):
    """A matcher of pictures: the reference's, and the predicted clean target's, decoded.

    What a subclass declares: :meth:`match_views`, under the conditions of
    :class:`BaseMatcher`.
    """

    needs = Needs(features=False, pictures=True)

    @abstractmethod
    def match_views(self, views: Views, grid: tuple[int, int], masks: Masks) -> Correspondence:
        """Match two pictures a pair.

        Args:
            views: pictures (B, 3, Hp, Wp), about [-1, 1]; the two may differ in size.
            grid: (H, W) of the flow that is wanted.
            masks: soft foreground masks on that grid.

        Returns:
            Flow (B, H, W, 2) in cells of the grid and confidence (B, H, W).
        """

    def correspond(
        self, features: Features | None, masks: Masks, views: Views | None
    ) -> Correspondence:
        """See :meth:`BaseMatcher.correspond`."""
        assert views is not None
        height, width = masks.target.shape[1:]
        return self.match_views(views, (height, width), masks)


#: Every matcher by its name.
MATCHERS = Registry("matcher", "matchers", BaseMatcher, "descriptors -> flow and confidence")
