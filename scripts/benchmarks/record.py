"""Measured figures in one file, docs/benchmarks.json, from which the tables of the docs are made.

A benchmark with `--record` writes its medians and ratios there, each table under its name and the
kind of processor: another run of the same kind takes its place, one of another kind stands beside
it. `python scripts/draw_benchmarks.py` then makes the tables of docs/benchmarks.md from the file.
"""

import argparse
import datetime
import importlib.metadata
import json
import os
import platform
import re
import shlex
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

FILE = Path(__file__).resolve().parents[2] / "docs" / "benchmarks.json"
_PACKAGES = (
    "tensorflow", "keras", "numpy", "torch", "pytorch-metric-learning", "faiss-cpu", "onnxruntime",
)  # fmt: skip
# settings that hold a program to the instructions of older processors
_LIMITS = {
    "XLA_FLAGS": r"--xla_cpu_max_isa=(\w+)",
    "ONEDNN_MAX_CPU_ISA": r"(\w+)",
    "OPENBLAS_CORETYPE": r"(Haswell|Zen|Sandybridge)",
    "NPY_DISABLE_CPU_FEATURES": r"(AVX512)",
}
_HELD_TO = {"HASWELL": "AVX2", "ZEN": "AVX2", "SANDYBRIDGE": "AVX", "AVX512": "AVX2"}


def add_record_option(parser: argparse.ArgumentParser) -> None:
    """Adds `--record` to the options of a benchmark."""
    parser.add_argument(
        "--record", action="store_true", help=f"write the figures to docs/{FILE.name}"
    )


def record(
    name: str,
    rows: Mapping[str, Mapping[str, Any]],
    *,
    sizes: str,
    threads: int,
    rounds: int,
    ratios: Sequence[str] = (),
    peers: Mapping[str, str] | None = None,
    file: Path = FILE,
) -> None:
    """Writes one table of figures, in place of an older one of this name and kind of processor.

    Args:
        name: of the table, by which docs/benchmarks.md has its place.
        rows: name of a row -> name of a column -> number, or a text where there is none. Every row
            has the same columns.
        sizes: what was measured, in words.
        threads: of each program.
        rounds: over which medians were taken.
        ratios: columns that are ratios to a peer, shown in bold.
        peers: name -> version of what was measured in another interpreter.
        file: where to. Defaults to docs/benchmarks.json.

    Raises:
        ValueError: rows of different columns, or `ratios` that are no columns.
    """
    columns = [list(row) for row in rows.values()]
    if not rows or any(of_row != columns[0] for of_row in columns):
        raise ValueError(f"Expected rows of the same columns. Received for {name}: {columns}")
    if unknown := sorted(set(ratios) - set(columns[0])):
        raise ValueError(f"Expected `ratios` among {columns[0]}. Received: {unknown}")
    table = {
        "name": name,
        "processor": processor_kind(),
        "command": " ".join([*_settings(), shlex.join(["python", _script(), *_arguments()])]),
        "sizes": sizes,
        "threads": threads,
        "rounds": rounds,
        "load": round(os.getloadavg()[0], 1),
        "date": datetime.date.today().isoformat(),
        "versions": _versions() | dict(peers or {}),
        "ratios": list(ratios),
        "rows": [{"name": row, **dict(values)} for row, values in rows.items()],
    }
    write_tables(replaced(read_tables(file), table), file)


def read_tables(file: Path = FILE) -> list[dict[str, Any]]:
    """The tables of the file, none where there is no file yet."""
    return json.loads(file.read_text(encoding="utf-8"))["tables"] if file.exists() else []


def write_tables(tables: Sequence[Mapping[str, Any]], file: Path = FILE) -> None:
    """Writes the file whole, a row of a table a line."""
    # peers run these scripts where there is no keras_ms
    from keras_ms.files import whole_file

    text = json.dumps({"tables": list(tables)}, indent=1, ensure_ascii=False)
    # what holds no other objects on one line, so that a change of a figure is one line
    text = re.sub(
        r"\{[^{}]*\}|\[[^][{}]*\]", lambda found: re.sub(r"\s*\n\s*", " ", found[0]), text
    )
    with whole_file(file) as temporary:
        temporary.write_text(text + "\n", encoding="utf-8")


def replaced(
    tables: Sequence[Mapping[str, Any]], table: Mapping[str, Any]
) -> list[Mapping[str, Any]]:
    """Tables with one in the place of that of its name and processor, or behind its name's last."""

    def key(one):
        return one["name"], one["processor"]

    if key(table) in map(key, tables):
        return [table if key(one) == key(table) else one for one in tables]
    places = [place for place, one in enumerate(tables) if one["name"] == table["name"]]
    place = places[-1] + 1 if places else len(tables)
    return [*tables[:place], table, *tables[place:]]


def processor_kind(flags: str | None = None, environment: Mapping[str, str] = os.environ) -> str:
    """What this processor's vector instructions are, and to which of them a program is held.

    Args:
        flags: names of its instructions. Defaults to None: what Linux says.
        environment: variables that may hold programs to fewer.

    Returns:
        Text such as "AVX-512 and AMX", or "AVX-512 and AMX, held to AVX2".
    """
    if flags is None:
        flags = _flags()
    words = set(flags.lower().split())
    kind = next(
        (
            kind
            for kind, needed in (
                ("AVX-512 and AMX", {"avx512f", "amx_tile"}),
                ("AVX-512", {"avx512f"}),
                ("AVX2", {"avx2"}),
            )
            if needed <= words
        ),
        platform.machine(),
    )
    limits = set()
    for name, pattern in _LIMITS.items():
        found = re.search(pattern, environment.get(name, ""), re.IGNORECASE)
        if found:
            limits.add(_HELD_TO.get(found[1].upper(), found[1].upper()))
    return f"{kind}, held to {' and '.join(sorted(limits))}" if limits else kind


def _flags():
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return ""
    return next((line.partition(":")[2] for line in lines if line.startswith("flags")), "")


def _settings():
    return [
        f"{name}={shlex.quote(os.environ[name])}"
        for name, pattern in _LIMITS.items()
        if re.search(pattern, os.environ.get(name, ""), re.IGNORECASE)
    ]


def _script():
    path = Path(sys.argv[0]).resolve()
    project = FILE.parents[1]
    return str(path.relative_to(project) if path.is_relative_to(project) else path.name)


def _arguments():
    """Those of the command, without what is this machine's own."""
    arguments = [word for word in sys.argv[1:] if word != "--record"]
    return [
        "PYTHON" if before.endswith("-python") else os.path.basename(word.rstrip("/")) or word
        for before, word in zip(["", *arguments], arguments)
    ]


def _versions():
    found = {}
    for package in _PACKAGES:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found
