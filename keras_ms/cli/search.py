"""keras-ms search: the nearest pictures of an index, for pictures or embeddings."""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

from tyro.conf import Positional

from keras_ms.cli.indexed_pictures import (
    check_not_embedded,
    checked_model,
    embedded_for,
    tell_broken,
    view_note,
)
from keras_ms.cli.keras_import import import_keras
from keras_ms.cli.parse import PictureSize, check_is_there, check_output_file, option, parsed
from keras_ms.run.settings.declaration import flag
from keras_ms.terminal.counted import counted

_TOP = 10
_OF_QUERY = ("model", "approximate", "image_size", "resize_to")
_DESCRIPTION = (
    "Finds the pictures of an index that are nearest to each query, by the cosine of their "
    "embeddings; or groups of pictures that are nearly the same."
)


@dataclass(frozen=True)
class _Options:
    index: Annotated[Positional[str], option("folder or URI that keras-ms index wrote", "INDEX")]
    query: Annotated[
        Positional[str],
        option(
            "a picture, or a folder, .csv, .parquet or .tar file of them; or embeddings: an .npz "
            "or .npy file, or what keras-ms embed wrote",
            "QUERY",
            default="",
        ),
    ] = ""
    model: Annotated[
        str,
        option("embeds the query, or has embedded it", "MODEL", default="that of the index"),
    ] = ""
    top: Annotated[int | None, option("nearest pictures of each query", "N", default=str(_TOP))] = (
        None
    )
    to: Annotated[
        str,
        option(
            "write a page with the pictures (.html), a table (.csv) or .json", "FILE", default=""
        ),
    ] = ""
    approximate: Annotated[
        bool,
        option("be faster in large indexes, where keras-ms index --approximate has prepared it"),
    ] = False
    duplicates: Annotated[
        float | None,
        option(
            "instead of a query: groups of pictures of at least this similarity, such as 0.98",
            "COSINE",
            default="",
        ),
    ] = None
    evaluate: Annotated[
        bool,
        option("instead of a query: what approximate search misses, and the time of both"),
    ] = False
    pictures: Annotated[
        int, option("with --to page.html: most pictures that the page holds", "N")
    ] = 600
    image_size: PictureSize = None
    resize_to: PictureSize = None


def run(words: Sequence[str]) -> None:
    """Searches as the words of the command line say.

    Raises:
        SystemExit: wrong words, or help.
    """
    options = parsed(_Options, "search", _DESCRIPTION, words)
    _check(options)
    import_keras()
    from keras_ms.cli.search_results import print_results, write_results
    from keras_ms.search import Index

    index = Index(options.index)
    if options.approximate or options.evaluate:
        # before the queries are embedded
        index.check_approximate()
    if options.evaluate:
        print(_evaluated(index, options.top or _TOP))
        return
    if options.duplicates is not None:
        results, what = _duplicates(index, options.duplicates)
    else:
        results = _found(index, options)
        queries = counted(len(results), "query", "queries")
        what = f"{queries} in {counted(len(index), 'picture')}"
    if options.to:
        size = write_results(results, options.to, index, what, max_pictures=options.pictures)
        print(f"{what}\nWrote {options.to} ({size / 1e6:.1f} MB)")
    else:
        print_results(results)
        print(what)


def _check(options):
    jobs = {
        "QUERY": options.query,
        "--duplicates": options.duplicates is not None,
        "--evaluate": options.evaluate,
    }
    given = [name for name, value in jobs.items() if value]
    if len(given) != 1:
        raise ValueError(
            "Give one of QUERY, --duplicates and --evaluate. Received: "
            + (" and ".join(given) or "none of them")
        )
    for name in ("top", "pictures", "image_size", "resize_to"):
        value = getattr(options, name)
        if value is not None and value < (0 if name == "pictures" else 1):
            raise ValueError(f"Expected {flag(name)} of at least 1. Received: {value}")
    for name in _OF_QUERY:
        if getattr(options, name) and not options.query:
            raise ValueError(f"{flag(name)} goes with a QUERY: leave it out")
    if options.duplicates is not None and not 0 < options.duplicates <= 1:
        raise ValueError(
            f"Expected --duplicates above 0 and up to 1. Received: {options.duplicates}"
        )
    if options.duplicates is not None and options.top:
        raise ValueError(
            "--top is of queries: groups hold all pictures that are alike. Leave it out"
        )
    if options.to:
        if options.evaluate:
            raise ValueError("--evaluate prints its figures: leave out --to")
        check_output_file("--to", options.to, (".html", ".csv", ".json"), (options.query,))
    if "://" not in options.index:
        check_is_there(options.index, "the folder of an index")
    if options.query and "://" not in options.query:
        check_is_there(options.query, "a picture, a folder of them or embeddings")
    if options.model:
        check_is_there(options.model, "a .keras file, a SavedModel folder or an .onnx file")


def _found(index, options):
    """[(query, [(path, similarity), …]), …]."""
    from keras_ms.search.embedding_files import holds_embeddings, read_embedding_files
    from keras_ms.search.pictures_now import is_one_picture

    if holds_embeddings(options.query):
        check_not_embedded(options, options.query)
        files = read_embedding_files(options.query)
        model = files.model
        if options.model:
            model = checked_model(options.model, files.model, options.query)
        if model is None:
            raise ValueError(
                f"{options.query} does not say which model its embeddings are of: give --model, "
                "the one that embedded them"
            )
        note = view_note(index, files, options.query)
        if note:
            print(note, file=sys.stderr)  # beside the results, which others may read
        return _nearest(index, files, model, options)
    is_one = is_one_picture(options.query)
    with embedded_for(index, options, options.query, verbose=not is_one) as (now, _):
        results = _nearest(index, now.files, now.files.model, options)
        tell_broken(now.broken)
        return results


def _nearest(index, files, model, options):
    results = []
    for names, embeddings in files.batches():
        if not names:
            continue
        found = index.search(
            embeddings, options.top or _TOP, model=model, approximate=options.approximate
        )
        results += [
            (name, list(zip(paths.tolist(), similarities.tolist())))
            for name, paths, similarities in zip(names, *found, strict=True)
        ]
    return results


def _duplicates(index, threshold):
    from keras_ms.terminal.keras_progress import work_progress
    from keras_ms.terminal.progress import shown_progress

    tell = work_progress("comparing", shown_progress(), unit="parts")
    groups = index.duplicates(threshold, progress=tell)
    results = [
        (f"group {number}", list(zip(group.paths, group.similarities)))
        for number, group in enumerate(groups, 1)
    ]
    count = sum(len(group.paths) for group in groups)
    return results, (
        f"{count:,} of {counted(len(index), 'picture')} in {counted(len(groups), 'group')} of "
        "similarity "
        f"{threshold:g} or more"
    )


def _evaluated(index, k):
    quality = index.evaluate_approximate(k)
    return (
        f"Approximate search finds {100 * quality.recall:.2f} % of the {quality.k} nearest, "
        f"measured with {quality.num_queries:,} pictures of {index.place} as queries. Milliseconds "
        f"a query (median): exact {quality.exact_ms:.1f}, approximate {quality.approximate_ms:.1f}"
    )
