"""What the files of a run say about it, for its report: facts, settings, history, recalls, choice.

Files of every version are read: before there was a choice.json, baselines.json held the recalls on
the test classes alone, and some of its names and of summary.json's were others.
"""

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np

from keras_ms.data.image_file import image_fault
from keras_ms.models.backbone_names import backbone_label
from keras_ms.report.choice_section import Choice, MeasuredCandidate
from keras_ms.report.markup import percent
from keras_ms.run.closing import below_pooled_features
from keras_ms.run.damaged_files import DamagedFile, finite_numbers
from keras_ms.run.folder import RunFolder
from keras_ms.run.losses import chosen_options
from keras_ms.run.settings import Settings
from keras_ms.run.settings.groups import SETTINGS

History = Sequence[dict[str, float]]

# they name folders of one computer; the last part says enough
_PATHS = (
    "data_dir", "test_classes", "backbone", "weights", "runs_folder", "export_folder", "curriculum",
)  # fmt: skip
# of recalls, in earlier versions
_RENAMED = {"before_training": "step_0", "best_on_validation": "chosen"}
_IN_WORDS = {"pooled_features": "pooled features", "step_0": "before training"}
_LARGEST_PICTURE = 3 * 2**20  # bytes
# settings of how a network is fine-tuned, told where they are not the usual ones
_FINE_TUNING = (
    "layer_decay", "freeze_blocks", "lora_rank", "weight_decay", "warmup_steps", "clip_norm", "ema",
)  # fmt: skip


def run_facts(
    run: RunFolder,
    settings: Settings,
    *,
    data_name: str,
    counts: Mapping[str, Sequence[int]],
    embedder: keras.Model,
    weights: str,
) -> dict[str, str]:
    """What the run is, text by name.

    Args:
        run: `RunFolder`.
        settings: its `Settings`.
        data_name: of its data set.
        counts: (classes, images) by split.
        embedder: its model.
        weights: which weights that has, in words.
    """
    # a choice by folds may be still to come
    model, batches, training = settings.model, settings.batches, settings.training
    rate = "to be chosen" if training.learning_rate is None else f"{training.learning_rate:g}"
    facts = {
        "Data": f"{data_name}: "
        + ", ".join(
            f"{split} {classes:,} classes ({count:,} images)"
            for split, (classes, count) in counts.items()
        ),
        "Embedder": f"{backbone_label(model.backbone)} at {settings.images.image_size} px, "
        f"{embedder.output_shape[-1]} dimensions, {embedder.count_params():,} parameters"
        + (", backbone frozen" if model.freeze_backbone else ""),
        "Loss": settings.loss.name.replace("_", " ")
        + _in_brackets(chosen_options(settings.loss.name, settings.loss.options)),
        "Training": f"{training.steps:,} steps of {batches.classes_per_batch} classes × "
        f"{batches.images_per_class} images, learning rate {rate} ({training.schedule}), "
        f"seed {training.seed}",
        "Weights": weights,
    }
    tuning = {name: settings.values()[name] for name in _FINE_TUNING}
    unusual = {
        name.replace("_", " "): value
        for name, value in tuning.items()
        if value != SETTINGS[name].default
    }
    if unusual:
        facts["Fine-tuning"] = _with_commas(unusual)
    if settings.hdml.mode != "off":
        facts["Hardness-aware"] = f"as in the {settings.hdml.mode} form" + _in_brackets(
            settings.hdml.options
        )
    count = batches.neighbour_classes
    near = f"batches of groups of {count} near classes" if count > 1 else "random classes"
    if run.class_tree_file.is_file():
        facts["Class tree"] = (
            f"{settings.loss.tree_levels} levels, {settings.loss.tree_linkage} linkage, rebuilt "
            f"every epoch; margins of the {settings.loss.tree_margins} tree; {near}"
        )
    elif count > 1:
        facts["Near classes"] = f"{near}, by the embeddings of every epoch"
    if settings.data.framed_drawings:
        facts["Drawings"] = "cut to a square around the ink"
    if batches.curriculum:
        facts["Curriculum"] = f"in stages, by {Path(batches.curriculum).name}"
    known = [
        f"{percent(recall[1], 1)} {_IN_WORDS.get(name, name.replace('_', ' '))}"
        for name, recall in run_baselines(run)["test"].items()
        if 1 in recall
    ]
    if known:
        facts["Recall@1 for comparison"] = ", ".join(known)
    environment = run.read_json(run.environment_file) or {}
    with run.errors_name_file(run.environment_file):
        versions = {"Python": environment.get("python"), **environment.get("packages", {})}
    backend = environment.get("backend", "tensorflow")
    shown = ("Python", "keras_ms", backend, "keras")
    known = [f"{name} {versions[name]}" for name in shown if versions.get(name)]
    if known:
        facts["Trained with"] = ", ".join(known)
    return facts


def run_baselines(run: RunFolder) -> dict[str, dict[str, dict[int, float]]]:
    """Recalls of what needs no training.

    Args:
        run: `RunFolder`.

    Returns:
        Dict from "validation" and "test" to a dict from "raw_pixels", "pooled_features" and
        "step_0", the network before training, to Recall@K by K. What is not known is left out.
    """
    written = run.read_json(run.baselines_file) or {}
    with run.errors_name_file(run.baselines_file):
        if not set(written) <= {"validation", "test"}:
            written = {"test": written}
        return {split: _recalls(written.get(split)) for split in ("validation", "test")}


