"""An index of embeddings: which pictures are nearest, exactly or nearly so."""

import os
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple

import numpy as np

from keras_ms.arguments import Tensor, real_number, whole_number
from keras_ms.data.file_names import shown_name
from keras_ms.evaluation.inputs import checked_embeddings, unit_rows
from keras_ms.search.approximate_search import (
    PROBES,
    ApproximateQuality,
    Neighbours,
    approximate_neighbours,
    approximate_quality,
)
from keras_ms.search.duplicates import DuplicateGroup, duplicate_groups, read_again
from keras_ms.search.exact_search import nearest_rows
from keras_ms.search.index_table import BATCH, IndexTable
from keras_ms.search.indexed_model import EmbeddingModel, IndexedModel
from keras_ms.search.kept_rows import KeptRows
from keras_ms.search.picture_view import PictureView

_SAMPLED = 200
_LEAST_FOR_PARTS = 256


class Added(NamedTuple):
    """What was done with embeddings.

    Attributes:
        new: number of the paths that are new in the index.
        replaced: number of those that were there.
    """

    new: int
    replaced: int


class Index:
    """Embeddings of one model, by the path of their picture, kept by LanceDB.

    It lies in a folder, or at a URI that LanceDB opens, such as s3://bucket/birds. What `add` or
    `remove` have returned from stays, whatever ends the process; an addition that was interrupted
    is not there at all. Several processes may read and write a folder: writers wait for each other,
    and readers see what was there as they began.

    - Embeddings are divided by their norms; one of zeros is refused.
    - Paths are texts and stay as they are given: photos/a.jpg and ./photos/a.jpg are two. Bytes in
      them that are no text are written as their code.
    - Equally similar pictures stand in the order of their paths.

    Args:
        place: of an index that is there.

    Raises:
        FileNotFoundError: none is there; `Index.create` makes one.
        ImportError: the extra `search` is not installed.
        ValueError: what is there is something else.

    Example:

    ```python
    embedder = load_embedder("embedder.onnx")
    index = Index.create("birds.index", model=embedder, dimension=128)
    index.add(paths, embed_images(embedder, images), model=embedder)
    paths, similarities = index.search(embed_images(embedder, queries), k=5, model=embedder)
    ```
    """

    def __init__(self, place: str | os.PathLike):
        self._table = IndexTable(os.fspath(place))
        self._rows = KeptRows(self._table)

    @classmethod
    def create(
        cls,
        place: str | os.PathLike,
        *,
        model: EmbeddingModel,
        dimension: int,
        model_path: str | os.PathLike | None = None,
        view: PictureView | None = None,
    ) -> "Index":
        """Makes an index, or opens the one that is there if it is of the same model.

        Args:
            place: a folder, made if missing, or a URI.
            model: what embeds: anything with a `name` and a `fingerprint`.
            dimension: numbers of an embedding.
            model_path: where the model's file lies, to find it again. Defaults to None: not kept.
            view: `PictureView`, how its pictures are seen. Defaults to None: not known.

        Returns:
            The `Index`.

        Raises:
            ValueError: an index of another model, dimension or view is there, or something else; a
                model without a fingerprint.
        """
        dimension = whole_number("dimension", dimension)
        if not model.fingerprint:
            raise ValueError(f"Expected a model with a fingerprint. Received: {model!r}")
        facts = {
            "model_fingerprint": model.fingerprint,
            "model": shown_name(model.name),
            "dimension": dimension,
            "model_path": shown_name(model_path or ""),
        }
        if view is not None:
            facts |= view._asdict()
        IndexTable.create(os.fspath(place), facts)
        index = cls(place)
        index._check_model(model, dimension)
        index.check_view(view, "these pictures")
        return index

    @property
    def place(self) -> str:
        """Folder or URI."""
        return self._table.place

    @property
    def dimension(self) -> int:
        """Numbers of an embedding."""
        return self._table.dimension

    @property
    def model(self) -> IndexedModel:
        """What embedded everything in it."""
        facts = self._table.facts
        return IndexedModel(
            facts.get("model", ""), facts["model_fingerprint"], facts.get("model_path", "")
        )

    @property
    def view(self) -> PictureView | None:
        """How its pictures were seen; None where that is not known, as in earlier indices."""
        return PictureView.of(self._table.facts)

    def check_view(self, view: PictureView | None, what: str) -> None:
        """Raises ValueError where both views are known and differ; the message has what differs.

        Args:
            view: of what is added or searched for, or None.
            what: this is, for the message.
        """
        own = self.view
        if own is not None and view is not None and own != view:
            raise ValueError(
                f"Expected {what} to be seen as those in {self.place}: "
                f"{'; '.join(own.differences(view))}. Cut otherwise, a picture does not find "
                "itself. Leave the sizes out, or embed these as those were, or make another index"
            )

    def remember_model(self, path: str | os.PathLike) -> None:
        """Keeps where the model's file lies now."""
        if shown_name(path) != self.model.path:
            self._table.change_facts(model_path=shown_name(path))

    @property
    def is_approximate(self) -> bool:
        """Whether `search` can be approximate."""
        return self._table.has_approximate()

    def __len__(self) -> int:
        return len(self._table)

    def add(self, paths: Iterable[Any], embeddings: Tensor, *, model: EmbeddingModel) -> Added:
        """Adds pictures, all or none; one whose path is there is replaced.

        Args:
            paths: of the pictures; of one that is there twice, the last counts.
            embeddings: (len(paths), dimension) of finite numbers.
            model: what embedded them.

        Returns:
            `Added`.

        Raises:
            ValueError: embeddings of another model, dimension, number, or of no length.
        """
        names = _texts(paths)
        if not names and not len(embeddings):
            return Added(0, 0)
        rows = self._checked(embeddings, model)
        if len(names) != len(rows):
            raise ValueError(
                f"Expected one path for each embedding. Received: {len(names):,} paths, "
                f"{len(rows):,} embeddings"
            )
        last = {name: number for number, name in enumerate(names)}
        if len(last) < len(names):
            names, rows = list(last), rows[list(last.values())]
        return Added(*self._table.replace(names, rows))

    def remove(self, paths: Iterable[Any]) -> int:
        """Removes pictures; those that are not there are passed over.

        Args:
            paths: as they were added.

        Returns:
            How many of them there were.

        Raises:
            ValueError: one text instead of several.
        """
        names = _texts(paths)
        return self._table.remove(sorted(set(names))) if names else 0

    def batches(self, size: int = BATCH) -> Iterator[tuple[list[str], np.ndarray]]:
        """Everything in it, a part at a time, in no particular order.

        Args:
            size: rows of a part, at most.

        Yields:
            Paths, and embeddings of norm 1, float32 (count, dimension).
        """
        for paths, rows in self._table.scan(batch_size=whole_number("size", size)):
            yield paths.to_pylist(), rows

    def search(
        self,
        embeddings: Tensor,
        k: int = 10,
        *,
        model: EmbeddingModel,
        approximate: bool = False,
        probes: int | None = None,
    ) -> Neighbours:
        """The k nearest pictures to each query.

        Args:
            embeddings: (queries, dimension).
            k: neighbours of each; of an index with fewer pictures all are found. Defaults to 10.
            model: what embedded the queries.
            approximate: whether some neighbours may be missed, for speed. Defaults to False.
            probes: of approximate search, parts that are looked at; more, where these hold fewer
                than `k`. Defaults to None: 20 of the parts that `make_approximate` has made, as
                many as the root of the pictures' number.

        Returns:
            `Neighbours`: paths and similarities, both (queries, k), the nearest first.

        Raises:
            ValueError: queries of another model or dimension; a k below 1; `approximate` without
                `make_approximate`.
        """
        k = self._possible(k)
        queries = self._checked(embeddings, model)
        if not approximate:
            if probes is not None:
                raise ValueError(f"`probes` are of approximate search. Received: probes={probes}")
            return Neighbours(*nearest_rows(self._rows.parts(), queries, k))
        self.check_approximate()
        probes = PROBES if probes is None else whole_number("probes", probes)
        return approximate_neighbours(self._table, queries, k, probes)

    def make_approximate(self) -> None:
        """Makes what approximate search needs; it stays so with later additions.

        Raises:
            ValueError: an index of fewer than 256 pictures, where exact search takes no time.
        """
        count = len(self)
        if count < _LEAST_FOR_PARTS:
            raise ValueError(
                f"Expected at least {_LEAST_FOR_PARTS} pictures for approximate search. "
                f"{self.place} has {count}: exact search is fast there"
            )
        self._table.make_approximate(round(count**0.5))

    def check_approximate(self) -> None:
        """Raises ValueError where `make_approximate` has not been called."""
        if not self.is_approximate:
            raise ValueError(
                f"{self.place} has no approximate search yet: make it with `make_approximate()`, "
                "or keras-ms index --approximate, or search exactly"
            )

    def evaluate_approximate(
        self,
        k: int = 10,
        *,
        probes: int | None = None,
        num_queries: int = _SAMPLED,
        seed: int = 0,
    ) -> ApproximateQuality:
        """Measures what approximate search misses, with pictures of the index as queries.

        Args:
            k: neighbours, the picture itself included. Defaults to 10.
            probes: as in `search`.
            num_queries: pictures that are drawn. Defaults to 200.
            seed: of the drawing. Defaults to 0.

        Raises:
            ValueError: no approximate search, see `make_approximate`.
        """
        k, num_queries = self._possible(k), whole_number("num_queries", num_queries)
        self.check_approximate()
        queries = self._drawn(num_queries, seed)
        probes = PROBES if probes is None else whole_number("probes", probes)
        return approximate_quality(
            queries,
            k,
            exact=lambda query: Neighbours(*nearest_rows(self._rows.parts(), query, k)),
            approximate=lambda query: approximate_neighbours(self._table, query, k, probes),
        )

    def duplicates(
        self, threshold: float, *, progress: Callable[[int, int], Any] | None = None
    ) -> list[DuplicateGroup]:
        """Groups of pictures that are nearly the same.

        Every pair is compared: 100,000 pictures take a hundred times as long as 10,000. The
        embeddings are copied into the folder for temporary files meanwhile.

        Args:
            threshold: least cosine of two pictures that belong together, above 0, up to 1.
            progress: told how many parts of the work are done and how many there are.

        Returns:
            list of `DuplicateGroup`, the largest first.

        Raises:
            ValueError: a threshold out of range.
        """
        threshold = real_number("threshold", threshold, above=0, most=1)
        with read_again(self._table.scan(), self.dimension, BATCH) as scan:
            return duplicate_groups(scan, threshold, progress)

    def compact(self) -> None:
        """Deletes from the disk at once what was replaced or removed, else kept for a day.

        A search of another process that has begun may fail.
        """
        self._table.compact()

    def _possible(self, k):
        """k, as far as there are pictures: room is made for all neighbours of all queries."""
        return min(whole_number("k", k), max(1, len(self)))

    def _drawn(self, count, seed):
        chosen = np.random.default_rng(seed).permutation(len(self))[:count]
        rows, start = [], 0
        for _, part in self._rows.parts():
            inside = np.sort(chosen[(chosen >= start) & (chosen < start + len(part))]) - start
            rows.append(part[inside])
            start += len(part)
        return np.concatenate(rows)

    def _check_model(self, model, dimension):
        own = self.model
        if model.fingerprint != own.fingerprint:
            raise ValueError(
                f"Expected embeddings of {own.name} (fingerprint {own.fingerprint}), which "
                f"{self.place} is of. Received those of {model.name} (fingerprint "
                f"{model.fingerprint}): another model's embeddings cannot be compared with them. "
                "Use that model, or make another index"
            )
        if dimension != self.dimension:
            raise ValueError(
                f"Expected embeddings of {self.dimension} numbers, as in {self.place}. Received: "
                f"{dimension}"
            )

    def _checked(self, embeddings, model):
        rows = checked_embeddings(embeddings, "embeddings")
        self._check_model(model, rows.shape[1])
        rows = unit_rows(rows)
        without_length = np.flatnonzero(~rows.any(axis=1))
        if len(without_length):
            raise ValueError(
                "Expected embeddings that are not all zeros: those have no direction. Received "
                f"{len(without_length)} of {len(rows)}, the first is row {without_length[0]}"
            )
        return rows


def _texts(paths: Iterable[Any]) -> list[str]:
    if isinstance(paths, (str, bytes, os.PathLike)):
        raise ValueError(f"Expected a list of paths. Received one: {paths!r}")
    return [shown_name(path) for path in paths]
