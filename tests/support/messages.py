"""Every error text of the package, collected from its source; as a script, print them all."""

from __future__ import annotations

import ast
import itertools
import re
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "finch_hub"
SNAPSHOT = ROOT / "tests" / "unit" / "messages.txt"
# Errors that no user sees: they state what the code takes for granted.
INTERNAL = {"AssertionError", "AttributeError", "NotImplementedError", "KeyError", "StopIteration"}
_MAX_VARIANTS = 24
_MAX_FIELD = 48


def snapshot() -> str:
    """Return all error texts, a section for each module."""
    sections = []
    for file in sorted(PACKAGE.rglob("*.py")):
        if texts := collect(file.read_text(encoding="utf-8")):
            sections.append("\n".join([f"[{file.relative_to(ROOT)}]", *texts]) + "\n")
    return "\n".join(sections)


def collect(source: str) -> list[str]:
    """Return the error texts of one module, sorted; what is filled in stands in braces.

    Looks at `Problem(...)`, at the arguments of exceptions, of warnings and of `super().__init__` in exceptions. A
    variable stands for all texts that its function gives it.
    """
    found: set[str] = set()
    tree = ast.parse(source)
    _visit(tree, {}, found)
    return sorted(found)


def _visit(node: ast.AST, names: dict[str, list[ast.expr]], found: set[str]) -> None:
    if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
        names = {**names, **_assigned(node)}
    if isinstance(node, ast.Call):
        found.update(_texts(node, names))
    for child in ast.iter_child_nodes(node):
        _visit(child, names, found)


def _texts(call: ast.Call, names: dict[str, list[ast.expr]]) -> Iterator[str]:
    name = ast.unparse(call.func).rpartition(".")[2]
    given = {keyword.arg: keyword.value for keyword in call.keywords}
    is_problem = "fix" in given or "what" in given or ("where" in given and _is_error(call, name))
    if name == "NotFound":
        fixes = [f" ({fix})" for fix in _strings(given["fix"], names)] if "fix" in given else [""]
        for kind in _strings(call.args[0], names) if call.args else ():
            yield from (f"there is no {kind} {{name}}{fix}" for fix in fixes)
    elif name == "Finding" or is_problem:
        keys = ("about", "found", "advice") if name == "Finding" else ("where", "what", "fix")
        if call.args:  # a helper that makes a problem takes what is wrong first
            given.setdefault(keys[1], call.args[0])
        parts = [list(_strings(given[key], names)) if key in given else [""] for key in keys]
        for where, what, fix in itertools.islice(itertools.product(*parts), _MAX_VARIANTS):
            if any(map(own_words, (where, what, fix))):
                yield (f"{where}: " if where else "") + what + (f" ({fix})" if fix else "")
    elif _is_error(call, name) and call.args:
        yield from (text for text in _strings(call.args[0], names) if own_words(text))


def _is_error(call: ast.Call, name: str) -> bool:
    if isinstance(call.func, ast.Attribute) and ast.unparse(call.func) in ("super().__init__", "warnings.warn"):
        return (bool(call.args) and not isinstance(call.args[0], ast.Name | ast.Starred)) or name == "warn"
    from_errors = isinstance(call.func, ast.Attribute) and ast.unparse(call.func.value) in ("errors", "click")
    builtin = isinstance(call.func, ast.Name) and name.endswith(("Error", "Warning"))
    return ((from_errors and name[0].isupper() and "Path" not in name) or builtin) and name not in INTERNAL


def _assigned(function: ast.FunctionDef | ast.AsyncFunctionDef) -> dict[str, list[ast.expr]]:
    """Return what a function assigns to each of its names."""
    found: dict[str, list[ast.expr]] = {}
    for node in ast.walk(function):
        if isinstance(node, ast.Assign):
            for target in node.targets:
                values = node.value.elts if isinstance(node.value, ast.Tuple) else [node.value]
                targets = target.elts if isinstance(target, ast.Tuple) else [target]
                for name, value in zip(targets, values, strict=False):
                    if isinstance(name, ast.Name):
                        found.setdefault(name.id, []).append(value)
        elif isinstance(node, ast.NamedExpr):
            found.setdefault(node.target.id, []).append(node.value)
    return found


def _strings(node: ast.expr, names: dict[str, list[ast.expr]]) -> Iterator[str]:
    """Yield each text that an expression may have."""
    if isinstance(node, ast.Constant):
        yield node.value if isinstance(node.value, str) else ast.unparse(node)
    elif isinstance(node, ast.JoinedStr):
        yield "".join(_piece(value) for value in node.values)
    elif isinstance(node, ast.IfExp):
        yield from _strings(node.body, names)
        yield from _strings(node.orelse, names)
    elif isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):
        for left, right in itertools.product(_strings(node.left, names), _strings(node.right, names)):
            yield left + right
    elif isinstance(node, ast.Name) and node.id in names:
        outer = {name: values for name, values in names.items() if name != node.id}
        for value in names[node.id]:
            yield from _strings(value, outer)
    else:
        yield _field(node)


def _piece(value: ast.expr) -> str:
    if isinstance(value, ast.FormattedValue):
        return _field(value.value)
    return str(value.value) if isinstance(value, ast.Constant) else ast.unparse(value)


def _field(node: ast.expr) -> str:
    """Return what is filled in, in braces; only that there is something where the expression is long."""
    if isinstance(node, ast.Call) and ast.unparse(node.func) in ("str", "repr") and len(node.args) == 1:
        node = node.args[0]
    text = ast.unparse(node)
    return f"{{{text}}}" if len(text) <= _MAX_FIELD else "{…}"


def own_words(text: str) -> list[str]:
    """Return the words of a template, without what is filled in."""
    depth, own = 0, ""
    for character in text:
        depth += (character == "{") - (character == "}")
        own += character if depth == 0 and character != "}" else ""
    return re.findall(r"[^\W\d_][\w'-]*", own)


if __name__ == "__main__":
    SNAPSHOT.write_text(snapshot(), encoding="utf-8")
