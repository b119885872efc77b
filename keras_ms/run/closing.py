"""The closing words of a run: what each stage reaches, and whether training was worth it."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from keras_ms.data.image_list import ImageList
from keras_ms.run.choice import WeightsChoice
from keras_ms.run.head_start import stays_at_start
from keras_ms.run.settings import Settings
from keras_ms.terminal.command_words import further_command

# by "validation" and "test", then by stage: Recall@K by K as text, None where embeddings hold NaN
StageRecalls = dict[str, dict[str, dict[str, float] | None]]

_DIVERGED = (
    "Training diverged: its last weights hold NaN or infinity, earlier ones were kept. Lower the "
    "learning rate, or train in float32"
)


class KeptWeights(NamedTuple):
    """Which weights a run has kept in the end.

    Attributes:
        is_start: whether they are those that training began with.
        why: they are kept, in words; empty of others than the start.
        head_initializer, learning_rate: of the training, as they were used.
    """

    is_start: bool
    why: str
    head_initializer: str | None
    learning_rate: float | None


# in the order of the table; what a run lacks is left out
_NAMES = {
    "raw_pixels": "raw pixels",
    "pooled_features": "pooled features",
    "step_0": "step 0",
    "last": "last",
    "chosen": "chosen",
    "exported": "exported files",
}


def finite_recall(recalls: StageRecalls, last_weights: Path) -> dict[str, float]:
    """Recall@K on the test classes of the weights that count: the chosen ones, else the last.

    Args:
        recalls: of every stage.
        last_weights: file of the last weights, for the error.

    Raises:
        ValueError: the training diverged, so there is nothing to export.
    """
    recall = recalls["test"].get("chosen", recalls["test"]["last"])
    if recall is None:
        raise ValueError(
            "Training diverged: the embeddings hold NaN or infinity, so there is nothing to "
            f"export. The last weights are in {last_weights}. Lower the learning rate, or train "
            "in float32"
        )
    return recall


def closing_words(
    recalls: StageRecalls, ks: Sequence[int], kept: KeptWeights | None = None
) -> list[str]:
    """What a user is told of a training that has ended: the table, and what should be known first.

    Args:
        recalls, ks: as in `closing_table`.
        kept: `KeptWeights`. Defaults to None: not the start.
    """
    words = [closing_table(recalls, ks)]
    if recalls["test"]["last"] is None:
        words.append(_DIVERGED)
    elif kept and kept.is_start:
        words.append(f"Training changed nothing: the weights of the start are kept, {kept.why}")
    return [*words, *filter(None, [shortfall(recalls, kept)])]


def kept_weights(
    settings: Settings, choice: WeightsChoice | None, history: Sequence[Mapping[str, float]]
) -> KeptWeights:
    """Which weights a run has kept.

    Args:
        settings: its `Settings`, with what folds have chosen.
        choice: what was chosen among what; None where there was nothing to choose.
        history: a row of numbers for each epoch.
    """
    why = ""
    if choice:
        why = f"the best of {len(choice.candidates):,} by {choice.by}" * (choice.chosen.alpha == 0)
    elif settings.training.tune == "folds" and stays_at_start(settings):
        why = "as no classes could be held out to choose by"
    elif _only_the_loss_moves(settings) and history and not any(map(_mined, history)):
        why = "as no batch had anything left to learn from"
    return KeptWeights(
        bool(why), why, settings.model.head_initializer, settings.training.learning_rate
    )


def _only_the_loss_moves(settings):
    # the statistics of batches move without any loss, and so do decayed weights
    return settings.model.freeze_backbone and not settings.training.weight_decay


def _mined(row):
    return row.get("mined_anchors", 1) != 0


def next_words(run_path: Path, data_dir: str, exports: Mapping[str, Any]) -> list[str]:
    """Commands that one goes on with, a line each.

    Args:
        run_path: folder of the run.
        data_dir: of its photos; "" of drawn images, which nobody searches.
        exports: of `keras_ms.export.formats.export_formats`.
    """
    report = further_command(["report", str(run_path)])
    lines = [f"What it confuses, on a page: {report}"]
    if data_dir and "onnx" in exports:
        embed = further_command(["embed", exports["onnx"]["path"], data_dir, "--to", "rows"])
        lines.append(f"To search photos with it: {embed}")
    return lines


def run_summary(
    images: ImageList,
    recalls: StageRecalls,
    *,
    choice: WeightsChoice | None,
    kept: KeptWeights | None = None,
    exports: Mapping[str, Any],
    seconds: float,
) -> dict[str, Any]:
    """What summary.json holds, a dict.

    Args:
        images: with all splits.
        recalls: of every stage.
        choice: what was chosen among what; None where there was nothing to choose.
        kept: `KeptWeights`. Defaults to None: not known.
        exports: of `keras_ms.export.formats.export_formats`.
        seconds: that this session took.
    """
    return {
        "data": {split: list(count) for split, count in images.counts().items()},
        "passed_over": images.passed_over,
        "test_recall": recalls["test"],
        "validation_recall": recalls["validation"],
        "best_step": choice.chosen.step if choice else None,
        "choice": choice.to_json() if choice else None,
        "kept": kept._asdict() if kept else None,
        "below_pooled_features": shortfall(recalls, kept) or None,
        "exports": exports,
        "seconds_of_last_session": round(seconds, 1),
    }


def closing_table(recalls: StageRecalls, ks: Sequence[int]) -> str:
    """Recall@K of every stage as lines of text.

    Args:
        recalls: {"validation": {stage: recall}, "test": {stage: recall}}; a recall is a dict from
            K as text to a number, or None where the embeddings hold NaN.
        ks: the K of the test classes; of the validation classes Recall@1 is shown.
    """
    validation, test = recalls["validation"], recalls["test"]
    width = 8 * len(ks) + 4
    titles = ("test classes (unseen)", "test (unseen)", "test")
    title = next(words for words in titles if len(words) < width)
    lines = [
        f"{'':<26}{'validation':>12}{title:>{width}}",
        f"{'Recall@K':<26}{'@1':>12}" + "    " + "".join(f"{f'@{k}':>8}" for k in ks),
    ]
    for stage, name in _NAMES.items():
        if stage in validation or stage in test:
            cells = "".join(_cell(test, stage, k) for k in ks)
            lines.append(f"  {name:<24}{_cell(validation, stage, 1):>12}    {cells}")
    return "\n".join(lines)


def shortfall(recalls: StageRecalls, kept: KeptWeights | None = None) -> str:
    """A sentence for the user if the chosen embedder is below the features it began with, else "".

    Args:
        recalls: as in `closing_table`.
        kept: `KeptWeights`. Defaults to None: not the start.
    """
    pairs = {}
    for classes in ("validation", "test"):
        stages = recalls[classes]
        chosen, pooled = stages.get("chosen") or stages.get("last"), stages.get("pooled_features")
        pairs[f"on the {classes} classes"] = (chosen or {}).get("1"), (pooled or {}).get("1")
    return below_pooled_features(pairs, is_start=bool(kept and kept.is_start))


def below_pooled_features(
    pairs: Mapping[str, tuple[float | None, float | None]],
    show: Callable[[float], str] = "{:.3f}".format,
    *,
    is_start: bool = False,
) -> str:
    """A sentence for the user about where training made the embedder worse, "" if nowhere.

    Args:
        pairs: {where it was measured, in words: (Recall@1 of the embedder, that of the pooled
            features)}; None for what is not known.
        show: function from a recall to its text. Defaults to three digits.
        is_start: whether the embedder has the weights that training began with, which no other
            training would mend. Defaults to False.
    """
    worse = [
        f"{show(ours)} against {show(pooled)} {where}"
        for where, (ours, pooled) in pairs.items()
        if ours is not None and pooled is not None and ours < pooled
    ]
    if not worse:
        return ""
    return (
        "The chosen embedder finds less than the pooled features of its backbone, which need no "
        f"training: Recall@1 {', '.join(worse)}. More classes or more images of each would help, "
        "or a larger --embedding-size where it is below the number of features, "
        + ("" if is_start else "a smaller --learning-rate, ")
        + "a backbone trained on similar pictures."
    )


def _cell(stages, stage, k):
    if stage not in stages:
        return f"{'':>8}"
    return f"{stages[stage][str(k)]:8.3f}" if stages[stage] else f"{'NaN':>8}"
