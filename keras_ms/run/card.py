"""The model card of a finished run, from its files and from figures that evaluate wrote."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from keras_ms.data.sets.catalogue import chosen_data_set
from keras_ms.export.feeding_rule import described_preprocessing
from keras_ms.export.fingerprint import model_fingerprint
from keras_ms.export.inference_model import inference_model
from keras_ms.export.preprocessing import (
    Preprocessing,
    recorded_preprocessing,
    saved_model_facts,
)
from keras_ms.export.runner import load_runner
from keras_ms.models.keras_file import load_keras_file
from keras_ms.report.card_figures import CardFigure
from keras_ms.report.model_card import CardContents, CardFile, write_model_card
from keras_ms.run.damaged_files import errors_name_file
from keras_ms.run.exports import FRAMED
from keras_ms.run.facts import (
    run_baselines,
    run_choice,
    run_facts,
    run_test_recalls,
    unchosen_weights,
)
from keras_ms.run.folder import RunFolder
from keras_ms.run.settings import Settings
from keras_ms.run.start_folder import place_from_start
from keras_ms.terminal.command_words import UnfinishedRun

_START = {
    "pooled_features": "pooled features",
    "step_0": "before training",
    "raw_pixels": "raw pixels",
}


def write_run_card(
    run: RunFolder,
    path: str | Path,
    *,
    figures: str | Path | None = None,
    exported: str | Path | None = None,
    licence: str = "",
    hub_datasets: Sequence[str] = (),
) -> None:
    """Writes the card of a finished run; neither its images nor the network are needed.

    Args:
        run: `RunFolder`.
        path: the Markdown file.
        figures: JSON file that `keras-ms evaluate --to` wrote of the run's model on its test
            classes. Defaults to None: Recall@K as the run measured it, without intervals.
        exported: folder of the run's exports. Defaults to None: where the run wrote them.
        licence: identifier of the model's licence on huggingface.co. Defaults to "": not said.
        hub_datasets: identifiers of its data sets on huggingface.co. Defaults to none.

    Raises:
        UnfinishedRun: a run without a summary or a model.
        FileNotFoundError: no exports where they are looked for, no file of figures.
        ValueError: exports or figures of another model or of other classes, damaged files.
        ImportError: huggingface_hub is missing, or onnxruntime for a run with an ONNX file alone.
    """
    summary = _summary(run)
    settings = run.settled_settings()
    exports = _exports(run, summary, exported)
    embedder: Any = load_keras_file(run.model_file)
    fingerprint = model_fingerprint(embedder)
    facts = _exported_facts(exports)
    if facts.get("model_fingerprint", fingerprint) != fingerprint:
        raise ValueError(
            f"Expected the exports of {run.path}. Received: those of another model in "
            f"{next(iter(exports.values())).parent}"
        )
    words, rule = _preprocessing(facts, settings, embedder)
    measured = None if figures is None else _evaluation(figures, run, fingerprint)
    name, counts = _data_name(settings, facts), summary["data"]
    made = run_facts(
        run,
        settings,
        data_name=name,
        counts=counts,
        embedder=embedder,
        weights=_weights(run, settings),
    )
    # it stands in the table of figures
    made.pop("Recall@1 for comparison", None)
    contents = CardContents(
        name=run.path.name,
        dimension=embedder.output_shape[-1],
        data_name=name,
        counts=counts,
        figures=_figures(run, measured),
        num_resamples=(measured or {}).get("num_resamples", 0),
        facts=made,
        loss=settings.loss.name,
        seed=settings.training.seed,
        preprocessing=words,
        rule=rule,
        files=[
            CardFile(run.model_file.name, _num_bytes(run.model_file)),
            *(
                CardFile(path.name, _num_bytes(path), summary["exports"][kind]["max_difference"])
                for kind, path in exports.items()
            ),
        ],
        fingerprint=fingerprint,
        licence=licence,
        hub_datasets=hub_datasets,
    )
    write_model_card(contents, path)


def _summary(run) -> dict[str, Any]:
    summary = run.read_json(run.summary_file)
    missing = [file.name for file in (run.summary_file, run.model_file) if not file.is_file()]
    if summary is None or missing:
        raise UnfinishedRun(
            f"A card says what a finished run has reached. {run.path} has no "
            f"{' and no '.join(missing)}",
            run.path,
        )
    with run.errors_name_file(run.summary_file):
        _ = [summary["data"]["test"], *summary["test_recall"]]
        _ = [one["path"] + f"{one['max_difference']:g}" for one in summary["exports"].values()]
    return summary


def _exports(run, summary, folder) -> dict[str, Path]:
    """The exported files by format: those of the folder, else those that the run wrote."""
    written = {
        kind: Path(place_from_start(one["path"], run.path))
        for kind, one in summary["exports"].items()
    }
    if folder is not None:
        written = {kind: Path(folder) / path.name for kind, path in written.items()}
    gone = [str(path) for path in written.values() if not path.exists()]
    if gone:
        raise FileNotFoundError(
            f"Expected what the run exported at {' and '.join(gone)}. Nothing is there: give "
            "--exported, the folder where it lies now"
        )
    if folder is not None and not written:
        raise ValueError("The run exported nothing: leave --exported out")
    return written


def _exported_facts(exports: Mapping[str, Path]) -> Mapping[str, Any]:
    """What an exported file says about itself; nothing without one."""
    if "saved_model" in exports:
        return saved_model_facts(exports["saved_model"])
    return next((load_runner(path).facts for path in exports.values()), {})


def _preprocessing(facts, settings, embedder) -> tuple[str, dict[str, Any] | None]:
    recorded = recorded_preprocessing(facts, "the exported file")
    if "preprocessing" in facts and not (recorded and recorded.inside):
        rule = facts.get("preprocessing_rule")
        return facts["preprocessing"], json.loads(rule) if isinstance(rule, str) else rule
    # without exports the settings say it, unless the default for the images had to do
    known = recorded or Preprocessing(
        settings.images.image_size,
        settings.images.resize_to or None,
        exif_orientation=settings.data.apply_exif_orientation,
        before_resizing=FRAMED if settings.data.framed_drawings else "",
    )
    # the Keras file does nothing of it itself
    return described_preprocessing(inference_model(embedder), replace(known, inside=False))


def _data_name(settings: Settings, facts: Mapping[str, Any]) -> str:
    # as the images are called in exports: "birds: 100 classes"
    name, separator, _ = str(facts.get("training_data", "")).rpartition(": ")
    if separator:
        return name
    data = settings.data
    if data.data_dir:
        return Path(data.data_dir).stem or Path(data.data_dir).resolve().name
    return chosen_data_set().name if data.dataset == "auto" else data.dataset


def _figures(run: RunFolder, measured: Mapping[str, Any] | None) -> list[CardFigure]:
    recalls = run_test_recalls(run)
    start = {**run_baselines(run)["test"], **recalls}
    starts = {
        f"recall@{k}": {words: start[n][k] for n, words in _START.items() if k in start.get(n, {})}
        for k in {k for recall in start.values() for k in recall}
    }
    if measured is None:
        reached = recalls.get("chosen") or recalls.get("last") or {}
        values = {f"recall@{k}": value for k, value in sorted(reached.items())}
        intervals = {}
    else:
        values, intervals = measured["values"], measured["intervals"]
    if not values:
        raise ValueError(f"{run.summary_file} holds no Recall@K of the model on the test classes")
    return [
        CardFigure(key, value, intervals.get(key), starts.get(key, {}))
        for key, value in values.items()
    ]


def _evaluation(file: str | Path, run: RunFolder, fingerprint: str) -> dict[str, Any]:
    """What evaluate wrote of this model on the test classes of the run.

    Raises:
        ValueError: a file of other content, of another model or of other classes.
    """
    path = Path(file)
    with errors_name_file(path, "figures that keras-ms evaluate --to wrote as JSON"):
        evaluation = json.loads(path.read_text(encoding="utf-8"))
        values = {name: float(value) for name, value in evaluation["values"].items()}
        intervals = {
            name: tuple(map(float, ends)) for name, ends in evaluation["intervals"].items()
        }
        num_resamples = int(evaluation["num_resamples"])
    measured = evaluation.get("measured") or {}
    trained = run.read_json(run.data_file) or {}
    expected = {
        "model": fingerprint,
        "images": "test",
        "classes": trained.get("test_classes", measured.get("test_classes")),
    }
    found = {
        "model": measured.get("model_fingerprint"),
        "images": measured.get("split"),
        "classes": measured.get("test_classes"),
    }
    other = [what for what in expected if expected[what] != found[what]]
    if other:
        raise ValueError(
            f"Expected in {path} figures of {run.model_file} on the test classes of the run. It "
            f"has those of other {' and '.join(other)}, or does not say of which: measure with "
            f"keras-ms evaluate {run.model_file} --config {run.settings_file} --to {path}"
        )
    return {"values": values, "intervals": intervals, "num_resamples": num_resamples}


def _weights(run: RunFolder, settings: Settings) -> str:
    """Which weights the model has, and what those began as, in words."""
    given = settings.model.weights
    began = "begun at random"
    if given == "package":
        began = "the backbone began with the ImageNet weights of its package"
    elif given:
        began = f"the backbone began with {Path(given).name}"
    elif settings.model.is_pretrained:
        began = "the backbone began with the weights that it came with"
    choice = run_choice(run)
    if choice is not None:
        return f"chosen among {len(choice.candidates):,} by {choice.by}; {began}"
    return f"{unchosen_weights(run)}; {began}"


def _num_bytes(path: Path) -> int:
    files = path.rglob("*") if path.is_dir() else [path]
    return sum(file.stat().st_size for file in files if file.is_file())
