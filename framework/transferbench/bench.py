"""The benchmark: every arm draws every counterfeit again, and is compared with the truth."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torchvision.transforms.functional import to_pil_image

from framework.composer import build_parts, make_sampler
from framework.config import Config, load_config, to_plain
from framework.matchbench.run_folder import read_records
from framework.runs.atomic import atomic_path, write_atomic
from framework.runs.folder import RunFolder
from framework.runs.progress import no_progress, progress
from framework.sampling.plan import Parts
from framework.sampling.sampler import Sampler
from framework.transferbench.arms import Arm
from framework.transferbench.groups import TransferGroup, TransferTarget, WorldTransfers
from framework.transferbench.measures import (
    colour_error,
    pattern_contrast,
    region_psnr,
    regions,
    structure_kept,
)
from framework.transferbench.truth import TrueMasks, TrueMatches, identity_matches
from framework.types import Concept, Correspondence

Record = dict[str, Any]
SETTINGS, GROUPS, PICTURES = "transfer.json", "groups", "pictures"
#: The truth through the autoencoder alone: what no arm can do better than.
FLOOR = "autoencoder"
#: Changes whenever records do, so that old ones are not mixed with new ones.
FORMAT = 1


class TransferBench:
    """Runs the benchmark into a folder; finished groups are kept.

    Args:
        pipe: the pipeline, plain or personalized; left as it was.
        config: the configuration the arms change.
        source: the groups.
        arms: what is compared; see :func:`framework.transferbench.arms.distinct`.
        folder: gets a file and the pictures of each group.
    """

    def __init__(
        self, pipe: Any, config: Config, source: WorldTransfers, arms: Sequence[Arm], folder: Path
    ) -> None:
        self.pipe, self.config, self.source = pipe, config, source
        self.arms, self.folder = list(arms), folder
        self.configs = {arm.name: load_config(config, arm.overrides) for arm in arms}

    def about(self) -> dict[str, Any]:
        """Everything the records depend on, as plain values."""
        arms = {
            arm.name: {"truth": list(arm.truth), "config": _counts(self.configs[arm.name])}
            for arm in self.arms
        }
        source = {name: value for name, value in vars(self.source).items() if name != "groups"}
        return json.loads(json.dumps({"format": FORMAT, "source": source, "arms": arms}))

    def run(self) -> list[Record]:
        """Draw and measure what is not there yet.

        Returns:
            One record for each arm and target; see :func:`measure_transfer`.

        Raises:
            UserError: the folder holds another benchmark, or an arm cannot be drawn.
        """
        about = self.about()
        text = json.dumps(about, indent=2) + "\n"
        RunFolder(self.folder, SETTINGS, about, text, "benchmark").open()
        records: list[Record] = []
        for index in progress(range(len(self.source)), "transferring", unit="group"):
            path = self.folder / GROUPS / f"{index:04d}.json"
            done = read_records(path)
            if done is None:
                with no_progress():
                    done = self._group(self.source[index])
                write_atomic(path, json.dumps(done, indent=1) + "\n")
            records += done
        return records

    def _group(self, group: TransferGroup) -> list[Record]:
        records: list[Record] = []
        sampler = self._sampler(group, self.configs[self.arms[0].name])
        noise = inverted(sampler, group)
        truths = torch.cat([target.truth for target in group.targets])
        shown = {
            "reference": group.reference,
            "counterfeit": torch.cat([target.counterfeit for target in group.targets]),
            "truth": truths,
            FLOOR: through_autoencoder(sampler, truths),
        }
        for arm in self.arms:
            shown[arm.name] = self._draw(arm, group, noise)
        for name, pictures in shown.items():
            save_pictures(pictures, self.folder / PICTURES / group.name, name)
        for place, target in enumerate(group.targets):
            for name in (FLOOR, *(arm.name for arm in self.arms)):
                scores = measure_transfer(shown[name][place], target)
                records.append(
                    {
                        "group": group.name,
                        "target": target.name,
                        "difference": target.difference,
                        "arm": name,
                    }
                    | {k: None if math.isnan(v) else round(v, 6) for k, v in scores.items()}
                )
        return records

    def _sampler(self, group: TransferGroup, config: Config, parts: Parts | None = None) -> Sampler:
        return make_sampler(self.pipe, concept_of(group.reference, group), config, parts=parts)

    def _draw(self, arm: Arm, group: TransferGroup, noise: Tensor) -> Tensor:
        """The counterfeits drawn again, (K, 3, S, S) in [-1, 1]."""
        if "reference" in arm.truth:  # each target is its own reference, so each is drawn alone
            parts = [
                self._draw_rows(arm, own_reference(group, target), noise[place : place + 1])
                for place, target in enumerate(group.targets)
            ]
            return torch.cat(parts)
        return self._draw_rows(arm, group, noise)

    def _draw_rows(self, arm: Arm, group: TransferGroup, noise: Tensor) -> Tensor:
        config = self.configs[arm.name]
        parts = true_parts(build_parts(config), arm, group)
        sampler = self._sampler(group, config, parts)
        prompts = [target.prompt for target in group.targets]
        drawn = sampler(prompts, latents=noise.cpu(), output_type="pt").images
        return drawn.float().cpu() * 2 - 1


def concept_of(picture: Tensor, group: TransferGroup) -> Concept:
    """A group's object as a concept of a model that is not personalized.

    Args:
        picture: (1, 3, S, S) in [-1, 1].
        group: names the noun.
    """
    image = to_pil_image((picture[0] + 1) / 2)
    return Concept(group.name.replace("/", "-"), "", group.class_name, (image,))


def inverted(sampler: Sampler, group: TransferGroup) -> Tensor:
    """Start noise of each counterfeit: the end of its inversion, (K, C, h, w)."""
    denoiser, trajectory = sampler.denoiser(), sampler.parts.trajectory
    return torch.cat(
        [
            trajectory(denoiser, denoiser.model.encode_image(target.counterfeit))[0]
            for target in group.targets
        ]
    )


@torch.no_grad()
def through_autoencoder(sampler: Sampler, pictures: Tensor) -> Tensor:
    """Pictures (K, 3, S, S) in [-1, 1], encoded and decoded by the sampler's model."""
    model = sampler.model
    latents = torch.cat([model.encode_image(one[None]) for one in pictures])
    return model.decode(latents).float().clamp(-1, 1).cpu()


