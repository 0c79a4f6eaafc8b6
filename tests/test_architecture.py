"""The layout holds: rooms in order, no circles, short modules, shapes in docstrings.

Every rule is a function over the syntax trees that yields what breaks it. What breaks a rule today
stands in ``architecture_allowed.txt`` with its reason. That list only shrinks: a line that is no
longer true fails, too, and is to be removed.
"""

from __future__ import annotations

import ast
import re
from collections import defaultdict
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).parents[1]
HOUSES = ("framework", "matchers", "personalizers")
ALLOWED = Path(__file__).with_name("architecture_allowed.txt")
#: Modules in the root of framework/; everything else has a room.
ROOT_MODULES = {
    "__init__", "__main__", "composer", "errors", "geometry", "options", "registry", "types",
}  # fmt: skip
#: A room imports from the lines above it and from itself; rooms of one line not from one another.
ROOMS = """
errors
types
geometry registry
options
runs
interfaces
config
backbones
concepts
extractors masks trajectories injectors guidance
matchers
sampling
training
personalizers
composer
metrics viz contracts
toyworld
matchbench
transferbench
costs
experiments
cli
__main__
"""
LEVEL = {room: level for level, line in enumerate(ROOMS.split("\n")) for room in line.split()}
#: Names every command line has.
COMMAND_NAMES = {"main", "run", "add_arguments"}
#: "(B, H, W, 2)", "(rows, C, h, w)", or words for it.
SHAPE = re.compile(
    r"\([\w*/+. -]{1,14},(?: [\w*/+. -]{1,14},?)*\)"
    r"|\bscalar|[Aa]ny shape|(?:same|equal) shape|shapes are equal|of ``shape``"
)
ADVICE = {
    "root": "Give the module a room whose name says what happens there, and the room a line above.",
    "upward": "Move what is shared into the lower room, or pass it in as an argument.",
    "circle": "Move what these modules share into one below them.",
    "local": "Import at the top of the module; if that makes a circle, mend the circle.",
    "missing": "The module or the name imported is not there; it may have moved.",
    "lines": "At most 300 lines a module: split it where it has two ideas.",
    "function": "At most 60 lines a function: give its steps names.",
    "arguments": "At most 7 arguments: group those that travel together in a dataclass.",
    "shapes": "State the shape of the tensors in the docstring, e.g. (B, H, W, 2).",
    "twice": "Rename one of them: a name that stands in two rooms means two things.",
    "sampler": "Let framework.composer make the sampler: all are made in one place.",
    "readme": "At most 200 lines: move results and details to docs/ or the rooms' READMEs.",
}


class Module(NamedTuple):
    file: Path
    tree: ast.Module
    lines: int


class Import(NamedTuple):
    module: str
    name: str | None  # what is taken out of the module; None for the module itself
    local: bool  # inside a function


@cache
def modules() -> dict[str, Module]:
    """Every module of the three packages by its dotted name."""
    read = {}
    for house in HOUSES:
        for file in sorted((ROOT / house).rglob("*.py")):
            parts = file.relative_to(ROOT).with_suffix("").parts
            text = file.read_text()
            name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
            read[name] = Module(file, ast.parse(text), len(text.splitlines()))
    return read


def room(module: str) -> str:
    """The room of a module; ``face`` for framework/__init__.py, which imports lazily."""
    house, _, rest = module.partition(".")
    return (rest.partition(".")[0] or "face") if house == "framework" else house


@cache
def imports(module: str) -> list[Import]:
    """What a module imports of our own: at its top, in its functions and for its types."""
    statements = []

    def visit(node: ast.AST, local: bool) -> None:
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.Import):
                statements.extend(Import(alias.name, None, local) for alias in child.names)
            elif isinstance(child, ast.ImportFrom):
                for alias in child.names:
                    full = f"{child.module}.{alias.name}"
                    taken = (full, None) if full in modules() else (child.module, alias.name)
                    statements.append(Import(*taken, local))
            visit(child, local or isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef))

    visit(modules()[module].tree, False)
    return [one for one in statements if one.module.partition(".")[0] in HOUSES]


@cache
def functions() -> list[tuple[str, ast.FunctionDef]]:
    """(dotted name, node) of every function, with methods and inner functions."""
    pairs = []

    def visit(node: ast.AST, path: str) -> None:
        for child in ast.iter_child_nodes(node):
            named = isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef)
            inner = f"{path}.{child.name}" if named else path
            if named and not isinstance(child, ast.ClassDef):
                pairs.append((inner, child))
            visit(child, inner)

    for name, module in modules().items():
        visit(module.tree, name)
    return pairs


def arguments(node: ast.FunctionDef) -> list[ast.arg]:
    given = [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]
    return [one for one in given if one.arg not in ("self", "cls")]


def find_root() -> Iterator[str]:
    files = {file.stem for file in (ROOT / "framework").glob("*.py")}
    rooms = {room(name) for name in modules()} - files - {"face"}
    yield from (files - ROOT_MODULES) | (rooms - set(LEVEL))
    top = [module for module in modules().values() if module.file.parent == ROOT / "framework"]
    if len(top) > 8 or (total := sum(module.lines for module in top)) > 1200:
        yield f"framework/ has {len(top)} modules and {total} lines"


