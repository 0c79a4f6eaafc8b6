"""Concepts and prompts of a plan -> settings: a variant with a concept, and its cells."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import PurePosixPath
from typing import Any

from framework.concepts.folders import list_concepts, load_concept
from framework.concepts.text import fill_prompt
from framework.config.page import ConceptConfig, Config
from framework.errors import UserError, unknown_name
from framework.experiments.axes import Variant, check_count
from framework.experiments.cells import Cell, Setting, cell_id, digest_of, noise_seed, slug
from framework.experiments.plan_file import ALL, PlanFile, mapping
from framework.options import fill as fill_options, options_of, shown
from framework.types import Concept

PER_CONCEPT = ("path", "class_name", "placeholder", "weights", "reference", "prompts", "config")


class Subjects:
    """Concepts with their pictures, each read once.

    Args:
        said: the plan's keys.
    """

    def __init__(self, said: PlanFile) -> None:
        self.said = said
        self.first: dict[str, Concept] = {}
        self.cells = 0
        self._loaded: dict[str, Concept] = {}

    def setting(
        self, variant: Variant, name: str, entry: Mapping[str, Any], config: Config
    ) -> Setting:
        """A variant with a concept.

        Args:
            variant: the variant.
            name: of the concept.
            entry: what the plan says of it.
            config: the variant's configuration.

        Raises:
            UserError: the concept has no pictures, or a prompt or the reference cannot be used.
        """
        config = replace(config, concept=_concept_section(config, name, entry))
        key = f"{config.concept} {config.personalizer}"
        if key not in self._loaded:
            self._loaded[key] = load_concept(_resolved_weights(config, name))
        concept = self._loaded[key]
        self.first.setdefault(name, concept)
        config = _with_reference(config, entry, concept)
        config = replace(config, model=replace(config.model, path=_at(config.model.path, name)))
        prompts = _prompts(self.said.prompts, entry, name)
        self.cells += len(prompts) * len(self.said.seeds)
        check_count(self.cells)
        return _setting(variant, name, concept, config, prompts, self.said)


def plan_concepts(said: Any, library: str) -> dict[str, dict[str, Any]]:
    """The plan's concepts by name, each with what the plan says of it.

    Args:
        said: ``all``, names, or a mapping of names to settings.
        library: folder of concept folders.

    Raises:
        UserError: there is none, one is not known, or a setting is none.
    """
    known = list_concepts(library)
    if said == ALL:
        if not known:
            raise UserError(
                f"The plan is empty: the library '{library}' has no concept. Give another with "
                "concept.library=FOLDER, one folder of pictures for each concept."
            )
        return {name: {} for name in known}
    if isinstance(said, str):
        said = [word.strip() for word in said.split(",") if word.strip()]
    if isinstance(said, list):
        said = {str(name): {} for name in dict.fromkeys(said)}
    if not isinstance(said, Mapping) or not said:
        raise UserError(
            f"The plan is empty: concepts is {shown(said)}; expected 'all', a list of names, or a "
            "mapping of names to settings."
        )
    entries: dict[str, dict[str, Any]] = {}
    for name, entry in said.items():
        entries[str(name)] = mapping(f"concepts.{name}", entry)
        mapping(f"concepts.{name}.config", entries[str(name)].get("config"))
        for key in entries[str(name)]:
            if key not in PER_CONCEPT:
                raise unknown_name(f"key in concepts.{name}:", str(key), PER_CONCEPT)
        if "path" not in entries[str(name)] and name not in known:
            raise unknown_name("concept", str(name), known)
    return entries


def _concept_section(config: Config, name: str, entry: Mapping[str, Any]) -> ConceptConfig:
    given = {key: entry[key] for key in ("path", "class_name", "placeholder", "weights")
             if key in entry}  # fmt: skip
    plain_section = options_of(config.concept) | {"name": name} | given
    return fill_options(f"concepts.{name}", ConceptConfig, plain_section)


def _with_reference(config: Config, entry: Mapping[str, Any], concept: Concept) -> Config:
    config = _resolved_weights(config, config.concept.name or concept.name)
    if entry.get("reference") is None:
        return config
    files = [path.name for path in concept.sources]
    if entry["reference"] not in files:
        raise unknown_name(f"reference of {concept.name}", str(entry["reference"]), files)
    if config.sampler.reference_index:
        return config  # a variant chooses another
    index = files.index(entry["reference"])
    return replace(config, sampler=replace(config.sampler, reference_index=index))


def _resolved_weights(config: Config, concept: str) -> Config:
    """The configuration with the concept's name put into the path of its weights."""
    weights = config.concept.weights
    if weights is None:
        return config
    return replace(config, concept=replace(config.concept, weights=_at(weights, concept)))


