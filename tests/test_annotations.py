"""Public functions say what they take and give."""

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parents[1] / "keras_ms"


def unannotated(source):
    """ "name: what lacks a type" of each public function and method of a module."""
    lines = []

    def visit(body, prefix):
        for node in body:
            if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                visit(node.body, f"{prefix}{node.name}.")
            elif isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)) and is_public(node.name):
                lacking = [*arguments_without_type(node, is_method=bool(prefix))]
                # of a constructor there is nothing to say
                if node.returns is None and node.name != "__init__":
                    lacking.append("return")
                if lacking:
                    lines.append(f"{prefix}{node.name}: {', '.join(lacking)}")

    visit(ast.parse(source).body, "")
    return lines


def is_public(name):
    return not name.startswith("_") or (name.startswith("__") and name.endswith("__"))


def arguments_without_type(function, is_method):
    given = function.args
    is_static = any(ast.unparse(each) == "staticmethod" for each in function.decorator_list)
    positional = [*given.posonlyargs, *given.args][1 if is_method and not is_static else 0 :]
    for argument in (*positional, given.vararg, *given.kwonlyargs, given.kwarg):
        if argument is not None and argument.annotation is None:
            yield argument.arg


def test_every_public_function_carries_types():
    lacking = [
        f"{path.relative_to(PACKAGE)}: {line}"
        for path in sorted(PACKAGE.rglob("*.py"))
        for line in unannotated(path.read_text(encoding="utf-8"))
    ]
    assert not lacking, "\n".join(lacking)


@pytest.mark.parametrize(
    "source, line",
    [
        ("def f(a, b: int) -> int: ...", "f: a"),
        ("def f(a: int, *, b=1) -> int: ...", "f: b"),
        ("def f(*args, **options) -> None: ...", "f: args, options"),
        ("async def f(): ...", "f: return"),
        ("class A:\n    def __init__(self, a): ...", "A.__init__: a"),
        ("class A:\n    @staticmethod\n    def f(a) -> int: ...", "A.f: a"),
        ("class A:\n    class B:\n        def f(self): ...", "A.B.f: return"),
    ],
)
def test_a_missing_type_is_found(source, line):
    assert unannotated(source) == [line]


@pytest.mark.parametrize(
    "source",
    [
        "def _f(a): ...",
        "class _A:\n    def f(self, a): ...",
        "class A:\n    def __init__(self, a: int): ...\n\n    def _f(self, a): ...",
        "def f(a: int, *args: int, **options: int) -> None:\n    def inner(b): ...",
    ],
)
def test_what_needs_no_type_passes(source):
    assert unannotated(source) == []


def test_names_that_load_on_first_use_have_their_types_from_the_same_modules():
    body = ast.parse((PACKAGE / "__init__.py").read_text(encoding="utf-8")).body
    (typed,) = [
        node
        for node in body
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"
    ]
    (loaded,) = [
        ast.literal_eval(node.value)
        for node in body
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "_ON_FIRST_USE"
    ]
    assert {alias.name: node.module for node in typed.body for alias in node.names} == loaded