def find_upward() -> Iterator[str]:
    for name in modules():
        mine = room(name)
        for other in {one.module for one in imports(name)}:
            theirs = room(other)
            if theirs == "face":
                upward = mine not in ("cli", "matchers", "personalizers")
            else:
                upward = mine not in ("face", theirs) and LEVEL.get(theirs, 0) >= LEVEL[mine]
            if upward:
                yield f"{name} -> {other}"


def find_circle() -> Iterator[str]:
    """Modules in circles; importing a module of another package runs that package's __init__."""
    graph = {}
    for name in modules():
        others = {one.module for one in imports(name)} & set(modules())
        packages = {other.rpartition(".")[0] for other in others} & set(modules())
        others |= {package for package in packages if not name.startswith(package)}
        graph[name] = others - {name, "framework"}
    for name in graph:
        reached, fresh = set(), graph[name]
        while fresh:
            reached |= fresh
            fresh = set().union(*(graph[other] for other in fresh)) - reached
        if name in reached:
            yield name


def find_local() -> Iterator[str]:
    for name in modules():
        if room(name) not in ("cli", "face"):
            yield from (f"{name} -> {one.module}" for one in imports(name) if one.local)


def find_missing() -> Iterator[str]:
    for name in modules():
        for one in imports(name):
            if one.module not in modules():
                yield f"{name} -> {one.module}"
            elif one.name and not {one.name, "__getattr__"} & bound(one.module):
                yield f"{name} -> {one.module}.{one.name}"


@cache
def bound(module: str) -> set[str]:
    """Names a module binds."""
    names = set()
    for node in ast.walk(modules()[module].tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            names.add(node.name)
        elif isinstance(node, ast.Import | ast.ImportFrom):
            names |= {alias.asname or alias.name for alias in node.names}
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            names.add(node.id)
    return names


def find_lines() -> Iterator[str]:
    yield from (f"{name} {one.lines}" for name, one in modules().items() if one.lines > 300)


def find_function() -> Iterator[str]:
    for name, node in functions():
        if (length := node.end_lineno - node.lineno + 1) > 60:
            yield f"{name} {length}"


def find_arguments() -> Iterator[str]:
    for name, node in functions():
        if (count := len(arguments(node))) > 7:
            yield f"{name} {count}"


def find_shapes() -> Iterator[str]:
    for name, node in functions():
        module, _, own = name.rpartition(".")
        if module in modules() and not own.startswith("_"):
            annotations = [*(one.annotation for one in arguments(node)), node.returns]
            written = [ast.unparse(one) for one in annotations if one]
            tensors = [one for one in written if re.match(r"(torch\.|tuple\[)*Tensor\b", one)]
            if tensors and not SHAPE.search(ast.get_docstring(node) or ""):
                yield name


def find_twice() -> Iterator[str]:
    rooms = defaultdict(set)
    for name, module in modules().items():
        for node in module.tree.body:
            if isinstance(node, ast.FunctionDef | ast.ClassDef) and not node.name.startswith("_"):
                rooms[node.name].add(room(name))
    for name, where in rooms.items():
        if len(where) > 1 and name not in COMMAND_NAMES:
            yield f"{name} in {' '.join(sorted(where, key=list(LEVEL).index))}"


def find_sampler() -> Iterator[str]:
    for name, module in modules().items():
        calls = {
            ast.unparse(one.func) for one in ast.walk(module.tree) if isinstance(one, ast.Call)
        }
        if "Sampler" in calls and name != "framework.composer":
            yield name


def find_readme() -> Iterator[str]:
    lines = len((ROOT / "README.md").read_text().splitlines())
    if lines > 200:
        yield f"README.md {lines}"


def allowances() -> list[list[str]]:
    """(rule, what breaks it, reason) of every line of the list."""
    lines = ALLOWED.read_text().splitlines()
    return [line.split(" | ") for line in lines if line and not line.startswith("#")]


@pytest.mark.parametrize("rule", ADVICE)
def test_rule(rule: str) -> None:
    """What ends in a number on the list is a bound: less is fine, more is not."""
    sized = r"(.*) (\d+)"
    listed = {where for name, where, _ in allowances() if name == rule}
    bounds = {one[1]: int(one[2]) for where in listed if (one := re.fullmatch(sized, where))}
    broken = set()
    for where in globals()[f"find_{rule}"]():
        size = re.fullmatch(sized, where)
        within = size and int(size[2]) <= bounds.get(size[1], 0)
        broken.add(f"{size[1]} {bounds[size[1]]}" if size and within else where)
    new, gone = (
        "".join(f"\n  {rule} | {where}" for where in sorted(one))
        for one in (broken - listed, listed - broken)
    )
    assert not new, f"{ADVICE[rule]}{new}"
    assert not gone, f"Mended, so remove it from tests/{ALLOWED.name}:{gone}"


def test_every_allowance_names_a_rule_and_a_reason() -> None:
    for rule, _, reason in allowances():
        assert rule in ADVICE
        assert len(reason.split()) > 1, reason
