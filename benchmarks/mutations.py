"""Small wrong changes to a Python file, found in its syntax tree. Used by ``mutants.py``."""

from __future__ import annotations

import ast
import copy
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

__all__ = ["Mutant", "mutants_of"]

ARITHMETIC = {
    ast.Add: ast.Sub, ast.Sub: ast.Add, ast.Mult: ast.Div, ast.Div: ast.Mult,
    ast.FloorDiv: ast.Mult, ast.Mod: ast.FloorDiv, ast.Pow: ast.Mult,
}  # fmt: skip
COMPARE = {
    ast.Lt: ast.LtE, ast.LtE: ast.Lt, ast.Gt: ast.GtE, ast.GtE: ast.Gt, ast.Eq: ast.NotEq,
    ast.NotEq: ast.Eq, ast.Is: ast.IsNot, ast.IsNot: ast.Is, ast.In: ast.NotIn, ast.NotIn: ast.In,
}  # fmt: skip
LOGIC = {ast.And: ast.Or, ast.Or: ast.And, ast.BitAnd: ast.BitOr, ast.BitOr: ast.BitAnd}
RENAMED = {
    "max": "min", "min": "max", "maximum": "minimum", "minimum": "maximum", "any": "all",
    "all": "any", "zeros": "ones", "ones": "zeros", "zeros_like": "ones_like",
    "ones_like": "zeros_like", "argmax": "argmin", "isfinite": "isnan",
}  # fmt: skip
LEFT_OUT = {
    "psum", "pmax", "pmin", "stop_gradient", "fold_in", "device_put", "copy", "block_until_ready",
    "square", "abs", "cumsum", "cummax", "cummin", "clip", "swapaxes", "replace", "combine",
    "tree.map", "softmax", "expand_mask", "ceil", "cast",
}  # fmt: skip
METHODS = {"astype", "reshape", "strip", "lower"}
"""Methods that are left out: ``x.astype(d)`` becomes ``x``."""
TURNED = {"where": (1, 2), "cond": (1, 2)}
"""Calls of which two arguments change places."""


@dataclass(frozen=True)
class Mutant:
    """One change: the bytes from ``start`` to ``end`` of a file become ``text``."""

    file: str
    function: str
    kind: str
    line: int
    start: int
    end: int
    before: str
    after: str
    text: str

    @property
    def package(self) -> str:
        """The package of jaxdl that the file lies in."""
        return Path(self.file).parts[1]

    @property
    def id(self) -> str:
        """A name that stays when other lines of the file change."""
        return f"{self.file}::{self.function}: {self.before} -> {self.after}"

    def applied(self, source: bytes) -> bytes:
        """The file with the change."""
        return source[: self.start] + self.text.encode() + source[self.end :]


def mutants_of(file: Path, root: Path) -> list[Mutant]:
    """All mutants of a file; of two that read alike in one function, the first."""
    source = file.read_bytes()
    finder = _Finder(source, str(file.relative_to(root)))
    finder.visit(ast.parse(source))
    return list({mutant.id: mutant for mutant in reversed(finder.found)}.values())[::-1]