def _at(text: str, concept: str) -> str:
    return text.replace("{concept}", concept)


def _prompts(said: Any, entry: Mapping[str, Any], concept: str) -> list[str]:
    chosen = entry.get("prompts", said)
    if isinstance(chosen, str) and isinstance(said, list):
        chosen = said  # one list for all, as an override gives it
    if isinstance(chosen, str) and isinstance(said, Mapping):
        if chosen not in said:
            raise unknown_name(f"prompt list of concept '{concept}'", chosen, said)
        chosen = said[chosen]
    if isinstance(chosen, Mapping):
        raise UserError(
            f"prompts has lists by name ({', '.join(map(str, chosen))}), but the concept "
            f"'{concept}' does not say which is its: concepts: {{{concept}: {{prompts: NAME}}}}."
        )
    if not isinstance(chosen, list) or not chosen or not all(isinstance(t, str) for t in chosen):
        raise UserError(
            f"The plan is empty: prompts is {shown(chosen)}; expected a list of at least one text "
            "such as 'a photo of a {}'."
        )
    for text, times in Counter(chosen).items():
        if times > 1:
            raise UserError(f"prompts has '{text}' twice; give each once.")
    return list(chosen)


def _pictures(concept: Concept) -> str:
    digest = hashlib.sha256(f"{concept.placeholder}\0{concept.class_name}".encode())
    for image in concept.images:
        digest.update(f"{image.mode}{image.size}".encode())
        digest.update(image.tobytes())
    return digest.hexdigest()


def _setting(
    variant: Variant,
    name: str,
    concept: Concept,
    config: Config,
    prompts: list[str],
    said: PlanFile,
) -> Setting:
    index = config.sampler.reference_index
    if index >= len(concept.images):
        raise UserError(
            f"Variant '{variant.name}': sampler.reference_index is {index}, but concept '{name}' "
            f"has {len(concept.images)} picture(s), numbered from 0."
        )
    for text in prompts:
        fill_prompt(text, concept)
    made_of = [_pictures(concept), said.run.precision, said.learn]
    if said.noise != "cell":  # named only where it is not what it always was
        made_of.append(said.noise)
    digest = digest_of(config, *made_of)
    cells = tuple(
        Cell(
            id=cell_id(digest, text, seed),
            variant=variant.name,
            concept=name,
            prompt_index=place,
            prompt=text,
            seed=seed,
            noise_seed=noise_seed(name, text, seed) if said.noise == "cell" else seed,
            file=_file(said.layout, variant, name, place, seed),
        )
        for place, text in enumerate(prompts)
        for seed in said.seeds
    )
    return Setting(variant.name, name, config, concept, digest, cells)


def _file(layout: str, variant: Variant, concept: str, prompt: int, seed: int) -> str:
    """Where a picture lies, below the run folder.

    Raises:
        UserError: the layout names what is none, or leads out of the folder.
    """
    axes = {c.axis: slug(c.label) for c in variant.choices if c.axis.isidentifier()}
    known = axes | {"variant": slug(variant.name), "concept": slug(concept)}
    try:
        text = layout.format(**known, prompt=prompt, seed=seed)
    except (KeyError, IndexError, ValueError, AttributeError) as error:
        raise UserError(
            f"layout is '{layout}'; expected a path with some of "
            f"{', '.join(f'{{{name}}}' for name in (*known, 'prompt', 'seed'))}."
        ) from error
    path = PurePosixPath(text)
    if path.is_absolute() or ".." in path.parts or path.suffix != ".png":
        raise UserError(f"layout is '{layout}'; expected a path of PNG files in the run folder.")
    return text


def check_unique_files(settings: Sequence[Setting]) -> None:
    """Refuse names that would be written to one file."""
    places: dict[str, tuple[str, str]] = {}
    for setting in settings:
        for cell in setting.cells:
            before = places.setdefault(cell.file, (cell.variant, cell.concept))
            if before != (cell.variant, cell.concept):
                raise UserError(
                    f"{before} and {(cell.variant, cell.concept)} would be written to one folder; "
                    "give them names that differ in letters and digits."
                )
    if len(places) != sum(len(setting.cells) for setting in settings):
        raise UserError("layout gives several pictures one path; expected {prompt} and {seed}.")
