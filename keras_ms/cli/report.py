"""keras-ms report: the HTML page of a run."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from tyro.conf import Positional

from keras_ms.cli.keras_import import import_keras
from keras_ms.cli.parse import check_is_there, check_output_file, option, parsed

_DESCRIPTION = (
    "Writes one HTML page of a run's test images that needs no network: "
    "metrics with intervals, training curves, similarities, a map of the embedding, best and worst "
    "queries, confused classes."
)


@dataclass(frozen=True)
class _Options:
    run: Annotated[
        Positional[str],
        option("folder that train wrote", "RUN_FOLDER", default=""),
    ] = ""
    embeddings: Annotated[
        str,
        option(
            "instead of a run: .npz file that keras-ms evaluate --save-embeddings wrote, or one "
            "with `embeddings` (N, dimension) and `labels` (N,) of the test images of --data-dir",
            "FILE",
            default="",
        ),
    ] = ""
    to: Annotated[
        str,
        option(
            "the page to write",
            "FILE",
            default="report.html in the run's folder or, with --embeddings, here",
        ),
    ] = ""
    data_dir: Annotated[
        str | None,
        option(
            "where the images lie, if not where the run or the embeddings found them",
            "FOLDER",
            default="",
        ),
    ] = None
    test_classes: Annotated[
        str | None,
        option(
            "of a run: the list of its test classes, if that lies elsewhere than in training",
            "FILE",
            default="",
        ),
    ] = None
    dataset: Annotated[
        str | None,
        option(
            "with --embeddings: the data set, as in train",
            "NAME",
            default="what the file says, else what is found in --data-dir",
        ),
    ] = None
    map_images: Annotated[
        int | None,
        option("most images on the map", "COUNT", default="4000, a page of about ten megabytes"),
    ] = None


def run(words: Sequence[str]) -> None:
    """Writes the page as the words of the command line say.

    Raises:
        SystemExit: wrong words, or help.
    """
    options = parsed(_Options, "report", _DESCRIPTION, words)
    # what would fail after the embedding fails now
    if bool(options.run) == bool(options.embeddings):
        raise ValueError("Give either the folder of a run or --embeddings FILE")
    _check_run(options)
    path = Path(options.to or Path(options.run or "") / "report.html")
    check_output_file("--to", path, (".html", ".htm"))
    if options.map_images is not None and options.map_images < 1:
        raise ValueError(f"Expected --map-images of at least 1. Received: {options.map_images}")
    if options.embeddings:
        check_is_there(options.embeddings, "an .npz file of embeddings and labels")
    import_keras()
    from keras_ms.report.embedding_map import check_map_library
    from keras_ms.run.folder import RunFolder

    run_folder = RunFolder(options.run) if options.run else None

    check_map_library()

    from keras_ms.run.report import embeddings_report, run_report
    from keras_ms.terminal.progress import shown_progress

    if run_folder:
        size = run_report(
            run_folder,
            path,
            data_dir=options.data_dir,
            test_classes=options.test_classes,
            num_map_images=options.map_images,
            verbose=shown_progress(),
        )
    else:
        size = embeddings_report(
            str(options.embeddings),
            path,
            dataset=options.dataset,
            data_dir=options.data_dir,
            num_map_images=options.map_images,
        )
    print(f"Wrote {path} ({size / 1e6:.1f} MB)")


def _check_run(options):
    if not options.run:
        if options.test_classes:
            raise ValueError("--test-classes goes with the folder of a run")
        return
    if options.dataset:
        raise ValueError("--dataset goes with --embeddings: a run knows its data set")
    if not (Path(options.run) / "settings.json").is_file():
        raise FileNotFoundError(
            f"Expected the folder of a run, with settings.json in it. Received: {options.run}"
        )
