"""The card of a model: a README.md with the metadata that huggingface.co reads, written offline."""

import importlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

from keras_ms import __version__
from keras_ms.files import whole_file
from keras_ms.report.card_figures import CardFigure, about_figures, below_start, figure_table
from keras_ms.report.card_snippets import KERAS, ONNXRUNTIME, PHOTO_ONNX, TENSORFLOW, VIEW

_TASK = "image-feature-extraction"


class CardFile(NamedTuple):
    """A file of the model."""

    name: str  # "embedder.keras", "saved_model", "embedder.onnx" or "photo_embedder.onnx"
    num_bytes: int
    difference: float | None = None  # largest one from the Keras model, where it was compared


@dataclass(frozen=True)
class CardContents:
    """What a card says; nothing of it is looked up elsewhere.

    Attributes:
        name: of the model.
        dimension: of its embeddings.
        data_name: name of its data set.
        counts: (classes, images) by split.
        figures: on the test classes, Recall@1 among them.
        num_resamples: of the bootstrap that the intervals come from; 0 without.
        facts: what it is and how it was trained, text by name.
        loss: name of the loss.
        seed: of the training.
        preprocessing: how a picture becomes its input, in words.
        rule: the same as exported files have it; None where that is not known.
        files: what holds the model.
        fingerprint: what all files of the model share.
        licence: identifier of huggingface.co's list; "" if not said.
        hub_datasets: identifiers of its data sets on huggingface.co.
    """

    name: str
    dimension: int
    data_name: str
    counts: Mapping[str, Sequence[int]]
    figures: Sequence[CardFigure]
    facts: Mapping[str, str]
    loss: str
    seed: int
    preprocessing: str
    files: Sequence[CardFile]
    fingerprint: str
    rule: Mapping[str, Any] | None = None
    num_resamples: int = 0
    licence: str = ""
    hub_datasets: Sequence[str] = field(default_factory=tuple)


def import_card_package() -> ModuleType:
    """Imports huggingface_hub, of the extra `card`, or says how to install it."""
    try:
        return importlib.import_module("huggingface_hub")
    except ImportError as error:
        raise ImportError(
            "A model card needs the package 'huggingface_hub', which could not be imported "
            f'({error}). Install it with: pip install -e ".[card]"'
        ) from error


def write_model_card(contents: CardContents, path: str | Path) -> None:
    """Writes a card as one Markdown file; the network is not used.

    Args:
        contents: what it says.
        path: the file, README.md for huggingface.co; it appears whole or not at all.

    Raises:
        ImportError: huggingface_hub, of the extra `card`, is missing.
        OSError: the file cannot be written.
    """
    text = model_card(contents)
    with whole_file(path) as temporary:
        temporary.write_text(text, encoding="utf-8", errors="replace")


def model_card(contents: CardContents) -> str:
    """The text of a card, its metadata first."""
    hub: Any = import_card_package()
    metadata = hub.ModelCardData(**_metadata(contents), eval_results=_results(contents, hub))
    body = "\n\n".join(filter(None, _body(contents)))
    # read once more by the library that reads it on the hub
    return str(hub.ModelCard(f"---\n{metadata.to_yaml()}\n---\n\n{body}\n"))


def _metadata(contents):
    values = {
        "model_name": contents.name,
        "library_name": "keras",
        "pipeline_tag": _TASK,
        "license": contents.licence or None,
        "datasets": list(contents.hub_datasets) or None,
        "metrics": [figure.key.replace("@", "_at_") for figure in contents.figures],
        "tags": ["keras_ms", "metric-learning", "image-retrieval", "image-similarity"],
    }
    values["tags"].append(contents.loss.replace("_", "-"))
    values["tags"] += ["onnx"] * any(file.name.endswith(".onnx") for file in contents.files)
    return values


def _results(contents, hub):
    # what the hub takes for the type of a data set
    slug = re.sub(r"[^\w.-]+", "-", contents.data_name).strip("-") or "unknown"
    return [
        hub.EvalResult(
            task_type=_TASK,
            task_name="Image retrieval",
            dataset_type=contents.hub_datasets[0] if contents.hub_datasets else slug,
            dataset_name=f"{contents.data_name}, classes not trained on",
            dataset_split="test",
            metric_type=figure.key.replace("@", "_at_"),
            metric_name=figure.name,
            metric_value=round(figure.value, 4),
        )
        for figure in contents.figures
    ]


