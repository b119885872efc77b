"""keras-ms weights: how much each loss makes every pair of a batch count, drawn."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

from keras_ms.cli.keras_import import import_keras
from keras_ms.cli.parse import check_is_there, check_output_file, option, parsed
from keras_ms.files import whole_file
from keras_ms.run.losses import named_loss, pair_loss_names


@dataclass(frozen=True)
class _Options:
    to: Annotated[str, option("PNG, SVG or PDF", "FILE")] = "weights.png"
    table: Annotated[str, option("Markdown file for the table", "FILE", default="")] = ""
    losses: Annotated[str, option("names with commas between; empty: all", "NAMES", default="")] = (
        ""
    )
    embeddings: Annotated[
        str,
        option(
            ".npz file with one batch, `embeddings` (batch, dimension) and `labels`; without it, "
            "80 drawn embeddings as midway in training",
            "FILE",
            default="",
        ),
    ] = ""
    seed: Annotated[int, option("of the drawn embeddings")] = 0


def run(words: Sequence[str]) -> None:
    """Draws as the words of the command line say.

    Raises:
        SystemExit: wrong words, or help.
    """
    description = "Draws how much each loss makes every pair of a batch count, by its similarity."
    options = parsed(_Options, "weights", description, words)
    given = [name.strip() for name in options.losses.split(",")]
    names = given if options.losses else list(pair_loss_names())
    unknown = [name for name in names if name not in pair_loss_names()]
    if unknown:
        raise ValueError(
            f"Unknown loss. Expected one of {', '.join(pair_loss_names())}. Received: "
            f"{', '.join(unknown)}"
        )
    check_output_file("--to", options.to, (".png", ".svg", ".pdf"))
    if options.table:
        check_output_file("--table", options.table, (".md",))
    if options.embeddings:
        check_is_there(options.embeddings, "an .npz file of embeddings and labels")
    import_keras()
    import numpy as np

    from keras_ms.evaluation.saved_embeddings import read_embeddings
    from keras_ms.report.weight_picture import example_batch, weight_table, write_weight_picture

    losses = {name.replace("_", " "): named_loss(name) for name in names}
    if options.embeddings:
        saved = read_embeddings(options.embeddings)
        embeddings, labels = saved["embeddings"], saved["labels"]
        if np.abs(embeddings.astype(np.float64)).max() > np.finfo(np.float32).max:
            raise ValueError(
                f"Expected embeddings within the range of float32 in {options.embeddings}. "
                f"Received: up to {np.abs(embeddings).max():g}"
            )
    else:
        embeddings, labels = example_batch(seed=options.seed)
    weights = write_weight_picture(losses, embeddings, labels, options.to)
    table = weight_table(weights, labels)
    print(table)
    if options.table:
        with whole_file(options.table) as temporary:
            temporary.write_text(table + "\n", encoding="utf-8")
