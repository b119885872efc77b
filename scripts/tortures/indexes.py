"""An index whose writer is killed: what was acknowledged is there, the rest whole or not at all."""

import importlib.util
import json
import os
import random
import signal
import time

import numpy as np
from tortures.processes import apart

from keras_ms.search import Index, IndexedModel

_KILLS, _SHORT = 20, 2
_ROWS, _DIMENSION, _GROUPS = 300, 32, 7
_MODEL = IndexedModel("birds.onnx", "0" * 32)


def cases(place, seed, short):
    if importlib.util.find_spec("lancedb") is None:
        print('indexes: needs pip install -e ".[search]"')
        return
    moments, done = random.Random(seed), [0]
    for number in range(_SHORT if short else _KILLS):
        # every 32 changes files are put together: some kills are during that
        after = moments.uniform(0.0, 2.0)
        yield (
            f"writer {number} of an index, killed {after:.2f} s after its start",
            lambda after=after: (1, _case(place / "an.index", done, after)),
        )


def _case(place, done, after):
    acknowledged = _acknowledged(place, done[0], after)
    # the engine has threads, which no fork may be made of
    found = apart(_found_state, str(place))
    if isinstance(found[1], str):
        return found[1]
    last = done[0] + acknowledged
    for count in (last, last + 1):
        if found[1] == _expected_state(count):
            done[0] = count
            return ""
    return (
        f"{last} changes were acknowledged, and the index is as after neither {last} nor one more"
    )


def _acknowledged(place, first, after):
    """How many changes a process acknowledges until it is killed."""
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            index = Index.create(place, model=_MODEL, dimension=_DIMENSION)
            os.write(writing, b"started\n")
            for number in range(first, first + 100_000):
                _change(index, number)
                os.write(writing, b"changed\n")
        finally:
            os._exit(1)
    os.close(writing)
    with open(reading) as pipe:
        pipe.readline()
        time.sleep(after)
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        return len(pipe.read().splitlines())


def _change(index, number):
    """The change of a number: a group of rows is added, replaced or removed."""
    group, paths = number % _GROUPS, _paths(number % _GROUPS)
    if number % 5 == 4:
        index.remove(paths)
    else:
        index.add(paths, _rows(group, number), model=_MODEL)


def _paths(group):
    return [f"{group}/{row}.jpg" for row in range(_ROWS)]


def _rows(group, number):
    rows = np.random.default_rng(number).standard_normal((_ROWS, _DIMENSION))
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def _expected_state(count):
    """Of each group the number of the change that its rows are of, after so many changes."""
    state = {}
    for number in range(count):
        if number % 5 == 4:
            state.pop(str(number % _GROUPS), None)
        else:
            state[str(number % _GROUPS)] = number
    return state


def _found_state(place):
    """(1, the same of what is in the index), or (1, words about what is wrong)."""
    index, found = Index(place), {}
    for paths, rows in index.batches():
        for path, row in zip(paths, rows):
            if path in found:
                return 1, f"{path} is there twice"
            found[path] = row
    if len(found) != len(index):
        return 1, f"{len(index)} rows are counted and {len(found)} found"
    state = {}
    for group in {path.partition("/")[0] for path in found}:
        if any(path not in found for path in _paths(int(group))):
            return 1, f"a part of group {group} is there"
        there = [found[path] for path in _paths(int(group))]
        # which change made its first row made all of them
        numbers = [n for n in range(100_000) if n % _GROUPS == int(group) and n % 5 != 4]
        number = next(n for n in numbers if np.allclose(_rows(0, n)[0], there[0], atol=1e-5))
        if not np.allclose(_rows(0, number), there, atol=1e-5):
            return 1, f"the rows of group {group} are of several changes"
        state[group] = number
    return 1, json.loads(json.dumps(state))
