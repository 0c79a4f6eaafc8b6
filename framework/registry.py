"""Registries: the names of the parts of each kind.

Each interface (see :mod:`framework.interfaces`) makes its own registry below its class; the
registry enters :data:`REGISTRIES` when it is made. Nothing here knows an interface.
A registered object is a concrete subclass of the kind's interface
that can be built from its options alone. It can be named in a configuration by its registered name
or by ``module:Class``. Built-ins are found by importing the kind's folder; third parties join
through the entry-point group ``dreammatcher.plugins`` (each entry names a module to import) or
``plugins: [module]`` in a config. An import error inside a plug-in is raised, never swallowed.
"""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import pkgutil
from collections.abc import Callable, Iterator, Mapping
from functools import cache
from importlib.metadata import entry_points
from typing import Any, TypeVar

from framework.errors import UserError, nearest, unknown_name

ENTRY_POINT_GROUP = "dreammatcher.plugins"
#: Package whose modules make the registries.
INTERFACES = "framework.interfaces"

T = TypeVar("T", bound=type[Any])


class Registry:
    """Names of the parts of one kind.

    Args:
        kind: word used in messages and as the section of a config, e.g. ``"matcher"``.
        package: package whose modules hold the built-ins, imported on first look-up.
        interface: abstract class that every part of the kind derives from.
        role: what such a part turns into what, for ``dreammatcher list``.
        section: whether a configuration has a section of the kind, in which a part is chosen.
    """

    def __init__(
        self, kind: str, package: str, interface: type, role: str = "", section: bool = True
    ) -> None:
        self.kind = kind
        self.package = package
        self.interface = interface
        self.role = role
        self._classes: dict[str, type[Any]] = {}
        self._discovered = False
        if section:
            REGISTRIES.enter(self)

    def register(self, name: str) -> Callable[[T], T]:
        """Class decorator that registers a part under ``name``.

        Raises:
            UserError: the name is taken by another class, or the class is no part of this kind.
        """
        if not name or ":" in name:
            raise UserError(f"'{name}' cannot name a {self.kind}: it is empty or holds a colon.")

        def decorate(cls: T) -> T:
            other = self._classes.get(name)
            if other is not None and _origin(other) != _origin(cls):
                raise UserError(
                    f"Two {self.kind} parts are called '{name}': {_origin(other)} and "
                    f"{_origin(cls)}. Give one of them another name."
                )
            self._check(cls)
            cls.name = name
            self._classes[name] = cls
            return cls

        return decorate

    def get(self, name: str) -> type[Any]:
        """Return the class registered as ``name``, or the one at ``module:Class``.

        Raises:
            UserError: nothing has that name; the message lists the known ones and the nearest.
        """
        if ":" in name:
            return self._by_path(name)
        if name not in self._classes and not self._discovered:
            self._import_namesake(name)
        if name not in self._classes:
            self.discover()
        if name not in self._classes:
            raise unknown_name(self.kind, name, self._classes)
        return self._classes[name]

    def _import_namesake(self, name: str) -> None:
        """Import the built-in's module of that name, if there is one: the others may be slow."""
        _plugins_once()
        importlib.import_module(self.package)
        if name.isidentifier() and importlib.util.find_spec(f"{self.package}.{name}") is not None:
            importlib.import_module(f"{self.package}.{name}")

    def names(self) -> list[str]:
        """All registered names, sorted."""
        self.discover()
        return sorted(self._classes)

    def items(self) -> Iterator[tuple[str, type[Any]]]:
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

    def _check(self, cls: type) -> None:
        """Refuse a class that cannot serve as a part of this kind."""
        if not (inspect.isclass(cls) and issubclass(cls, self.interface)):
            raise UserError(
                f"{_origin(cls)} is no {self.kind}: it does not derive from "
                f"{INTERFACES}.{self.interface.__name__}."
            )
        missing = sorted(getattr(cls, "__abstractmethods__", ()))
        if missing:
            raise UserError(
                f"{_origin(cls)} is no complete {self.kind}: it does not define "
                f"{', '.join(missing)}; see {INTERFACES}.{self.interface.__name__}."
            )

    def _by_path(self, path: str) -> type:
        module_name, _, class_name = path.partition(":")
        module = import_plugin(module_name)
        cls = getattr(module, class_name, None)
        if not inspect.isclass(cls):
            offered = [
                name
                for name, member in inspect.getmembers(module, inspect.isclass)
                if issubclass(member, self.interface) and not inspect.isabstract(member)
            ]
            those = f"Its {self.kind} classes: {', '.join(offered)}."
            raise UserError(
                f"Module '{module_name}' has no class '{class_name}'."
                f"{nearest(class_name, offered)} {those if offered else f'It has no {self.kind}.'}"
            )
        self._check(cls)
        return cls


def _origin(cls: Any) -> str:
    return f"{cls.__module__}.{getattr(cls, '__qualname__', cls)}"


def import_plugin(module: str) -> Any:
    """Import a plug-in module by name.

    Raises:
        UserError: the module itself does not exist. Errors inside it are raised as they are.
    """
    if not all(part.isidentifier() for part in module.split(".")):
        raise UserError(
            f"'{module}' is no module name; expected one such as my_package.my_matcher "
            "(for a file: its name without .py, with its folder on PYTHONPATH)."
        )
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
    """Import the modules that installed packages offer as plug-ins."""
    for entry in entry_points(group=ENTRY_POINT_GROUP):
        entry.load()


@cache
def _plugins_once() -> None:
    load_entry_points()


class Registries(Mapping[str, Registry]):
    """Every registry by its kind, in the order of the data flow.

    The first look imports the interfaces, which make the registries.
    """

    def __init__(self) -> None:
        self._made: dict[str, Registry] = {}

    def enter(self, registry: Registry) -> None:
        """Take up a registry that was just made."""
        self._made[registry.kind] = registry

    def _all(self) -> dict[str, Registry]:
        importlib.import_module(INTERFACES)
        return self._made

    def __getitem__(self, kind: str) -> Registry:
        return self._all()[kind]

    def __iter__(self) -> Iterator[str]:
        return iter(self._all())

    def __len__(self) -> int:
        return len(self._all())


#: Every registry by the name of its config section.
REGISTRIES = Registries()


def __getattr__(name: str) -> Any:
    """The registries' former place: ``MATCHERS`` and its like now stand beside the interfaces."""
    if name.isupper():
        interfaces = importlib.import_module(INTERFACES)
        if hasattr(interfaces, name):
            return getattr(interfaces, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
