"""The pair-based losses by name, with their options, read from the source without importing it.

A loss is in the catalogue if its class derives from `PairLoss` and can be made without arguments.
Its name is the default of its argument `name`, its options are the other arguments, their help is
the docstring's Args. So a new loss is one file and nothing is said twice, and a command line can
tell what there is before Keras is imported, which takes seconds.
"""

import ast
import functools
import importlib
import re
from pathlib import Path
from typing import Any, NamedTuple

_PACKAGE = Path(__file__).resolve().parents[1]

# where losses are looked for, below keras_ms: files, or folders of files
LOSS_SOURCES = ("losses",)


class LossOption(NamedTuple):
    """An option of a loss: its name, its default, what its docstring says of it, its types.

    `choices` are the texts that it takes, where it takes some only.
    """

    name: str
    default: Any
    help: str
    types: tuple[type, ...]
    choices: tuple[str, ...] = ()


# of values that a command line and a file of settings can hold
_PLAIN_TYPES = {"bool": bool, "int": int, "float": float, "str": str, "None": type(None)}


class _Entry(NamedTuple):
    module: str
    class_name: str
    options: tuple[LossOption, ...]


def loss_names(sources: tuple[str, ...] = LOSS_SOURCES) -> tuple[str, ...]:
    """The names of all losses, in alphabetical order.

    Args:
        sources: files or folders of files below keras_ms, without ".py".

    Example:

    >>> loss_names()[:3]
    ('angular', 'binomial_deviance', 'circle')
    """
    return tuple(_entries(sources))


def loss_options(name: str, sources: tuple[str, ...] = LOSS_SOURCES) -> tuple[LossOption, ...]:
    """The options of a loss: its own, then those of `PairLoss` that it passes on.

    Args:
        name: of the loss.
        sources: as in `loss_names`.

    Raises:
        ValueError: an unknown name.

    Example:

    >>> [option.name for option in loss_options("contrastive")]
    ['threshold', 'block_size', 'jit_compile', 'reduction', 'dtype']
    """
    return _entry(name, sources).options


def class_options(file: str, class_name: str) -> tuple[LossOption, ...]:
    """The arguments with a default of a class that is made with options, as `loss_options`.

    Args:
        file: below keras_ms, without ".py".
        class_name: of a class in it.

    Example:

    >>> class_options("hdml/model", "HDML")[-2].name
    'average_steps'
    """
    return tuple(_options(_class_in(_PACKAGE / f"{file}.py", class_name), {}))


def named_loss(name: str, *, sources: tuple[str, ...] = LOSS_SOURCES, **options: Any) -> Any:
    """The loss of this name with these options; the others keep their defaults.

    Raises:
        ValueError: an unknown name, an unknown option or a value out of range.

    Example:

    >>> named_loss("contrastive", threshold=0.3).threshold
    0.3
    """
    entry = _entry(name, sources)
    loss_class = getattr(importlib.import_module(entry.module), entry.class_name)
    try:
        return loss_class(**options)
    except TypeError as error:
        raise ValueError(f"Loss {name}: {error}") from error


def _entry(name, sources):
    entries = _entries(sources)
    if name not in entries:
        raise ValueError(f"Unknown loss. Expected one of {', '.join(entries)}. Received: {name!r}")
    return entries[name]


@functools.cache
def _entries(sources):
    """Of every name the _Entry, in alphabetical order."""
    pair_loss = _class_in(_PACKAGE / "losses" / "pair_loss.py", "PairLoss")
    common = {option.name: option for option in _options(pair_loss, {})}
    entries = {}
    for source in sources:
        place = _PACKAGE / source
        for path in sorted(place.glob("*.py")) if place.is_dir() else [place.with_suffix(".py")]:
            for node in ast.parse(path.read_text(encoding="utf-8")).body:
                if _is_loss(node):
                    options = {option.name: option for option in _options(node, common)}
                    name = options.pop("name").default
                    module = (
                        f"keras_ms.{source}.{path.stem}" if place.is_dir() else f"keras_ms.{source}"
                    )
                    module = module.replace("/", ".")
                    entries[name] = _Entry(module, node.name, tuple(options.values()))
    return dict(sorted(entries.items()))


def _class_in(path, name):
    body = ast.parse(path.read_text(encoding="utf-8")).body
    return next(node for node in body if isinstance(node, ast.ClassDef) and node.name == name)


def _is_loss(node):
    if not isinstance(node, ast.ClassDef):
        return False
    bases = [base.id for base in node.bases if isinstance(base, ast.Name)]
    return "PairLoss" in bases and not _required_arguments(node)


def _constructor(node):
    return next(
        part.args
        for part in node.body
        if isinstance(part, ast.FunctionDef) and part.name == "__init__"
    )


def _required_arguments(node):
    arguments = _constructor(node)
    without_default = len(arguments.args) - len(arguments.defaults)
    # the first is self
    return without_default > 1 or None in arguments.kw_defaults


def _options(node, common):
    """The options of a class, those of `common` last that its Args name beside **options."""
    arguments = _constructor(node)
    help_of = _argument_help(ast.get_docstring(node) or "")
    positional = arguments.args[len(arguments.args) - len(arguments.defaults) :]
    given = [
        *zip(positional, arguments.defaults),
        *zip(arguments.kwonlyargs, arguments.kw_defaults),
    ]
    for argument, node in given:
        default, explanation = _literal(node), help_of.get(argument.arg, "")
        types = _types(argument.annotation) or _types_like(default)
        yield LossOption(argument.arg, default, explanation, types, _choices(argument.annotation))
    for name in re.findall(r"`(\w+)`", help_of.get("**options", "")):
        if name in common:
            yield common[name]


def _literal(node):
    try:
        return ast.literal_eval(node)
    except ValueError:  # a function, as PairLoss's miner: no option of a loss
        return ast.unparse(node)


def _types(annotation):
    """The types of `float | None` or `Literal["hard", "all"]`; () of what is no plain value."""
    if isinstance(annotation, ast.BinOp):
        return (*_types(annotation.left), *_types(annotation.right))
    if literals := _literals(annotation):
        return tuple(dict.fromkeys(type(value) for value in literals))
    named = annotation is not None and ast.unparse(annotation)
    return tuple(_PLAIN_TYPES[name] for name in (named,) if name in _PLAIN_TYPES)


def _choices(annotation):
    """The texts of the Literal in an annotation; () without one, any text may be meant."""
    if isinstance(annotation, ast.BinOp):
        return (*_choices(annotation.left), *_choices(annotation.right))
    return tuple(value for value in _literals(annotation) if isinstance(value, str))


def _literals(annotation):
    if not isinstance(annotation, ast.Subscript) or ast.unparse(annotation.value) != "Literal":
        return ()
    values = ast.literal_eval(annotation.slice)
    return values if isinstance(values, tuple) else (values,)


def _types_like(default):
    # None may stand for a number
    return (float, type(None)) if default is None else (type(default),)


def _argument_help(docstring):
    """What the Args of a docstring say, by argument: "alpha, beta: ..." says it of both."""
    match = re.search(r"^Args:\n((?:(?: {4}.*)?\n)+)", docstring + "\n", re.MULTILINE)
    texts = {}
    for part in re.split(r"\n(?= {4}\S)", match.group(1).rstrip()) if match else ():
        names, _, text = part.strip().partition(":")
        for name in names.split(","):
            texts[name.strip()] = " ".join(text.split())
    return texts
