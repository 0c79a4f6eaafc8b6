"""ReferenceTrajectory: clean reference latent -> its latent at every sampling step."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from torch import Tensor

from framework.errors import UserError
from framework.interfaces.denoiser import Denoiser
from framework.interfaces.part import Part
from framework.interfaces.shapes import check_shape
from framework.registry import Registry

#: The halves of classifier-free guidance, by the names a trajectory's text embeddings have.
HALVES = ("unconditional", "conditional")


@dataclass(frozen=True)
class Trajectory:
    """A reference's way through the steps.

    Attributes:
        latents: (T, 1, C, h, w), entry t belongs to step t.
        embeds: text embeddings for each step in place of the prompt's, by half, ``unconditional``
            (as null-text inversion finds them) and ``conditional``, (T, 1, tokens, width) each.
        prompt: a prompt of its own in place of ``sampler.reference_prompt``; ``{}`` stands for the
            concept. None: the configured one.
    """

    latents: Tensor
    embeds: Mapping[str, Tensor] = field(default_factory=dict)
    prompt: str | None = None


class ReferenceTrajectory(Part, ABC):
    """Says which latent the reference branch shows the network at each step.

    What a subclass declares: :meth:`invert`. The reference's latent is *set* from the result at
    every step, never integrated.
    """

    @abstractmethod
    def invert(self, denoiser: Denoiser, clean: Tensor) -> Tensor | Trajectory:
        """Latents of the reference for all steps.

        Args:
            denoiser: the model with its sampling schedule, see
                :class:`framework.interfaces.denoiser.Denoiser`; ``denoiser.timesteps`` and
                ``denoiser.levels`` belong to the T evaluations of sampling, noisiest first.
            clean: z0^X, (1, C, h, w).

        Returns:
            (T, 1, C, h, w), entry t belongs to step t; or a :class:`Trajectory` that brings text
            embeddings or a prompt with them.
        """

    def pictures(self, count: int, index: int) -> Sequence[int]:
        """Which of the concept's pictures are references, each with a trajectory of its own.

        Args:
            count: number of the concept's pictures.
            index: the configured one, ``sampler.reference_index``.

        Returns:
            At least one number below ``count``. Default: the configured one alone.
        """
        return (index,)

    def prepare(self, denoiser: Denoiser, clean: Tensor) -> Trajectory:
        """Invert, and check the result's shapes.

        Raises:
            UserError: a shape is not what the contract says, or a value is not finite.
        """
        found = self.invert(denoiser, clean)
        trajectory = Trajectory(found) if isinstance(found, Tensor) else found
        who = f"{type(self).__name__}.invert"
        if not isinstance(trajectory, Trajectory):
            raise UserError(
                f"{who} gave a {type(found).__name__}; expected latents (T, 1, C, h, w), or a "
                "Trajectory of them."
            )
        steps = len(denoiser.timesteps)
        check_shape(who, trajectory.latents, (steps, *clean.shape))
        model = denoiser.model
        model.require_finite(trajectory.latents, model.network, "The reference's latents")
        for half, embeds in trajectory.embeds.items():
            if half not in HALVES:
                raise UserError(f"{who}: embeds has '{half}'; expected {' or '.join(HALVES)}.")
            check_shape(f"{who}: {half} embeds", embeds, (steps, 1, None, None))
        return trajectory

    def __call__(self, denoiser: Denoiser, clean: Tensor) -> Tensor:
        """The latents alone, (T, 1, C, h, w), checked.

        Raises:
            UserError: see :meth:`prepare`.
        """
        return self.prepare(denoiser, clean).latents


#: Every trajectory by its name.
TRAJECTORIES = Registry(
    "trajectory",
    "framework.trajectories",
    ReferenceTrajectory,
    "reference image -> its latent at every step",
)