def own_reference(group: TransferGroup, target: TransferTarget) -> TransferGroup:
    """One target whose reference is the true picture itself."""
    own = replace(target, matches=identity_matches(target.mask[None]))
    return replace(group, reference=target.truth, mask=target.mask, targets=(own,))


def true_parts(parts: Parts, arm: Arm, group: TransferGroup) -> Parts:
    """The configured parts, with the truth in the stages where the arm has it."""
    targets = group.targets
    changes: dict[str, Any] = {}
    if "masks" in arm.truth:
        changes["mask"] = TrueMasks(torch.stack([one.mask for one in targets]), group.mask)
    if "matches" in arm.truth:
        known = Correspondence(
            torch.cat([one.matches.flow for one in targets]),
            torch.cat([one.matches.confidence for one in targets]),
        )
        changes["matcher"] = TrueMatches(known)
    return replace(parts, **changes)


def measure_transfer(picture: Tensor, target: TransferTarget) -> dict[str, float]:
    """Every measure of one picture, (3, S, S) in [-1, 1].

    Returns:
        ``error_REGION`` and ``psnr_REGION`` of object pixels the reference shows (``object``), of
        those it does not (``hidden``) and of the ``background``; ``contrast``, the patterns'
        strength as a multiple of the truth's; ``structure``, see :func:`structure_kept`.
    """
    truth = target.truth[0]
    found = {}
    for name, where in regions(target.mask, target.visible).items():
        found[f"error_{name}"] = colour_error(picture, truth, where)
        found[f"psnr_{name}"] = region_psnr(picture, truth, where)
    own = pattern_contrast(truth, target.parts)
    found["contrast"] = pattern_contrast(picture, target.parts) / own if own > 0 else math.nan
    found["structure"] = structure_kept(picture, target.counterfeit[0], target.mask)
    return found


def save_pictures(pictures: Tensor, folder: Path, name: str) -> None:
    """Write (K, 3, S, S) in [-1, 1] as ``NAME-k.png``, each in one piece."""
    folder.mkdir(parents=True, exist_ok=True)
    for place, picture in enumerate(pictures):
        file = folder / f"{name.replace(' ', '_').replace('/', '-')}-{place}.png"
        with atomic_path(file) as part:
            to_pil_image(((picture + 1) / 2).clamp(0, 1)).save(part, format="PNG")


def _counts(config: Config) -> Mapping[str, Any]:
    """What of a configuration decides a picture."""
    plain = to_plain(config)
    names = ("model", "sampler", "trajectory", "extractor", "mask", "matcher", "injector")
    return {name: plain[name] for name in (*names, "guidance")}
