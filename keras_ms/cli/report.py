"""keras-ms report: the HTML page of a run."""

from pathlib import Path

from keras_ms.cli.keras_import import import_keras


def add_parser(commands):
    parser = commands.add_parser(
        "report",
        help="one HTML page about a trained model: metrics, map, best and worst queries",
        description="Embeds the test images of a run once more and writes one HTML page that needs "
        "no network: metrics with intervals, training curves, similarities, a map of the "
        "embedding, best and worst queries, confused classes.",
    )
    parser.set_defaults(command=_report)
    parser.add_argument("run", nargs="?", metavar="RUN_FOLDER", help="folder that train wrote")
    parser.add_argument(
        "--embeddings",
        metavar="FILE",
        help="instead of a run: .npz file that keras-ms evaluate --save-embeddings wrote, or one "
        "with `embeddings` (N, dimension) and `labels` (N,) of the test images of --data-dir",
    )
    parser.add_argument(
        "--to",
        metavar="FILE",
        help="the page to write (default: report.html in the run's folder or, with --embeddings, "
        "here)",
    )
    parser.add_argument(
        "--data-dir",
        metavar="FOLDER",
        help="where the images lie, if not where the run or the embeddings found them",
    )
    parser.add_argument(
        "--test-classes",
        metavar="FILE",
        help="of a run: the list of its test classes, if that lies elsewhere than in training",
    )
    parser.add_argument(
        "--dataset",
        metavar="NAME",
        help="with --embeddings: the data set, as in train (default: what the file says, else what "
        "is found in --data-dir)",
    )
    parser.add_argument(
        "--map-images",
        type=int,
        metavar="COUNT",
        help="most images on the map (default: 4000, a page of about ten megabytes)",
    )


def _report(options):
    # what would fail after the embedding fails now
    from keras_ms.files import check_writable

    if (options["run"] is None) == (options["embeddings"] is None):
        raise ValueError("Give either the folder of a run or --embeddings FILE")
    run = _run(options)
    path = Path(options["to"] or (run.path if run else Path()) / "report.html")
    if path.is_dir():
        raise IsADirectoryError(f"Expected a file name such as report.html. Received: {path}")
    if options["map_images"] is not None and options["map_images"] < 1:
        raise ValueError(f"Expected --map-images of at least 1. Received: {options['map_images']}")
    check_writable(path.parent)
    import_keras()
    from keras_ms.report.embedding_map import check_map_library

    check_map_library()

    from keras_ms.run.report import embeddings_report, run_report
    from keras_ms.terminal.progress import shown_progress

    if run:
        size = run_report(
            run,
            path,
            data_dir=options["data_dir"],
            test_classes=options["test_classes"],
            num_map_images=options["map_images"],
            verbose=shown_progress(),
        )
    else:
        size = embeddings_report(
            options["embeddings"],
            path,
            dataset=options["dataset"],
            data_dir=options["data_dir"],
            num_map_images=options["map_images"],
        )
    print(f"Wrote {path} ({size / 1e6:.1f} MB)")


def _run(options):
    """The `RunFolder`, or None with --embeddings."""
    if options["run"] is None:
        if options["test_classes"]:
            raise ValueError("--test-classes goes with the folder of a run")
        return None
    if options["dataset"]:
        raise ValueError("--dataset goes with --embeddings: a run knows its data set")
    if not (Path(options["run"]) / "settings.json").is_file():
        raise FileNotFoundError(
            f"Expected the folder of a run, with settings.json in it. Received: {options['run']}"
        )
    import_keras()
    from keras_ms.run.folder import RunFolder

    return RunFolder(options["run"])
