"""The rules of the house, each held by a look at the syntax trees. No rule has exceptions."""

from __future__ import annotations

import ast
import compileall
import graphlib
import re
import sys

import pytest
from ranks import ORDERED, PACKAGE, RANKS, ROOT, dotted, imports, modules, part_of, rank, tree

MODULES = modules()
INNER = [path for path in MODULES if path.parent != PACKAGE or path.name != "__init__.py"]
IDS = [dotted(path) for path in MODULES]
BANNED_NAMES = {"utils", "util", "common", "misc", "lib", "helpers", "core", "base"}
DEPENDENCIES = {"jax", "flax", "optax", "orbax", "grain", "chex", "numpy", "tyro", "rich", "tfds"}


def test_every_part_has_a_rank():
    parts = {path.relative_to(PACKAGE).parts[0].removesuffix(".py") for path in INNER}
    assert parts == {part for level in RANKS for part in level}


@pytest.mark.parametrize("path", INNER, ids=dotted)
def test_imports_go_to_a_lower_rank(path):
    me = part_of(dotted(path))
    for name in imports(path):
        other = part_of(name)
        if other in ("", me) or (me, other) in ORDERED:
            continue
        assert rank(other) < rank(me), f"{dotted(path)} (rank {rank(me)}) imports {name}"


def test_no_import_cycles():
    graph = {dotted(p): imports(p) - {dotted(p), "jaxdl"} for p in INNER}
    list(graphlib.TopologicalSorter(graph).static_order())


@pytest.mark.parametrize("path", MODULES, ids=dotted)
def test_files_are_read_in_one_sitting(path):
    assert len(path.read_text().splitlines()) <= 400


def functions(path):
    return [n for n in ast.walk(tree(path)) if isinstance(n, ast.FunctionDef)]


def body_lines(node: ast.FunctionDef) -> int:
    """Lines of a function's body, without its docstring and without the functions inside it."""
    statements = node.body[1:] if ast.get_docstring(node) else node.body
    if not statements:
        return 0
    inner = [n for s in statements for n in ast.walk(s) if isinstance(n, ast.FunctionDef)]
    inside = {line for n in inner for line in range(n.lineno, (n.end_lineno or 0) + 1)}
    lines = range(statements[0].lineno, (statements[-1].end_lineno or 0) + 1)
    return len(set(lines) - inside)


@pytest.mark.parametrize("path", MODULES, ids=dotted)
def test_functions_fit_a_screen(path):
    for node in functions(path):
        assert body_lines(node) <= 40, f"{node.name}: {body_lines(node)} lines"
        positional = [a.arg for a in node.args.posonlyargs + node.args.args]
        positional = [a for a in positional if a not in ("self", "cls")]
        assert len(positional) <= 6, f"{node.name}: {len(positional)} positional parameters"


def test_names_say_what_is_in_the_room():
    for path in MODULES:
        stem = path.stem
        assert stem not in BANNED_NAMES, path
        assert stem not in DEPENDENCIES or path.parent != PACKAGE, path


def public_nodes(path):
    kinds = (ast.FunctionDef, ast.ClassDef)
    return [n for n in tree(path).body if isinstance(n, kinds) and not n.name.startswith("_")]


@pytest.mark.parametrize("path", INNER, ids=dotted)
def test_all_lists_the_public_names(path):
    assigned = [
        node.value
        for node in tree(path).body
        if isinstance(node, ast.Assign)
        and any(getattr(t, "id", "") == "__all__" for t in node.targets)
    ]
    assert len(assigned) == 1, "one __all__"
    listed = ast.literal_eval(assigned[0])
    assert len(listed) == len(set(listed))
    if path.name != "__init__.py":
        assert {n.name for n in public_nodes(path)} <= set(listed)


def test_facade_is_one_screen_and_true():
    import jaxdl

    assert len((PACKAGE / "__init__.py").read_text().splitlines()) <= 135
    for name in jaxdl.__all__:
        assert getattr(jaxdl, name) is not None
    assert sorted(jaxdl.__all__) == sorted({*jaxdl._NAMES, *jaxdl._MODULES})
    with pytest.raises(AttributeError, match="did you mean 'supervised'"):
        _ = jaxdl.supervise


@pytest.mark.parametrize("path", MODULES, ids=dotted)
def test_modules_open_with_what_they_are(path):
    text = ast.get_docstring(tree(path))
    assert text
    if path.name != "__init__.py":
        assert "Reads from:" in text, "say what it reads from"
        assert "Used by:" in text, "say who uses it"


def parameters(node: ast.FunctionDef) -> list[str]:
    args = node.args.posonlyargs + node.args.args + node.args.kwonlyargs
    return [a.arg for a in args if a.arg not in ("self", "cls")]


@pytest.mark.parametrize("path", INNER, ids=dotted)
def test_public_functions_document_every_parameter(path):
    for node in public_nodes(path):
        text = ast.get_docstring(node) or ""
        if any(ast.unparse(d) == "overload" for d in node.decorator_list):
            continue
        assert text, f"{node.name} has no docstring"
        if not isinstance(node, ast.FunctionDef) or not parameters(node):
            continue
        section = text.partition("Args:")[2]
        for name in parameters(node):
            assert re.search(rf"^\s*{name}:", section, flags=re.MULTILINE), f"{node.name}: {name}"


@pytest.mark.parametrize("path", MODULES, ids=dotted)
def test_code_keeps_the_rules(path):
    source, nodes = path.read_text(), list(ast.walk(tree(path)))
    assert "jax._src" not in source, "public APIs only"
    assert not re.search(r"\b(TODO|FIXME|XXX)\b", source)
    assert not [n for n in nodes if isinstance(n, ast.Assert)], "raise a jaxdl error"
    for node in functions(path):
        named = dict(zip([a.arg for a in node.args.kwonlyargs], node.args.kw_defaults, strict=True))
        key = named.get("key")
        assert not isinstance(key, ast.Call), f"{node.name}: a key has no default value"


def test_everything_compiles():
    for folder in ("jaxdl", "examples", "tests", "benchmarks"):
        assert compileall.compile_dir(str(ROOT / folder), quiet=2, force=False)
    assert sys.version_info >= (3, 11)


ROOMS_OF_TPU = ["slices", "programs", "plans", "changing", "showing", "budget"]


@pytest.mark.parametrize("room", ROOMS_OF_TPU)
def test_rooms_of_the_planner_read_from_those_above(room):
    allowed = ROOMS_OF_TPU[: ROOMS_OF_TPU.index(room) + 1]
    read = {
        name.split(".")[2]
        for path in (PACKAGE / "tpu" / room).glob("*.py")
        for name in imports(path)
        if name.startswith("jaxdl.tpu.")
    }
    assert read <= set(allowed), f"{room} reads from {read - set(allowed)}"
