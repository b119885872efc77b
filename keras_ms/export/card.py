"""What an exported file says about itself, and what its writer says when the disk refuses."""

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from keras_ms import __version__
from keras_ms.export.feeding_rule import described_preprocessing
from keras_ms.export.fingerprint import model_fingerprint
from keras_ms.export.inference_model import InferenceModel
from keras_ms.export.preprocessing import Preprocessing
from keras_ms.files import full_disk_error, is_full_disk


def model_card(
    wrapped: InferenceModel, metadata: Mapping[str, Any] | None, preprocessing: Preprocessing | None
) -> dict[str, Any]:
    """Facts stored in an exported file, all of them text but one.

    Args:
        wrapped: `InferenceModel`.
        metadata: mapping of further facts, or None: `training_data`, `recall_at_1`, whatever
            else a reader of the file should know. Its entries win over the derived ones.
        preprocessing: `Preprocessing`, or None: what the model's input tells.

    Returns:
        dict of str to str with at least `preprocessing`, `embedding_dimension`, `training_data`,
        `recall_at_1`, `model_fingerprint` and `keras_ms_version`. Beside it, for a model of images
        whose `preprocessing` is not given in `metadata`, the dict `preprocessing_rule`.

    Raises:
        ValueError: `metadata` is not a mapping with text keys, or says what `preprocessing` says;
            a `preprocessing` that does not fit the model.
    """
    metadata = {} if metadata is None else metadata
    if not isinstance(metadata, Mapping) or not all(isinstance(key, str) for key in metadata):
        raise ValueError(
            "Expected `metadata` to be a mapping from names to values, such as "
            f"{{'training_data': 'CUB-200-2010, classes 1-100'}}. Received: {metadata!r}"
        )
    _refuse_two_rules(metadata, preprocessing)
    text, rule = described_preprocessing(wrapped, preprocessing)
    card: dict[str, Any] = {
        "preprocessing": text,
        "embedding_dimension": "x".join(map(str, wrapped.output_shape)),
        "training_data": "not recorded",
        "recall_at_1": "not recorded",
        "model_fingerprint": model_fingerprint(wrapped.model),
        "keras_ms_version": __version__,
    }
    card |= {key: str(value) for key, value in metadata.items()}
    if rule is not None and "preprocessing" not in metadata:  # the caller's own words stand alone
        card["preprocessing_rule"] = rule
    return card


def _refuse_two_rules(metadata, preprocessing):
    if "preprocessing_rule" in metadata or (
        preprocessing is not None and "preprocessing" in metadata
    ):
        raise ValueError(
            "Give the way to the model's input once: as preprocessing=keras_ms.Preprocessing(…), "
            "or in words as metadata={'preprocessing': …} where that does not fit. Received: "
            f"preprocessing={preprocessing!r}, metadata={metadata!r}"
        )


@contextmanager
def explained_write_errors(path: str | os.PathLike, byte_count: int) -> Iterator[None]:
    """Turns errors of a full disk into one OSError that says what to do.

    Args:
        path: destination, for the message.
        byte_count: size of what is written, for the message.

    Raises:
        OSError: with errno ENOSPC, whether the writer raised an OSError or TensorFlow's own error.
    """
    try:
        yield
    except Exception as error:
        if not is_full_disk(error):
            raise
        raise full_disk_error(path, byte_count) from error
