"""The examples in the docstrings of the public names give what they say."""

import doctest
import re
import sys
from pathlib import Path

import keras
import numpy as np
import pytest
from small_transformer import transformer_embedder

import keras_ms
import keras_ms.export
import keras_ms.mining
import keras_ms.search
import keras_ms.weighting

REFERENCE = Path(__file__).resolve().parents[1] / "docs" / "reference.md"
NAMES = re.findall(r"^   (keras_ms\.[\w.]+)$", REFERENCE.read_text(encoding="utf-8"), re.MULTILINE)


def object_of(name):
    module, _, last = name.rpartition(".")
    return getattr(sys.modules[module], last)


def examples_of(name):
    """The docstring of the name and of its own methods, those of them with examples."""
    shown = object_of(name)
    module = sys.modules[shown.__module__]
    names = vars(module) | {each: getattr(keras_ms, each) for each in keras_ms.__all__}
    names |= {"keras": keras, "keras_ms": keras_ms, "np": np, **STAND_INS.get(name, dict)()}
    found = doctest.DocTestFinder().find(shown, name, module=module, globs=names)
    return [test for test in found if test.examples]


def rows():
    random = np.random.default_rng(0)
    images = random.uniform(0, 255, (12, 16, 16, 3)).astype("float32")
    return {"images": images, "labels": np.arange(12) // 3}


def embedder_and_rows():
    return {"embedder": transformer_embedder(), **rows()}


def embedder_and_batches():
    images, labels = rows().values()
    batches = keras_ms.balanced_batches(
        (images, labels), classes_per_batch=2, images_per_class=2, flip=False
    )
    return {"embedder": transformer_embedder(), "batches": batches}


def backbone_and_model():
    embedder = transformer_embedder()
    backbone = embedder.get_layer("backbone")
    return {"backbone": backbone, "model": embedder, "loss": keras_ms.MultiSimilarityLoss()}


# what an example takes for granted
STAND_INS = {
    "keras_ms.GroupedAdam": backbone_and_model,
    "keras_ms.PairStatistics": rows,
    "keras_ms.enable_lora": embedder_and_batches,
    "keras_ms.split_embedder": embedder_and_rows,
}


def has_example(name):
    return ">>>" in (object_of(name).__doc__ or "")


def test_most_names_have_an_example_and_each_stand_in_its_name():
    assert set(STAND_INS) <= set(NAMES)
    assert sum(map(has_example, NAMES)) > len(NAMES) / 2


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in NAMES if has_example(name)])
def test_the_example_gives_what_it_says(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    told = []
    flags = doctest.NORMALIZE_WHITESPACE | doctest.ELLIPSIS
    for test in examples_of(name):
        doctest.DocTestRunner(verbose=False, optionflags=flags).run(test, out=told.append)
    assert not told, "".join(told)
