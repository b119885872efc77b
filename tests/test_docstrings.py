"""The docstring of every public name has the parts that its reader looks for."""

import importlib
import inspect
import re
from pathlib import Path

import keras
import pytest

from keras_ms.run.losses import loss_names, named_loss

REFERENCE = Path(__file__).resolve().parents[1] / "docs" / "reference.md"
NAMES = re.findall(r"^   (keras_ms\.[\w.]+)$", REFERENCE.read_text(encoding="utf-8"), re.MULTILINE)
# one of several that do alike: which to take, and how it differs, is what a reader asks
KINDS_WITH_NEIGHBOURS = (keras.losses.Loss, keras.callbacks.Callback, keras.metrics.Metric)
NEIGHBOURS = {
    "keras_ms.CrossBatchMemory",
    "keras_ms.HDML",
    "keras_ms.NeighbourIndices",
    "keras_ms.Proxies",
    "keras_ms.evaluate_embeddings",
    "keras_ms.pair_weights",
    "keras_ms.recall_at_k",
}
# of these a default says nothing that the reader could not guess: no name, nothing told
PLAIN = {"name", "progress"}
# arguments that hold arrays, wherever they occur: their entry says the shape
ARRAYS = {"embeddings", "labels", "features", "upstream", "exponents", "magnitude"}


def object_of(name):
    module, _, last = name.rpartition(".")
    return getattr(importlib.import_module(module), last)


def sections(docstring):
    """The text below each heading of a docstring, by heading."""
    parts = re.split(r"^([A-Z]\w+)(?:,[^\n]*)?:", inspect.cleandoc(docstring), flags=re.MULTILINE)
    return dict(zip(parts[1::2], parts[2::2]))


def entries(text):
    """What an Args or Attributes section says of each name."""
    found = {}
    for names, words in re.findall(
        r"^    ([\w*`, ]+?):((?:.*\n?)(?:^(?:     .*)?\n?)*)", text + "\n", re.MULTILINE
    ):
        found |= {name.strip("* `"): words for name in names.split(",")}
    return found


def parameters(value):
    if isinstance(value, type) and issubclass(value, BaseException):
        return []
    return [name for name in inspect.signature(value).parameters if name != "self"]


def is_record(value):
    """Whether its fields are told as Attributes, which have no defaults."""
    return hasattr(value, "_fields") or hasattr(value, "__dataclass_fields__")


def untold_defaults(value, told):
    if is_record(value) or isinstance(value, type) and issubclass(value, BaseException):
        return []
    given = inspect.signature(value).parameters.values()
    return [
        one.name
        for one in given
        if one.default is not one.empty
        and one.name not in PLAIN
        and not re.search("[Dd]efault|as in|optional|deprecated", told.get(one.name, "default"))
    ]


def has_neighbours(name, value):
    is_kind = isinstance(value, type) and issubclass(value, KINDS_WITH_NEIGHBOURS)
    is_miner, is_order = name.startswith("keras_ms.mining."), name.endswith("_batches")
    return is_kind or is_miner or is_order or name in NEIGHBOURS


def gives_something(value):
    return inspect.isfunction(value) and value.__annotations__["return"] not in (None, "None")


def faults(name, value):
    """What the docstring of a public name lacks, in words."""
    parts = sections(value.__doc__ or "")
    told = entries(parts.get("Args", "") + parts.get("Attributes", ""))
    given = parameters(value)
    missing = [each for each in given if each not in told]
    if missing:
        yield f"no entry for {', '.join(missing)}"
    if untold := untold_defaults(value, told):
        yield f"no default of {', '.join(untold)}"
    for each in sorted(ARRAYS.intersection(given, told)):
        if not re.search(r"\(\w+|as (in|they)|integers|`\w+`", told[each]):
            yield f"no shape of {each}"
    if gives_something(value) and "Returns" not in parts:
        yield "no Returns"
    if "Example" not in parts:
        yield "no Example"
    if has_neighbours(name, value) and len(parts.get("Relations", "").split()) < 10:
        yield "no Relations"


@pytest.mark.parametrize("name", NAMES)
def test_a_docstring_has_its_parts(name):
    assert not list(faults(name, object_of(name)))


@pytest.mark.parametrize("name", loss_names())
def test_a_loss_of_the_command_line_has_the_parts_of_a_public_one(name):
    value = type(named_loss(name))
    assert not list(faults(value.__name__, value))
    parts = sections(value.__doc__)
    assert "Reference" in parts and "Raises" in parts


class Bare(keras.losses.Loss):
    """Computes something.

    Args:
        margin: some.
        beta: some. Defaults to 2.
        name: of it.
    """

    def __init__(self, margin=0.1, alpha=1.0, beta=2.0, name="bare"):
        super().__init__()


class Terse(keras.callbacks.Callback):
    """Watches.

    Relations: none.

    Example:

    >>> Terse()
    """


def measured(embeddings, labels) -> float:
    """Measures.

    Args:
        embeddings: of a network.
        labels: integers (N,).

    Raises:
        ValueError: never.
    """


@pytest.mark.parametrize(
    "value, expected",
    [
        (Bare, ["no entry for alpha", "no default of margin", "no Example", "no Relations"]),
        (Terse, ["no Relations"]),
        (measured, ["no shape of embeddings", "no Returns", "no Example"]),
    ],
)
def test_what_is_missing_is_found(value, expected):
    assert list(faults(value.__name__, value)) == expected


def test_entries_may_share_a_line_and_have_lists():
    text = """
    images: any of
        - arrays
        - paths: files
    alpha, beta: numbers.
    name, **options: as in `PairLoss`.
"""
    assert list(entries(text)) == ["images", "alpha", "beta", "name", "options"]
    assert "paths: files" in entries(text)["images"]
