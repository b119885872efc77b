"""keras-ms card: the model card of a run, a README.md for huggingface.co."""

import re
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from tyro.conf import Positional

from keras_ms.cli.keras_import import import_keras
from keras_ms.cli.parse import check_is_there, check_output_file, option, parsed
from keras_ms.run.settings.declaration import flag

_DESCRIPTION = (
    "Writes the model card of a finished run: figures on unseen classes, data, training, files, "
    "preprocessing, code for each runtime and limits, with the metadata that huggingface.co reads. "
    "Nothing is uploaded."
)


@dataclass(frozen=True)
class _Options:
    run: Annotated[Positional[str], option("folder that train wrote", "RUN_FOLDER")]
    to: Annotated[
        str, option("the card to write", "FILE", default="README.md in the run's folder")
    ] = ""
    figures: Annotated[
        str,
        option(
            "figures of the run's model, with intervals: .json of keras-ms evaluate --to",
            "FILE",
            default="Recall@K as the run measured it, without intervals",
        ),
    ] = ""
    exported: Annotated[
        str,
        option("folder of the run's exports", "FOLDER", default="where the run wrote them"),
    ] = ""
    licence: Annotated[
        str,
        option(
            "licence of the model, as huggingface.co calls it, such as apache-2.0",
            "NAME",
            default="not said",
        ),
    ] = ""
    hub_datasets: Annotated[
        str,
        option(
            "the data sets as huggingface.co calls them, such as user/birds, with commas between",
            "NAMES",
            default="not said",
        ),
    ] = ""


def run(words: Sequence[str]) -> None:
    """Writes the card as the words of the command line say.

    Raises:
        SystemExit: wrong words, or help.
    """
    options = parsed(_Options, "card", _DESCRIPTION, words)
    path, hub_datasets = _checked_path(options), _hub_datasets(options.hub_datasets)
    import_keras()
    from keras_ms.report.model_card import import_card_package
    from keras_ms.run.card import write_run_card
    from keras_ms.run.folder import RunFolder

    import_card_package()
    write_run_card(
        RunFolder(options.run),
        path,
        figures=options.figures or None,
        exported=options.exported or None,
        licence=options.licence,
        hub_datasets=hub_datasets,
    )
    print(f"Wrote {path}")
    if not options.figures:
        model, config = (Path(options.run) / name for name in ("embedder.keras", "settings.json"))
        again = ["keras-ms", "card", options.run]
        for name in ("to", "exported", "licence", "hub_datasets"):
            again += [flag(name), getattr(options, name)] if getattr(options, name) else []
        print(
            "Its figures have no intervals. With them: remove it, then\n"
            f"  {shlex.join(['keras-ms', 'evaluate', str(model), '--config', str(config)])} "
            "--to figures.json\n"
            f"  {shlex.join(again)} --figures figures.json"
        )


def _checked_path(options):
    """The card's path; what would fail after the model was loaded fails now."""
    if not (Path(options.run) / "settings.json").is_file():
        raise FileNotFoundError(
            f"Expected the folder of a run, with settings.json in it. Received: {options.run}"
        )
    path = Path(options.to or Path(options.run) / "README.md")
    check_output_file("--to", path, (".md",))
    if path.exists():
        raise FileExistsError(
            f"{path} is there, and may hold words of yours: remove it, or choose another --to"
        )
    if options.figures:
        check_is_there(options.figures, "figures that keras-ms evaluate --to wrote")
    if options.exported:
        check_is_there(options.exported, "the folder of the run's exports")
    if options.licence and not re.fullmatch(r"[a-z0-9][a-z0-9.+-]*", options.licence):
        raise ValueError(
            "Expected --licence as huggingface.co calls it, such as apache-2.0, mit, cc-by-4.0 or "
            f"other. Received: {options.licence}"
        )
    return path


def _hub_datasets(names):
    names = [name.strip() for name in names.split(",")] if names else []
    wrong = [name for name in names if not re.fullmatch(r"([\w-]+/)?[\w.-]+", name)]
    if wrong:
        raise ValueError(
            "Expected --hub-datasets as huggingface.co calls them, such as user/birds. Received: "
            + ", ".join(map(repr, wrong))
        )
    return names
