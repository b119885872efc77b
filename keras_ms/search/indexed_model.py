"""Which model embedded what is in an index."""

from typing import NamedTuple, Protocol


class EmbeddingModel(Protocol):
    """What embedded something, such as an `Embedder` of `keras_ms.export.embedder`.

    Attributes:
        name: for people, such as the name of its file.
        fingerprint: as of `keras_ms.export.fingerprint.model_fingerprint`; equal ones mean that
            embeddings may be compared.
    """

    @property
    def name(self) -> str: ...

    @property
    def fingerprint(self) -> str: ...


class IndexedModel(NamedTuple):
    """The model of an index.

    Give one to `Index` for embeddings of another origin: equal fingerprints mean that embeddings
    may be compared, so choose a text that changes with the weights.

    Attributes:
        name: of its file, for people.
        fingerprint: of it; not empty.
        path: where its file lay as the index was made, or empty.

    Example:

    >>> IndexedModel("mine", "2024-05")
    IndexedModel(name='mine', fingerprint='2024-05', path='')
    """

    name: str
    fingerprint: str
    path: str = ""