class _Finder(ast.NodeVisitor):
    """Walks over what is run; annotations, texts, decorators and errors are passed by."""

    def __init__(self, source: bytes, name: str):
        self.found: list[Mutant] = []
        self._name = name
        self._functions: list[ast.FunctionDef | ast.ClassDef] = []
        self._lines = [0]
        for line in source.splitlines(keepends=True):
            self._lines.append(self._lines[-1] + len(line))

    def _add(
        self, kind: str, old: ast.AST, new: ast.AST | str, shown: ast.AST | None = None
    ) -> None:
        after = new if isinstance(new, str) else ast.unparse(new)
        text = after if isinstance(new, str | ast.Slice) else f"({after})"
        if isinstance(new, ast.Tuple) and any(isinstance(each, ast.Slice) for each in new.elts):
            text = after[1:-1]
        mutant = Mutant(
            self._name,
            ".".join(function.name for function in self._functions) or "module",
            kind,
            old.lineno,
            self._lines[old.lineno - 1] + old.col_offset,
            self._lines[old.end_lineno - 1] + old.end_col_offset,
            ast.unparse(shown or old),
            after,
            text,
        )
        if mutant.before != mutant.after:
            self.found.append(mutant)

    def visit_FunctionDef(self, node: ast.FunctionDef) -> None:
        if any(ast.unparse(each) == "overload" for each in node.decorator_list):
            return
        names = [*node.args.posonlyargs, *node.args.args]
        defaults = list(zip(reversed(names), reversed(node.args.defaults), strict=False))
        keywords = zip(node.args.kwonlyargs, node.args.kw_defaults, strict=True)
        self._functions.append(node)
        for name, default in [*defaults, *keywords]:
            for new in _constants(default):
                self._add_default(name.arg, default, new)
        for statement in node.body:
            self.visit(statement)
        self._functions.pop()

    def _add_default(self, name: str, default: ast.expr, new: ast.expr) -> None:
        keyword = ast.Name(f"{name}={ast.unparse(default)}")
        self._add("constant", default, f"{ast.unparse(new)}", keyword)

    def visit_ClassDef(self, node: ast.ClassDef) -> None:
        self._functions.append(node)
        for statement in node.body:
            self.visit(statement)
        self._functions.pop()

    def visit_AnnAssign(self, node: ast.AnnAssign) -> None:
        if node.value is not None:
            self._children(node, [node.value])

    def visit_Assign(self, node: ast.Assign) -> None:
        if ast.unparse(node.targets[0]) != "__all__":
            self._children(node, [node.value])

    def visit_Raise(self, node: ast.Raise) -> None:
        """What an error says is not mutated."""

    def visit_JoinedStr(self, node: ast.JoinedStr) -> None:
        """Nor is a text."""

    def visit_Return(self, node: ast.Return) -> None:
        function = self._functions[-1]
        arguments = [arg.arg for arg in function.args.posonlyargs + function.args.args]
        arguments = [name for name in arguments if name not in ("self", "cls")]
        if node.value is not None and arguments and not _is_error(node.value):
            self._add("return", node, f"return {arguments[0]}")
        self._children(node, [node.value] if node.value else [])

    def visit_Expr(self, node: ast.Expr) -> None:
        if isinstance(node.value, ast.Call) and _called(node.value) != "warn":
            self._add("statement", node, "pass")
            self.visit(node.value)

    def visit_If(self, node: ast.If) -> None:
        self._negated(node.test)
        self.generic_visit(node)

    def visit_IfExp(self, node: ast.IfExp) -> None:
        self._negated(node.test)
        self._children(node)

    def _negated(self, test: ast.expr) -> None:
        if isinstance(test, ast.UnaryOp) and isinstance(test.op, ast.Not):
            self._add("condition", test, test.operand)
        elif not (isinstance(test, ast.Compare) and len(test.ops) == 1):
            self._add("condition", test, ast.UnaryOp(ast.Not(), test))

    def visit_BinOp(self, node: ast.BinOp) -> None:
        for kind, table in (("arithmetic", ARITHMETIC), ("logic", LOGIC)):
            other = table.get(type(node.op))
            if other is not None and not any(map(_is_text, (node.left, node.right))):
                self._add(kind, node, ast.BinOp(node.left, other(), node.right))
        self._children(node)

    def visit_BoolOp(self, node: ast.BoolOp) -> None:
        self._add("logic", node, ast.BoolOp(LOGIC[type(node.op)](), node.values))
        self._children(node)

    def visit_UnaryOp(self, node: ast.UnaryOp) -> None:
        kind = "arithmetic" if isinstance(node.op, ast.USub) else "logic"
        self._add(kind, node, node.operand)
        self._children(node)

    def visit_Compare(self, node: ast.Compare) -> None:
        for index, operator in enumerate(node.ops):
            other = [*node.ops[:index], COMPARE[type(operator)](), *node.ops[index + 1 :]]
            self._add("compare", node, ast.Compare(node.left, other, node.comparators))
        self._children(node)

    def visit_Call(self, node: ast.Call) -> None:
        name = _called(node)
        if _is_error(node) or name == "warn":
            return
        for new in _calls(node, name):
            self._add("call", node, new)
        arguments = node.args[:1] if name == "isinstance" else node.args
        values = [each.value for each in node.keywords]
        for keyword in node.keywords:
            for new in _constants(keyword.value):
                other = [k if k is not keyword else ast.keyword(k.arg, new) for k in node.keywords]
                self._add("constant", node, ast.Call(node.func, node.args, other))
        self._children(node, [node.func, *arguments], values)

    def _children(
        self,
        node: ast.AST,
        children: list[ast.expr] | None = None,
        others: list[ast.expr] | None = None,
    ) -> None:
        """Visits children; a constant among them is shown with what stands around it."""
        found = list(ast.iter_child_nodes(node)) if children is None else children
        for child in found:
            for new in _constants(child):
                if isinstance(node, ast.expr):
                    self._add("constant", node, _swapped(node, child, new))
                else:
                    self._add("constant", child, new, node)
        for child in [*found, *(others or [])]:
            if not isinstance(child, ast.Constant):
                self.visit(child)

    def visit_Tuple(self, node: ast.Tuple) -> None:
        self._children(node)

    visit_Subscript = visit_Slice = visit_Tuple  # noqa: N815


