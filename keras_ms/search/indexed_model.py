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

    Attributes:
        name: of its file.
        fingerprint: of it.
        path: where its file lay as the index was made, or empty.
    """

    name: str
    fingerprint: str
    path: str = ""