def run_test_recalls(run: RunFolder) -> dict[str, dict[int, float]]:
    """Recall@K by K on the test classes of "raw_pixels", "step_0", "last", "chosen" and others.

    None of them before the run is finished.
    """
    summary = run.read_json(run.summary_file) or {}
    with run.errors_name_file(run.summary_file):
        return _recalls(summary.get("test_recall"))


def run_choice(run: RunFolder) -> Choice | None:
    """The `Choice` of the run; None where it had none to make.

    Raises:
        ValueError: choice.json is not what a run writes.
    """
    file = run.choice_file
    written = run.read_json(file)
    if written is None:
        return None
    with run.errors_name_file(file):
        candidates = [
            MeasuredCandidate(
                one["learning_rate"],
                one["steps"],
                one["alpha"],
                finite_numbers(one["recall"]),
                one.get("start", ""),
            )  # fmt: skip
            for one in written["candidates"]
        ]
        return Choice(
            written["by"],
            candidates,
            written["chosen"],
            finite_numbers(written.get("pooled_features")),
            finite_numbers(written.get("step_0")),
        )


def unchosen_weights(run: RunFolder) -> str:
    """Which weights a finished run has that had nothing to choose, in words."""
    summary = run.read_json(run.summary_file) or {}
    with run.errors_name_file(run.summary_file):
        step, kept = summary.get("best_step"), summary.get("kept") or {}
        if step:
            return f"of step {step:,}, the best on the validation classes"
        return f"those of the start, {kept['why']}" if kept.get("is_start") else "the last ones"


def run_baseline_lines(run: RunFolder, history: History) -> dict[str, float]:
    """Recall@1 by name, lines to draw across the curves of Recall@K in the history.

    Args:
        run: `RunFolder`.
        history: of `run_history`; its curves are on the validation classes, or on the test
            classes of a run without these.
    """
    on = "validation" if any(name.startswith("val_") for row in history for name in row) else "test"
    recalls = run_baselines(run)[on]
    return {
        words: recalls[name][1] for name, words in _IN_WORDS.items() if 1 in recalls.get(name, {})
    }


def run_remarks(run: RunFolder, history: History) -> list[str]:
    """What a user should know first: a list of sentences, most often none."""
    choice, baselines, test = run_choice(run), run_baselines(run), run_test_recalls(run)
    pairs = {}
    if choice is not None:
        best = choice.candidates[choice.chosen]
        where = f"when it was chosen ({choice.by})"
        pairs[where] = best.recall.get(1), choice.pooled_features.get(1)
    else:
        measured = [row.get("val_recall@1", np.nan) for row in history]
        best = np.nanmax(measured) if np.isfinite(measured).any() else None
        pooled = baselines["validation"].get("pooled_features", {})
        pairs["on the validation classes"] = best, pooled.get(1)
    chosen = test.get("chosen", test.get("last", {}))
    pooled = baselines["test"].get("pooled_features", {})
    pairs["on the test classes"] = chosen.get(1), pooled.get(1)
    with run.errors_name_file(run.summary_file):
        kept = (run.read_json(run.summary_file) or {}).get("kept") or {}
        is_start = bool(kept.get("is_start"))
    sentence = below_pooled_features(pairs, lambda recall: percent(recall, 1), is_start=is_start)
    return [sentence] if sentence else []


def _recalls(stages: Mapping[str, Any] | None) -> dict[str, dict[int, float]]:
    """{stage: {K: recall}} by the names of this version, without those that diverged."""
    return {
        _RENAMED.get(name, name): finite_numbers(recall)
        for name, recall in (stages or {}).items()
        if recall
    }


def run_pictures(run: RunFolder) -> dict[str, Path]:
    """The PNG files of the run that the page shows, by title."""
    # Of thousands of classes it is longer than anyone scrolls, and the page has a size to keep to.
    drawn = (
        run.tree_picture_file.is_file() and run.tree_picture_file.stat().st_size < _LARGEST_PICTURE
    )
    if drawn and image_fault(run.tree_picture_file):
        logging.getLogger("keras_ms").warning(
            "%s is damaged: the report leaves it out", run.tree_picture_file
        )
        drawn = False
    return {"The class tree before the last epoch": run.tree_picture_file} if drawn else {}


def _in_brackets(options):
    return f" ({_with_commas(options)})" if options else ""


def _with_commas(options):
    return ", ".join(f"{name} {value}" for name, value in options.items())


def shown_settings(settings: Settings) -> dict[str, Any]:
    """The settings without the folders they name, and what they hold as text, a dict."""
    values = {
        name: Path(value).name if name in _PATHS and value else value
        for name, value in settings.values().items()
    }
    for name, value in values.items():
        if isinstance(value, tuple):
            values[name] = ", ".join(map(str, value))
        elif isinstance(value, dict):
            values[name] = _with_commas(value)
    return values


def run_history(run: RunFolder) -> list[dict[str, float]]:
    """The history, a list of dicts of numbers: that of the training state, and what followed it.

    Empty before the first epoch.

    Raises:
        DamagedFile: history.csv, where nothing else has the rows.
    """
    try:
        rows = (run.read_progress() or {"rows": []})["rows"]
    except DamagedFile:
        rows = []
    try:
        written = run.read_history()
    except DamagedFile:
        if not rows:
            raise
        written = []
    last = rows[-1]["step"] if rows else -np.inf
    rows = rows + [row for row in written if not row.get("step", np.nan) <= last]
    return [row for row in rows if np.isfinite(row.get("step", np.nan))]
