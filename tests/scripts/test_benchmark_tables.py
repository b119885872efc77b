"""The tables of the docs are what docs/benchmarks.json says, of each kind of processor."""

import importlib.util
import json
import sys
from pathlib import Path

import pytest

SCRIPTS = Path(__file__).resolve().parents[2] / "scripts"


def loaded(path):
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


draw_benchmarks = loaded(SCRIPTS / "draw_benchmarks.py")
record = loaded(SCRIPTS / "benchmarks" / "record.py")


def test_the_pages_are_what_the_file_says():
    tables = record.read_tables()
    places = []
    for page in draw_benchmarks.PAGES:
        text = page.read_text(encoding="utf-8")
        assert draw_benchmarks.page_of(text, tables) == text, (
            f"{page.name} is not what docs/benchmarks.json says: python scripts/draw_benchmarks.py"
        )
        places += draw_benchmarks.names_of(text)
    assert sorted(places) == sorted({table["name"] for table in tables})


def recorded(file, processor, monkeypatch, **changes):
    monkeypatch.setattr(record, "processor_kind", lambda: processor)
    rows = {"ours": {"ms": 1.234, "times as fast": 2.0}, "peer": {"ms": 2468.0, "times as fast": 1}}
    options = {"sizes": "a batch", "threads": 1, "rounds": 3, "ratios": ["times as fast"]} | changes
    record.record("step", options.pop("rows", rows), file=file, **options)


def test_a_run_takes_the_place_of_one_of_its_kind_and_stands_beside_another(tmp_path, monkeypatch):
    file = tmp_path / "benchmarks.json"
    monkeypatch.setenv("ONEDNN_MAX_CPU_ISA", "AVX2")
    monkeypatch.setattr(
        sys, "argv", ["/x/step.py", "--peer-python", "/y/python", "--record", "/z/photos/"]
    )
    recorded(file, "AVX2", monkeypatch)
    recorded(file, "AVX-512", monkeypatch, threads=2)
    recorded(file, "AVX2", monkeypatch, rows={"ours": {"times as fast": "peer: died"}})
    tables = json.loads(file.read_text())["tables"]
    assert [(table["processor"], table["threads"]) for table in tables] == [
        ("AVX2", 1), ("AVX-512", 2),
    ]  # fmt: skip
    assert tables[0]["rows"] == [{"name": "ours", "times as fast": "peer: died"}]
    assert tables[1]["command"] == (
        "ONEDNN_MAX_CPU_ISA=AVX2 python step.py --peer-python PYTHON photos"
    )
    page = draw_benchmarks.page_of("A\n<!-- benchmark: step -->\nold\n<!-- end -->\nB\n", tables)
    assert page.startswith("A\n<!-- benchmark: step -->\nA batch; AVX2, 1 thread, 3 rounds, load ")
    assert "| ours | peer: died |\n" in page
    assert "| ours | 1.23 | **2.0** |\n| peer | 2,468 | 1 |\n<!-- end -->\nB\n" in page
    with pytest.raises(ValueError, match="one of.*step.*benchmark: other"):
        draw_benchmarks.page_of("<!-- benchmark: other -->\n<!-- end -->", tables)


def test_rows_that_make_no_table_are_refused(tmp_path, monkeypatch):
    file = tmp_path / "benchmarks.json"
    for changes, words in (
        ({"rows": {}}, "same columns"),
        ({"rows": {"a": {"ms": 1}, "b": {"s": 1}}}, "same columns"),
        ({"ratios": ["of bare"]}, "of bare"),
    ):
        with pytest.raises(ValueError, match=words):
            recorded(file, "AVX2", monkeypatch, **changes)
    assert not file.exists()


@pytest.mark.parametrize(
    "flags, environment, kind",
    [
        ("fma avx2 avx512f amx_tile", {}, "AVX-512 and AMX"),
        ("fma avx2 avx512f", {"XLA_FLAGS": "--other"}, "AVX-512"),
        ("fma avx2", {}, "AVX2"),
        (
            "avx2 avx512f amx_tile",
            {"XLA_FLAGS": "--xla_cpu_max_isa=AVX2", "OPENBLAS_CORETYPE": "Haswell"},
            "AVX-512 and AMX, held to AVX2",
        ),
        ("avx2 avx512f", {"ONEDNN_MAX_CPU_ISA": "avx2"}, "AVX-512, held to AVX2"),
    ],
)
def test_the_kind_of_processor_says_what_it_is_held_to(flags, environment, kind):
    assert record.processor_kind(flags, environment) == kind
