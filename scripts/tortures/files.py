"""Files of other content, of every kind that a command reads: refused by name, or read."""

import io
import json
import pickle
import random
import sys
import warnings
import zipfile
from pathlib import Path

import numpy as np
from tortures.processes import apart, command, write_pictures

_ROOT = Path(__file__).resolve().parents[2]
# told that it ran by a file: no content of a file may run
_MARK = "it-ran"


class _Runs:
    def __reduce__(self):
        return (open, (_MARK, "w"))


def cases(place, seed, short):
    pictures = write_pictures(place / "pictures")
    contents = list(_contents(seed))
    if short:
        contents = random.Random(seed).sample(contents, 15)
    for kind, name, content in contents:
        file = place / f"{name.replace(' ', '_')}{kind}"
        yield f"{kind}: {name}", lambda a=(kind, file, content, pictures): _case(*a)
    fuzz = _ROOT / "tests" / "fuzz_image_files.py"
    if fuzz.is_file():
        sys.path.insert(0, str(fuzz.parent))
        yield "image files", lambda: apart(_images, place, seed, 54 if short else 540)
    else:
        print("image files are not tried: there is no tests/fuzz_image_files.py")


def _images(place, seed, count):
    import fuzz_image_files

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Pillow's, about what is damaged
        complaints = fuzz_image_files.fuzz(count, seed, place)[1]
    return count, "\n".join(complaints)


def _case(kind, file, content, pictures):
    folder = file.parent
    file.write_bytes(content)
    tried = 0
    for words in _commands(kind, file, pictures):
        tried += 1
        done = command(words, folder)
        fault = done.fault((0, 1, 2))
        if not fault and done.code:
            # a list of classes is known by its option
            listed = kind == ".txt" and "test_classes" in done.output
            fault = done.fault((1, 2), "error: ", *([] if listed else [file.name]))
        if (folder / _MARK).exists():
            fault = "the file's content was run"
        if fault:
            return tried, f"{words}\n{fault}"
    return tried, ""


def _commands(kind, file, pictures):
    if kind == ".npz":
        return [
            ["evaluate", file, "--bootstrap", "0"],
            ["report", "--embeddings", file],
            ["weights", "--embeddings", file],
            ["curriculum", file, "--page-classes", "0"],
        ]
    if kind == ".keras":
        return [["evaluate", file, pictures], ["export", file, "--to", file.parent / "exported"]]
    if kind == ".onnx":
        return [["evaluate", file, pictures], ["curriculum", file, "--data-dir", pictures]]
    if kind == ".json":
        return [["train", "--config", file], ["evaluate", "m.keras", "--config", file]]
    if kind == ".txt":
        return [["train", "--data-dir", pictures, "--test-classes", file, "--image-size", "16"]]
    if kind == ".table.csv":
        return [
            [
                "train",
                "--data-dir",
                pictures,
                "--curriculum",
                file,
                "--image-size",
                "16",
                "--classes-per-batch",
                "4",
                "--images-per-class",
                "2",
            ]
        ]
    if kind == ".csv":
        return [["train", "--data-dir", file]]
    if kind == ".weights.h5":
        return [["train", "--data-dir", pictures, "--image-size", "16", "--weights", file]]
    return [["convert-weights", file, "--to", file.parent / "converted.weights.h5"]]


def _contents(seed):
    """(kind, name, content) of every hostile file."""
    rng = np.random.default_rng(seed)
    noise = rng.integers(0, 256, 4096).astype("uint8").tobytes()
    texts = {
        "empty": b"", "noise": noise, "zeros": bytes(4096), "text": b"no such thing\n",
        "nested": b"[" * 100_000, "not UTF-8": b"caf\xe9,\xff\n" * 9, "null bytes": b"a\0b\n\0",
        "pickle": pickle.dumps(_Runs()), "archive of nothing": _archive({}),
        "archive of other things": _archive({"config.json": b"{", "a.npy": b"\x93NUMPY"}),
        "archive that climbs": _archive({"../../climbed": b"x", "/climbed": b"x"}),
        "long line": b"x," * 200_000 + b"\n",
    }  # fmt: skip
    kinds = (".npz", ".keras", ".onnx", ".json", ".txt", ".csv", ".table.csv", ".weights.h5",
             ".pth", ".safetensors")  # fmt: skip
    yield from ((kind, name, content) for kind in kinds for name, content in texts.items())
    for name, arrays in _arrays(rng).items():
        file = io.BytesIO()
        np.savez(file, **arrays)
        yield ".npz", name, file.getvalue()
    whole = file.getvalue()
    for end in range(1, 5):
        yield ".npz", f"cut at {end} of 5", whole[: len(whole) * end // 5]
    for value in ("1", '"a"', "null", "[1]", '{"steps": "many"}', '{"steps": 1e999}', '{"a": 1}',
                  json.dumps({"run_name": "a/b\0"}), '{"ks": "0"}', '{"data_dir": 3}'):  # fmt: skip
        yield ".json", f"value {value[:9].encode().hex()}", value.encode()
    for number, size in enumerate((0, 2**20, 2**62)):
        header = size.to_bytes(8, "little") + b'{"a":{"dtype":"F32","shape":[9999999999999]'
        yield ".safetensors", f"header {number}", header
    yield ".csv", "many digits", b"path,label,split\n" + b"a.png," + b"9" * 5000 + b",train\n"


def _arrays(rng):
    rows, ids = rng.normal(size=(6, 4)), np.arange(6) % 3
    for_all = {"embeddings": rows, "labels": ids}
    changes = {
        "complex": {"embeddings": rows + 1j}, "objects": {"embeddings": rows.astype(object)},
        "texts": {"embeddings": rows.astype(str)}, "one row": {"embeddings": rows[0]},
        "nan": {"embeddings": rows * np.nan}, "no rows": {"embeddings": rows[:0]},
        "float labels": {"labels": ids + 0.5}, "text labels": {"labels": ids.astype(str)},
        "objects that run": {"class_names": np.array([_Runs()] * 3, dtype=object)},
        "few names": {"class_names": np.array(["a"])}, "numbers as paths": {"paths": ids},
        "paths in two": {"paths": np.array([["a", "b"]] * 6)}, "split": {"data": '{"split": "x"}'},
        "settings": {"data": '{"split": "test", "image_size": "big", "dataset": 3}'},
        "unknown": {"data": '{"nothing": 1}'}, "no dict": {"data": "3"},
        "gallery": {"gallery_embeddings": rows, "gallery_labels": ids},
        "no query": {"is_query": ids > 9}, "numbers as queries": {"is_query": ids},
        "huge numbers": {"embeddings": rows * 1e300}, "huge labels": {"labels": ids + 2**62},
        "unsigned labels": {"labels": ids.astype("uint64") + np.uint64(2**63)},
    }  # fmt: skip
    return {name: for_all | change for name, change in changes.items()} | {"whole": for_all}


def _archive(members):
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return file.getvalue()
