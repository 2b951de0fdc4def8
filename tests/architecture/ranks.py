"""The house: the rank of every part of jaxdl, lowest first. Imports go only to a lower rank."""

from __future__ import annotations

import ast
from pathlib import Path

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "jaxdl"

RANKS = [
    ["protocols", "errors", "products", "reductions", "tree_paths", "units"],
    [
        *("losses", "metrics", "schedules", "optimizers", "models", "layouts", "data", "judging"),
        *("robustness",),
    ],
    ["objectives", "gradients", "hosts", "weights", "generation", "explain"],
    ["step", "checkpoints"],
    ["placement", "evaluation", "security"],
    ["hooks", "loop"],
    ["recipe", "tpu"],
    ["replay", "rehearsal", "reporting", "privacy"],
    ["testing"],
    ["pytest_plugin", "cli"],
]

# Parts of one rank that build on each other, in this order only.
ORDERED = {
    ("reductions", "errors"),
    ("tree_paths", "errors"),
    ("tree_paths", "protocols"),
    ("optimizers", "schedules"),
}


def rank(part: str) -> int:
    """The rank of a top-level module or package of jaxdl."""
    return next(level for level, parts in enumerate(RANKS) if part in parts)


def modules() -> list[Path]:
    """Every module of the package."""
    return sorted(PACKAGE.rglob("*.py"))


def dotted(path: Path) -> str:
    """``jaxdl/step/train.py`` as ``jaxdl.step.train``."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def part_of(name: str) -> str:
    """``jaxdl.step.train`` as ``step``."""
    return name.split(".")[1] if "." in name else ""


def tree(path: Path) -> ast.Module:
    """The syntax tree of a module."""
    return ast.parse(path.read_text())


def imports(path: Path) -> set[str]:
    """The jaxdl modules that a module imports, anywhere in it, type checking included."""
    known = {dotted(p) for p in modules()}
    found: set[str] = set()
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            for alias in node.names:
                inner = f"{node.module}.{alias.name}"
                found.add(inner if inner in known else node.module)
    return {name for name in found if name.split(".")[0] == "jaxdl"}
