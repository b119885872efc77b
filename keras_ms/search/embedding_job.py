"""What is embedded, how, and where to."""

import hashlib
import json
from dataclasses import dataclass
from typing import Any

import numpy as np

from keras_ms.export.embedder import Embedder, embed_views, takes_pictures, view_sizes
from keras_ms.search.picture_list import PictureList

# as of keras_ms.export.embedder.embed_images
_BATCH_SIZE = 64


@dataclass(frozen=True)
class EmbeddingJob:
    """What is embedded, how, and where to; whoever makes its shards needs nothing else.

    Attributes:
        model: path of the model file.
        pictures: `PictureList`.
        to: path or URL of the folder of the shards.
        dimension: numbers of an embedding.
        fingerprint: of the model.
        model_name: name of its file.
        dtype: "float32" or "float16".
        shard_size: pictures of a shard, the last one excepted.
        image_size, resize_to: pixels, as `keras_ms.export.embedder.view_sizes` gives them.
        apply_exif_orientation: as in `keras_ms.data.image_file.read_pixels`.
        batch_size: pictures embedded at a time.
    """

    model: str
    pictures: PictureList
    to: str
    dimension: int
    fingerprint: str
    model_name: str
    dtype: str
    shard_size: int
    image_size: int
    resize_to: int
    apply_exif_orientation: bool
    batch_size: int

    @property
    def num_shards(self) -> int:
        return -(-len(self.pictures.paths) // self.shard_size)

    def numbers(self, shard: int) -> range:
        """Numbers of the pictures of a shard."""
        first = shard * self.shard_size
        return range(first, min(first + self.shard_size, len(self.pictures.paths)))

    def shard_facts(self) -> dict[str, Any]:
        """What readers of a shard find in it."""
        return {
            "model_fingerprint": self.fingerprint,
            "model": self.model_name,
            "dimension": self.dimension,
        }

    def facts(self) -> dict[str, Any]:
        """What two runs share that make shards of one job, for JSON."""
        return self.shard_facts() | {
            "dtype": self.dtype,
            "shard_size": self.shard_size,
            "image_size": self.image_size,
            "resize_to": self.resize_to,
            "apply_exif_orientation": self.apply_exif_orientation,
            "pictures": len(self.pictures.paths),
            "pictures_digest": self.pictures.digest,
        }

    def key(self) -> str:
        """Text that the shards of one job share and others do not."""
        facts = json.dumps(self.facts(), sort_keys=True)
        return hashlib.sha256(facts.encode()).hexdigest()[:32]


def planned_job(
    embedder: Embedder,
    pictures: PictureList,
    *,
    model: str,
    to: str,
    dtype: str,
    shard_size: int,
    image_size: int | None = None,
    resize_to: int | None = None,
    apply_exif_orientation: bool | None = None,
    batch_size: int | None = None,
) -> EmbeddingJob:
    """The job of an embedder and pictures, with what is not given filled in.

    Args:
        embedder: `Embedder`, of the file `model`.
        pictures: `PictureList`.
        model, to, dtype, shard_size, image_size, resize_to, apply_exif_orientation, batch_size: of
            `keras_ms.search.embed_pictures`.

    Raises:
        ValueError: sizes or an orientation that the model does not take, or no size for a model of
            any.
    """
    rule = embedder.preprocessing
    recorded = None if rule is None else rule.exif_orientation
    if recorded is not None and apply_exif_orientation not in (None, recorded):
        raise ValueError(
            f"{embedder.name} records exif_orientation={recorded}. Received: "
            f"apply_exif_orientation={apply_exif_orientation}. Leave it out"
        )
    if not (embedder.image_size or image_size or isinstance(rule and rule.image_size, int)):
        raise ValueError(
            f"{embedder.name} takes images of any size and its file records none: give "
            "`image_size`, the side in pixels that it was trained with"
        )
    if embedder.batch_size and batch_size not in (None, embedder.batch_size):
        raise ValueError(
            f"{embedder.name} takes batches of {embedder.batch_size}. Received: "
            f"batch_size={batch_size}. Leave it out"
        )
    if takes_pictures(embedder):
        if batch_size not in (None, 1):
            raise ValueError(
                f"{embedder.name} prepares pictures itself and takes them one by one, as their "
                f"sizes differ. Received: batch_size={batch_size}. Leave it out"
            )
        batch_size = 1
    size, shorter = view_sizes(embedder, image_size=image_size, resize_to=resize_to)
    if shorter < size:
        raise ValueError(
            f"Expected `resize_to` of at least image_size={size}. Received: resize_to={shorter}"
        )
    return EmbeddingJob(
        model,
        pictures,
        to,
        # asked of the model, as every picture may be broken
        dimension=embed_views(embedder, [np.zeros((1, size, size, 3), np.uint8)]).shape[1],
        fingerprint=embedder.fingerprint,
        model_name=embedder.name,
        dtype=dtype,
        shard_size=shard_size,
        image_size=size,
        resize_to=shorter,
        apply_exif_orientation=False not in (recorded, apply_exif_orientation),
        batch_size=embedder.batch_size or batch_size or _BATCH_SIZE,
    )
