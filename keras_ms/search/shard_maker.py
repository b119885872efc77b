"""One shard of embeddings, from its pictures to its file: the work, on one machine or many."""

import itertools
from collections.abc import Iterator
from typing import Any

import numpy as np

from keras_ms.data.file_names import shown_name
from keras_ms.data.image_file import pixels_of
from keras_ms.data.picture_views import centre_views_ahead, viewed_ahead
from keras_ms.export.embedder import Embedder, embed_views, takes_pictures
from keras_ms.search.embedding_job import EmbeddingJob
from keras_ms.search.places import OutputFolder
from keras_ms.search.shards import Shard, shard_bytes, shard_name
from keras_ms.terminal.cores import num_cores
from keras_ms.terminal.progress import Progress

# of what waits for a network, as many at once
_REMOTE_THREADS = 32
# batches that are prepared ahead of the one that the model has
_BATCHES_AHEAD = 2


class ShardMaker:
    """Makes shards of a job with an embedder that is loaded once.

    Args:
        job: `EmbeddingJob`.
        embedder: its model, loaded.

    Raises:
        ValueError: the embedder is another model than the job's.

    Example:

    ```python
    maker = ShardMaker(job, load_embedder(job.model))
    shards = [maker.make(number) for number in range(job.num_shards)]
    ```
    """

    def __init__(self, job: EmbeddingJob, embedder: Embedder):
        if embedder.fingerprint != job.fingerprint:
            raise ValueError(
                f"Expected the model {job.fingerprint} in {job.model}. Received "
                f"{embedder.fingerprint}: the file was changed, or is another one on this machine"
            )
        self.job, self.embedder = job, embedder

    def make(self, number: int, progress: Progress | None = None) -> Shard:
        """Embeds the pictures of a shard and writes it, whole or not at all.

        Args:
            number: of the shard.
            progress: told pictures done and all of the shard's, after each batch. Defaults to None.

        Raises:
            ValueError: embeddings that are NaN or infinite for every picture, or beyond float16.
            OSError: what fails on a disk or a network while pictures are read or the shard written.
        """
        job, kept, broken = self.job, [], []
        batches = self._batches(number, kept, broken, progress)
        first = next(batches, None)
        if first is None:
            embeddings = np.zeros((0, job.dimension), np.float32)
        else:
            embeddings = embed_views(self.embedder, itertools.chain([first], batches))
        is_finite = np.asarray(np.isfinite(embeddings).all(axis=1))
        self._check_values(embeddings, is_finite, kept)
        fault = "the model gives NaN or infinity for it"
        broken += [(n, fault) for n, good in zip(kept, is_finite) if not good]
        paths = job.pictures.paths
        shard = Shard(
            number,
            int(is_finite.sum()),
            tuple((n, shown_name(paths[n]), reason) for n, reason in sorted(broken)),
        )
        rows = [paths[n] for n, good in zip(kept, is_finite) if good]
        contents = shard_bytes(
            shard, rows, embeddings[is_finite].astype(job.dtype), job.shard_facts(), job.key()
        )
        OutputFolder(job.to).write(shard_name(number), contents)
        return shard

    def _batches(self, number, kept, broken, progress) -> Iterator[np.ndarray]:
        """Batches of views; their pictures are added to `kept`, the others to `broken`."""
        job, numbers, batch = self.job, self.job.numbers(number), []
        for done, (picture, view) in enumerate(self._views(numbers), 1):
            if isinstance(view, str):
                broken.append((picture, view))
            else:
                kept.append(picture)
                batch.append(view)
            if batch and (len(batch) == job.batch_size or done == len(numbers)):
                yield np.stack(batch)
                batch = []
            if progress is not None and (done % job.batch_size == 0 or done == len(numbers)):
                progress(done, len(numbers))

    def _views(self, numbers) -> Iterator[tuple[int, np.ndarray | str]]:
        job, cores = self.job, num_cores()
        readers = _REMOTE_THREADS if job.pictures.is_remote else cores
        ahead = max(_BATCHES_AHEAD * job.batch_size, readers)
        exif: Any = {"apply_exif_orientation": job.apply_exif_orientation}
        if not takes_pictures(self.embedder):
            return centre_views_ahead(
                numbers,
                job.pictures.read,
                job.image_size,
                job.resize_to,
                # the model has threads of its own, which would take the most of the cores
                threads=2 * cores,
                readers=readers,
                ahead=ahead,
                **exif,
            )
        return viewed_ahead(
            numbers,
            lambda n: pixels_of(job.pictures.read(n), **exif),
            threads=readers,
            ahead=ahead,
        )

    def _check_values(self, embeddings, is_finite, kept):
        names = [shown_name(self.job.pictures.paths[n]) for n in kept]
        if kept and not is_finite.any():
            raise ValueError(
                f"Expected finite embeddings of {self.embedder.name}. Received NaN or infinity for "
                f"all of {len(kept):,} pictures, the first is {names[0]}. Look for NaN in the "
                "weights: a training that diverged"
            )
        largest = np.abs(embeddings[is_finite]).max(initial=0)
        if largest > np.finfo(self.job.dtype).max:
            raise ValueError(
                f"Expected embeddings that {self.job.dtype} holds, up to "
                f"{np.finfo(self.job.dtype).max:g}. Received {largest:g}: take float32"
            )
