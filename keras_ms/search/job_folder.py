"""The folder of a job: whether it is of this one, which shards are whole, what is broken."""

import csv
import io
import json
from collections.abc import Callable, Iterable
from typing import Any

from keras_ms.search.embedding_job import EmbeddingJob
from keras_ms.search.picture_list import was_missing
from keras_ms.search.places import OutputFolder
from keras_ms.search.shards import Shard, is_shard_name, read_shard, shard_name

FACTS_FILE, BROKEN_FILE = "embeddings.json", "broken.csv"
_WHAT_TO_DO = "Name another folder, or give --replace (replace=True) to remove what is there"


def shards_there(
    folder: OutputFolder,
    job: EmbeddingJob,
    *,
    replace: bool,
    say: Callable[[str], Any] = lambda line: None,
) -> dict[int, Shard]:
    """Makes the folder the job's, and finds the shards of it that are there and whole.

    Args:
        folder: `OutputFolder`.
        job: `EmbeddingJob`.
        replace: whether embeddings of another job are removed; else they are an error.
        say: called with a line about what is removed or made again. Defaults to nothing.

    Returns:
        dict of `Shard` by number, without those of which pictures were missing that are there now.

    Raises:
        ValueError: without `replace`, embeddings of another job; the message says what differs.
    """
    folder.remove_unfinished()
    names, facts = folder.names(), job.facts()
    there = {name for name in names if is_shard_name(name)}
    before = _facts_before(folder, names)
    differences = _differences(before, facts) if there or before is not None else []
    if differences and not replace:
        raise ValueError(
            f"{folder.place} holds other embeddings: {'; '.join(differences)}. {_WHAT_TO_DO}"
        )
    if differences:
        say(f"Removing {len(there):,} shards of other embeddings ({'; '.join(differences)})")
        for name in names:
            if name in there or name == BROKEN_FILE:
                folder.remove(name)
        there = set()
    if before is None or differences:
        # before any shard: it says of what job they are
        folder.write(FACTS_FILE, (json.dumps(facts, indent=2) + "\n").encode())
    shards, key = {}, job.key()
    for number in range(job.num_shards):
        if shard_name(number) in there:
            with folder.open(shard_name(number)) as file:
                shard = read_shard(file, key, number, len(job.numbers(number)))
            if shard is None:
                say(f"{shard_name(number)} is damaged, or of another job, and is made again")
            elif _has_come(shard, job):
                say(f"{shard_name(number)} is made again: pictures that were missing are there")
            else:
                shards[number] = shard
    return shards


def _has_come(shard: Shard, job: EmbeddingJob) -> bool:
    """Whether a picture that was missing can be read now; the disk may not have been there."""
    for number, _, reason in shard.broken:
        if was_missing(reason):
            try:
                job.pictures.read(number)
            except ValueError:
                continue
            return True
    return False


def write_broken(folder: OutputFolder, broken: Iterable[tuple[str, str]]) -> None:
    """Writes broken.csv: path and reason of each picture that is in no shard."""
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(("path", "reason"))
    writer.writerows(broken)
    folder.write(BROKEN_FILE, text.getvalue().encode())


def _facts_before(folder: OutputFolder, names: list[str]) -> dict[str, Any] | None:
    """What embeddings.json says; empty where it is damaged, None where it is not there."""
    if FACTS_FILE not in names:
        return None
    try:
        facts = json.loads(folder.read(FACTS_FILE))
    except ValueError:
        return {}
    return facts if isinstance(facts, dict) else {}


def _differences(before: dict[str, Any] | None, now: dict[str, Any]) -> list[str]:
    if not before:
        return [f"its {FACTS_FILE} is damaged or gone"]
    return [
        f"{name} was {before.get(name)!r} and is {value!r}"
        for name, value in now.items()
        if before.get(name) != value
    ]