def _body(contents):
    classes, images = contents.counts["test"]
    yield f"# {_plain(contents.name)}"
    yield (
        f"An image embedder: it makes {contents.dimension:,} numbers of a picture, a vector of "
        "length 1. The dot product of two such vectors is their cosine similarity, higher for "
        "pictures of one class. It finds pictures like a given one, also of classes that it was "
        "not trained on. This card was written by keras_ms "
        f"{__version__}."
    )
    yield "## Figures"
    yield (
        f"On {images:,} images of {classes:,} classes of {_plain(contents.data_name)} that were "
        "used neither for training nor for choosing its weights."
    )
    yield figure_table(contents.figures)
    yield below_start(contents.figures)
    yield about_figures(contents.figures, contents.num_resamples)
    yield "## How it was made"
    yield "\n".join(f"- **{name}:** {_plain(fact)}" for name, fact in contents.facts.items())
    yield "## Files"
    yield _file_table(contents)
    yield "## From a photo to the input"
    yield _plain(contents.preprocessing)
    yield from _use(contents)
    yield "## Limits"
    yield "\n".join(f"- {limit}" for limit in _limits(contents))
    yield "## Not recorded"
    yield (
        "Training knows nothing of the following; whoever publishes this model adds it.\n\n"
        + ("" if contents.licence else "- The licence of this model.\n")
        + "- The licence of the images, and whether it allows what the model is used for.\n"
        "- The licence of the weights that training began with, if these were given.\n"
        "- What the model is meant for, and what it must not be used for.\n"
        "- Who and what the images show, where they come from and what they leave out."
    )


def _file_table(contents):
    lines = ["| file | size | largest difference from the Keras model |", "|---|--:|--:|"]
    for file in contents.files:
        difference = "–" if file.difference is None else f"{file.difference:.1e}"
        difference = "0" if file.difference == 0 else difference
        lines.append(f"| `{file.name}` | {file.num_bytes / 1e6:.1f} MB | {difference} |")
    words = (
        f"The fingerprint of the model is `{contents.fingerprint}`: embeddings may be compared "
        "where the files that made them have this one."
    )
    return "\n".join(lines) + f"\n\n{words}"


def _use(contents):
    rule = contents.rule
    names = [file.name for file in contents.files]
    if not rule or "shorter_side" not in rule:
        yield (
            "How photos are to be resized is not recorded, so there is no code here: it would "
            "feed the model other pictures than it was evaluated on."
        )
        return
    # files older than the turning of photos want their pixels as they are stored
    rule = {"exif_orientation": False} | dict(rule)
    yield "With Pillow:"
    entries = "".join(f"    {key!r}: {value!r},\n" for key, value in rule.items())
    yield _code("python", f"{VIEW}\n\nrule = {{\n{entries}}}\n")
    yield "## Use"
    if rule.get("before_resizing"):
        yield f"`view` does not do this first: {_plain(rule['before_resizing'])}."
    yield "With the imports, `view` and `rule` from above."
    for name, title, code in (
        ("embedder.onnx", "onnxruntime, without keras_ms and TensorFlow", ONNXRUNTIME),
        ("photo_embedder.onnx", "onnxruntime, photos as they are", PHOTO_ONNX),
        ("saved_model", "TensorFlow, without keras_ms and Keras", TENSORFLOW),
        ("embedder.keras", "Keras", KERAS),
    ):
        if name in names:
            yield f"### {title}"
            yield _code("python", code)


def _limits(contents):
    name = _plain(contents.data_name)
    yield (
        f"The figures hold for classes like the unseen ones: drawn from {name}, pictured alike. "
        "For other kinds of pictures, measure again."
    )
    yield (
        "They are those of one training with one seed"
        f" ({contents.seed}); other seeds reach other figures."
    )
    yield "Whether pictures of training and test classes are near duplicates was not looked into."
    yield (
        "A nearest picture is always found, also where no picture of the class is there. From "
        "which similarity on two pictures count as the same has to be chosen on pictures of one's "
        "own; a similarity is no probability."
    )
    yield "A picture that is fed in another way than above gets another embedding."


def _code(language, code):
    return f"```{language}\n{code.rstrip()}\n```"


def _plain(text):
    """A name or a sentence on one line that is no Markdown or HTML, whatever it holds."""
    text = re.sub(r"([\\`*\[\]<>|]|(?<!\w)_|_(?!\w))", r"\\\1", " ".join(str(text).split()))
    return re.sub(r"^([#+-])", r"\\\1", text)