def _swapped(parent: ast.expr, child: ast.AST, new: ast.expr) -> ast.expr:
    """The parent with another child."""
    other = copy.copy(parent)
    for name, value in ast.iter_fields(parent):
        if value is child:
            setattr(other, name, new)
        elif isinstance(value, list):
            setattr(other, name, [new if each is child else each for each in value])
    return other


def _constants(node: ast.AST | None) -> Iterator[ast.expr]:
    """Another value in place of a number or a truth; a text and ``None`` have none."""
    if isinstance(node, ast.Constant) and isinstance(node.value, bool | int | float):
        value = node.value
        yield ast.Constant(not value if isinstance(value, bool) else 0 if value == 1 else value + 1)


def _calls(node: ast.Call, name: str) -> Iterator[ast.expr]:
    """The call left out, named otherwise, or with two arguments turned round."""
    full, plain = ast.unparse(node.func), not any(isinstance(a, ast.Starred) for a in node.args)
    if name in RENAMED and node.args:
        other = copy.copy(node.func)
        setattr(other, "id" if isinstance(other, ast.Name) else "attr", RENAMED[name])
        yield ast.Call(other, node.args, node.keywords)
    if name in TURNED and plain and len(node.args) > TURNED[name][1]:
        first, second = TURNED[name]
        turned = list(node.args)
        turned[first], turned[second] = turned[second], turned[first]
        yield ast.Call(node.func, turned, node.keywords)
    if (name in LEFT_OUT or full.endswith("tree.map")) and plain and node.args:
        yield node.args[1] if full.endswith("tree.map") else node.args[0]
    if name in METHODS and isinstance(node.func, ast.Attribute):
        yield node.func.value
    if name == "alone" and node.args:
        yield ast.Call(node.args[0], node.args[1:], node.keywords)


def _called(node: ast.Call) -> str:
    return ast.unparse(node.func).rpartition(".")[2]


def _is_error(node: ast.expr) -> bool:
    return isinstance(node, ast.Call) and _called(node).endswith("Error")


def _is_text(node: ast.expr) -> bool:
    return isinstance(node, ast.JoinedStr) or (
        isinstance(node, ast.Constant) and isinstance(node.value, str)
    )
