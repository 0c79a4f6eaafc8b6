"""One small registry for each kind of part.

A registered object is a subclass of the kind's interface (see :mod:`framework.interfaces`). It can
be named in a configuration by its registered name or by ``module:Class``. Built-ins are found by
importing the kind's folder; third parties join through the entry-point group
``dreammatcher.plugins`` (each entry names a module to import) or ``plugins: [module]`` in a config.
An import error inside a plug-in is raised, never swallowed.
"""

from __future__ import annotations

import importlib
import inspect
import pkgutil
from collections.abc import Callable, Iterator
from importlib.metadata import entry_points
from typing import Any, TypeVar

from framework.errors import UserError, unknown_name

ENTRY_POINT_GROUP = "dreammatcher.plugins"

T = TypeVar("T", bound=type)


class Registry:
    """Names of the parts of one kind.

    Args:
        kind: word used in messages and as the section of a config, e.g. ``"matcher"``.
        package: package whose modules hold the built-ins, imported on first look-up.
    """

    def __init__(self, kind: str, package: str) -> None:
        self.kind = kind
        self.package = package
        self._classes: dict[str, type] = {}
        self._discovered = False

    def register(self, name: str) -> Callable[[T], T]:
        """Class decorator that registers a part under ``name``.

        Raises:
            UserError: the name is taken by another class.
        """

        def decorate(cls: T) -> T:
            other = self._classes.get(name)
            if other is not None and _origin(other) != _origin(cls):
                raise UserError(
                    f"Two {self.kind} parts are called '{name}': {_origin(other)} and "
                    f"{_origin(cls)}. Give one of them another name."
                )
            cls.name = name  # type: ignore[attr-defined]
            self._classes[name] = cls
            return cls

        return decorate

    def get(self, name: str) -> type:
        """Return the class registered as ``name``, or the one at ``module:Class``.

        Raises:
            UserError: nothing has that name; the message lists the known ones and the nearest.
        """
        if ":" in name:
            return self._by_path(name)
        self.discover()
        if name not in self._classes:
            raise unknown_name(self.kind, name, self._classes)
        return self._classes[name]

    def names(self) -> list[str]:
        """All registered names, sorted."""
        self.discover()
        return sorted(self._classes)

    def items(self) -> Iterator[tuple[str, type]]:
        """Pairs (name, class), sorted by name."""
        for name in self.names():
            yield name, self._classes[name]

    def discover(self) -> None:
        """Import every built-in of this kind and every installed plug-in, once."""
        if self._discovered:
            return
        self._discovered = True
        try:
            package = importlib.import_module(self.package)
            for module in pkgutil.iter_modules(package.__path__):
                importlib.import_module(f"{self.package}.{module.name}")
            load_entry_points()
        except BaseException:
            self._discovered = False
            raise

    def _by_path(self, path: str) -> type:
        module_name, _, class_name = path.partition(":")
        module = import_plugin(module_name)
        cls = getattr(module, class_name, None)
        if not inspect.isclass(cls):
            classes = [n for n, _ in inspect.getmembers(module, inspect.isclass)]
            raise unknown_name(f"{self.kind} class in module '{module_name}'", class_name, classes)
        return cls


def _origin(cls: type) -> str:
    return f"{cls.__module__}.{cls.__qualname__}"


def import_plugin(module: str) -> Any:
    """Import a plug-in module by name.

    Raises:
        UserError: the module itself does not exist. Errors inside it are raised as they are.
    """
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name is not None and (module == error.name or module.startswith(error.name + ".")):
            raise UserError(
                f"Plug-in module '{module}' cannot be imported (no module named '{error.name}'); "
                "install it or put its folder on PYTHONPATH."
            ) from error
        raise


def load_entry_points() -> None:
    """Import the modules (or call nothing else) that installed packages offer as plug-ins."""
    for entry in entry_points(group=ENTRY_POINT_GROUP):
        entry.load()


PERSONALIZERS = Registry("personalizer", "personalizers")
TRAJECTORIES = Registry("trajectory", "framework.trajectories")
EXTRACTORS = Registry("extractor", "framework.extractors")
MASKS = Registry("mask", "framework.masks")
MATCHERS = Registry("matcher", "matchers")
INJECTORS = Registry("injector", "framework.injectors")
GUIDANCE = Registry("guidance", "framework.guidance")

#: Every registry by the name of its config section, in data-flow order.
REGISTRIES: dict[str, Registry] = {
    registry.kind: registry
    for registry in (
        PERSONALIZERS,
        TRAJECTORIES,
        EXTRACTORS,
        MASKS,
        MATCHERS,
        INJECTORS,
        GUIDANCE,
    )
}
