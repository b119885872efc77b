"""What the compare_*.py scripts share: cached features, a linear head, runs that are done once."""

import hashlib
import json
import time
from contextlib import contextmanager
from pathlib import Path

import keras
import numpy as np

import keras_ms
from keras_ms.evaluation.embed import embed_batches
from keras_ms.files import whole_file

try:
    import fcntl
except ImportError:  # Windows has no such locks
    fcntl = None

BATCH_SIZE = 1024  # features embedded at a time


def read_features(parser, path):
    """float32 features (N, channels) and int64 labels (N,) of an .npz file, or a usage error."""
    if not Path(path).is_file():
        parser.error(f"expected an .npz file with `features` and `labels`: {path}")
    with np.load(path, allow_pickle=False) as arrays:
        return arrays["features"].astype("float32"), arrays["labels"].astype("int64")


def digest(*arrays):
    """What tells these arrays from others, as text."""
    contents = hashlib.sha256()
    for array in arrays:
        contents.update(f"{array.dtype} {array.shape} ".encode())
        contents.update(array.tobytes())
    return contents.hexdigest()[:16]


def file_digest(path):
    """What tells a file from others, as text; a word that names no file as it is."""
    if not path or not Path(path).is_file():
        return str(path or "")
    return hashlib.sha256(Path(path).read_bytes()).hexdigest()[:16]


def names_of(parser, option, text, known, separator=";"):
    """The names in a text, all where there is none; a usage error for one that is unknown."""
    names = [name.strip() for name in text.split(separator) if name.strip()]
    if unknown := [name for name in names if name not in known]:
        expected = f"{separator} ".join(known)
        parser.error(f"{option}: expected some of {expected}. Received: {unknown}")
    return names or list(known)


@contextmanager
def alone_in(folder):
    """Makes a folder that no other process works in meanwhile.

    Raises:
        BlockingIOError: one does.
    """
    Path(folder).mkdir(parents=True, exist_ok=True)
    with open(Path(folder) / ".lock", "w") as file:
        if fcntl is not None:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise BlockingIOError(
                    f"Another comparison trains in {folder}: name another folder"
                ) from None
        yield


def zero_shot_halves(features, labels):
    """(training set, test set), each (features, labels): first and second half of the classes."""
    half = (labels.max() + 1) // 2
    first = labels < half
    return (features[first], labels[first]), (features[~first], labels[~first])


def validation_images(labels, draw):
    """Which images belong to the validation classes, a fifth of the classes, drawn by `draw`."""
    classes = np.random.default_rng(draw).permutation(labels.max() + 1)
    return np.isin(labels, classes[: len(classes) // 5])


def linear_head(channels, embedding_size, seed):
    """The model that is trained: features to embeddings, not normalised."""
    features = keras.Input((channels,), name="features")
    initializer = keras.initializers.Orthogonal(seed=seed)
    layer = keras.layers.Dense(
        embedding_size,
        kernel_initializer=initializer,  # pyright: ignore[reportArgumentType]
        name="embedding",
    )
    return keras.Model(features, layer(features))


def recalls(head, features, labels):
    """Recall@K by K, as a line of the results holds it; 0 for a head that diverged."""
    embeddings = embed_batches(head, features, batch_size=BATCH_SIZE)
    if not np.isfinite(embeddings).all():
        return {"recall": {str(k): 0.0 for k in (1, 2, 4, 8)}}
    recall = keras_ms.recall_at_k(embeddings, labels)
    return {"recall": {str(k): float(value) for k, value in recall.items()}}


class Results:
    """Runs, a line each of results.jsonl in a folder; one that is there is not repeated.

    Args:
        folder: where results.jsonl is or will be.
        key: function of a run, a dictionary, to what tells it from other runs, as JSON can write
            it. Lines of an older script may lack a name: `run.get`.
        unprinted: names that are kept but not printed.
    """

    def __init__(self, folder, key, unprinted=()):
        self.file = Path(folder) / "results.jsonl"
        self.file.parent.mkdir(parents=True, exist_ok=True)
        self._key = lambda run: json.dumps(key(run), sort_keys=True)
        self._unprinted = unprinted
        text = self.file.read_text(encoding="utf-8") if self.file.is_file() else ""
        lines = text.splitlines()
        if text and text[-1] != "\n":  # an interruption cut the last line short, or an editor
            lines = lines[:-1] + [line for line in lines[-1:] if _is_json(line)]
            with whole_file(self.file) as temporary:
                Path(temporary).write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
        self._done = {self._key(run): run for run in map(json.loads, lines)}

    def find_or_run(self, what, function):
        """The run that `what` describes, with what `function()` finds where it is not yet done."""
        key = self._key(what)
        if key not in self._done:
            start = time.perf_counter()
            run = {**what, **function()}
            run["seconds"] = round(time.perf_counter() - start, 1)
            with self.file.open("a") as file:
                file.write(json.dumps(run) + "\n")
            printed = {name: value for name, value in run.items() if name not in self._unprinted}
            print(json.dumps(printed), flush=True)
            self._done[key] = run
        return self._done[key]


def _is_json(line):
    try:
        json.loads(line)
    except ValueError:
        return False
    return True


def mean_and_spread(values):
    """Mean ± sample standard deviation of values in %, as text."""
    spread = f" ± {np.std(values, ddof=1):.1f}" if len(values) > 1 else ""
    return f"{np.mean(values):.1f}{spread}"


def short(setting, without=()):
    """A setting, a dictionary, as text."""
    kept = {k: v for k, v in setting.items() if v is not None and k not in without}
    return ", ".join(f"{name}={value}" for name, value in kept.items())
