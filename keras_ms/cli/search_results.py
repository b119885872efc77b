"""What a search found, as lines, a table, JSON or a page."""

import csv
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from keras_ms.files import whole_file
from keras_ms.report.search_page import write_search_page

# a query, or the name of a group, and the paths with their similarities
Result = tuple[str, list[tuple[str, float]]]


def print_results(results: Sequence[Result]) -> None:
    """Prints each query with what it found below."""
    for name, found in results:
        print(name)
        for rank, (path, similarity) in enumerate(found, 1):
            print(f"{rank:5d}  {similarity:7.4f}  {path}")
        print()


def write_results(
    results: Sequence[Result], to: str, index: Any, what: str, *, max_pictures: int
) -> int:
    """Writes them in the format of a file's name; returns its size in bytes.

    Args:
        results: `Result` of each query or group.
        to: file that ends in .html, .csv or .json.
        index: the `keras_ms.search.Index` that was searched.
        what: a line about the search.
        max_pictures: that a page holds.
    """
    suffix = Path(to).suffix
    if suffix == ".html":
        facts = {
            "Index": index.place,
            "Pictures": f"{len(index):,}",
            "Model": f"{index.model.name}, fingerprint {index.model.fingerprint}",
        }
        return write_search_page(results, to, what=what, facts=facts, max_pictures=max_pictures)
    with whole_file(to) as temporary:
        if suffix == ".csv":
            _write_csv(results, temporary)
        else:
            _write_json(results, temporary, index)
        return temporary.stat().st_size


def _write_csv(results, path):
    with open(path, "w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(("query", "rank", "similarity", "path"))
        for name, found in results:
            for rank, (path, similarity) in enumerate(found, 1):
                writer.writerow((name, rank, similarity, path))


def _write_json(results, path, index):
    content = {
        "index": index.place,
        "model": index.model.name,
        "model_fingerprint": index.model.fingerprint,
        "results": [
            {
                "query": name,
                "found": [{"path": path, "similarity": value} for path, value in found],
            }
            for name, found in results
        ],
    }
    path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
