"""Where the library's files lie and what they import, read without importing any of it."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]

# A room's folder and the name under which it installs.
ROOMS = {
    "pyro_lebm": "pyro_lebm",
    "models": "pyro_lebm.models",
    "inference": "pyro_lebm.inference",
}


def modules() -> dict[str, Path]:
    """Every module of the library under its installed name, with its file."""
    found = {}
    for folder, package in ROOMS.items():
        for file in sorted((ROOT / folder).rglob("*.py")):
            parts = file.relative_to(ROOT / folder).with_suffix("").parts
            found[".".join((package, *(part for part in parts if part != "__init__")))] = file
    return found


def room(module: str) -> str:
    """The folder that holds `module`."""
    return max(
        (f for f, p in ROOMS.items() if f"{module}.".startswith(f"{p}.")),
        key=lambda folder: len(ROOMS[folder]),
    )


def _outside_functions(tree: ast.AST) -> Iterator[ast.AST]:
    """The nodes that run when a module is imported, more or less."""
    yield tree
    for child in ast.iter_child_nodes(tree):
        if not isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            yield from _outside_functions(child)


def imports(module: str, file: Path, *, nested: bool = True) -> Iterator[str]:
    """Absolute names of the modules that `file` imports anywhere, or outside of functions only.

    `from package import name` is the submodule where `name` is one, and the package otherwise.
    """
    known = modules()
    package = module if file.name == "__init__.py" else module.rpartition(".")[0]
    tree = ast.parse(file.read_text(encoding="utf-8"), str(file))
    for node in ast.walk(tree) if nested else _outside_functions(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = package.split(".")[: package.count(".") + 2 - node.level] if node.level else []
            source = ".".join([*above, *([node.module] if node.module else [])])
            for alias in node.names:
                submodule = f"{source}.{alias.name}"
                yield submodule if submodule in known else source
