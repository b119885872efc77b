"""The shards of a job made by workers of Ray Data, on one machine or on several.

Each worker loads the model once and makes whole shards with the same `ShardMaker` as one machine
does: it reads pictures and writes its shard by itself, and only what is said of a shard goes back.
"""

import json
import logging
import os
from collections.abc import Iterator, Sequence
from typing import Any

from keras_ms.export.embedder import load_embedder
from keras_ms.search.embedding_job import EmbeddingJob
from keras_ms.search.packages import import_search_package
from keras_ms.search.shard_maker import ShardMaker
from keras_ms.search.shards import Shard, shard_from_json

# what the process of a worker reads of its environment before anything else
_VARIABLES = ("KERAS_BACKEND", "TF_CPP_MIN_LOG_LEVEL")


class _Worker:
    """Of one process: the model is loaded once for all the shards that it makes."""

    def __init__(self, job: EmbeddingJob, folder: str):
        self._job, self._maker = job, None
        if os.path.isdir(folder):
            os.chdir(folder)  # names that do not begin at the root lead to the same files

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        (number,) = batch["number"]
        shard = fault = ""
        try:
            self._maker = self._maker or ShardMaker(self._job, load_embedder(self._job.model))
            shard = json.dumps(self._maker.make(int(number)))
        except (ValueError, OSError, ImportError) as error:
            # told as a value: raised here, it would arrive among pages of Ray's own words
            fault = f"{type(error).__name__}: {error}"
        return {"shard": [shard], "fault": [fault]}


def import_ray() -> Any:
    """The module `ray`, with its usage reports off.

    Raises:
        ImportError: the extra `ray` is missing; the message has the command.
    """
    # before the import, which reads it
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    return import_search_package("ray", "ray")


def made_on_ray(job: EmbeddingJob, numbers: Sequence[int], workers: int | None) -> Iterator[Shard]:
    """Makes shards on Ray: a cluster that RAY_ADDRESS names, else processes of this machine.

    Args:
        job: `EmbeddingJob`; its model, pictures and folder are opened by their names everywhere.
        numbers: of the shards.
        workers: how many make shards at once. Defaults to None: one for each machine.

    Yields:
        `Shard`, as they are done.

    Raises:
        ImportError: no Ray.
        ValueError: more workers than Ray has cores.
        OSError: a worker or Ray itself fails; the message says why.
    """
    ray = import_ray()
    data = import_search_package("ray.data", "ray")
    was_running = ray.is_initialized()
    if not was_running:
        _start(ray)
    try:
        context = data.DataContext.get_current()
        context.enable_progress_bars = False  # the caller shows it
        logging.getLogger("ray.data").setLevel(logging.ERROR)
        count = min(_checked_workers(ray, workers), len(numbers))
        rows = data.from_items(
            [{"number": number} for number in numbers], override_num_blocks=len(numbers)
        ).map_batches(
            _Worker,
            batch_size=1,
            compute=data.ActorPoolStrategy(size=count),
            fn_constructor_args=(job, os.getcwd()),
        )
        for row in rows.iter_rows():
            if row["fault"]:
                raise OSError(f"A worker of Ray failed. {row['fault']}")
            yield shard_from_json(row["shard"])
    except ray.exceptions.RayError as error:
        raise OSError(f"Ray failed. {type(error).__name__}: {error}") from error
    finally:
        if not was_running:
            ray.shutdown()


def _checked_workers(ray, workers):
    machines = sum(node["Alive"] for node in ray.nodes())
    cores = int(ray.cluster_resources().get("CPU", 0))
    # more would be waited for without an end
    if workers is not None and workers > cores:
        raise ValueError(
            f"Expected `workers` up to the {cores} cores that Ray has on {machines} machines. "
            f"Received: workers={workers}"
        )
    return workers or machines


def _start(ray):
    there = {name: os.environ[name] for name in _VARIABLES if name in os.environ}
    ray.init(
        include_dashboard=False,
        log_to_driver=False,
        logging_level=logging.ERROR,
        runtime_env={"env_vars": there},
    )
