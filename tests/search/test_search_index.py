"""The index: exact against a literal search, replaced and removed by path, of one model."""

import subprocess
import sys
import tracemalloc
from pathlib import Path

import numpy as np
import pytest

lancedb = pytest.importorskip("lancedb", reason='needs pip install -e ".[search]"')

from keras_ms.search import Index, IndexedModel  # noqa: E402
from keras_ms.search.duplicates import duplicate_groups  # noqa: E402
from keras_ms.search.exact_search import NearestRows, nearest_rows  # noqa: E402

BIRDS = IndexedModel("birds.onnx", "0" * 32)
CARS = IndexedModel("cars.onnx", "1" * 32)


def literal_search(paths, rows, queries, k):
    """[(path, cosine), …] of each query: everything compared in float64 and sorted."""
    found = []
    for query in np.asarray(queries, np.float64):
        cosines = [
            round(float(query @ row / np.linalg.norm(query) / np.linalg.norm(row)), 9)
            for row in np.asarray(rows, np.float64)
        ]
        found.append(sorted(zip(paths, cosines), key=lambda pair: (-pair[1], pair[0]))[:k])
    return found


def literal_groups(paths, rows, threshold):
    rows = np.asarray(rows, np.float64)
    rows = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    linked = np.round(rows @ rows.T, 9) >= threshold
    groups, left = [], set(range(len(rows)))
    while left:
        group, new = set(), {left.pop()}
        while new:
            group |= new
            new = {int(b) for a in new for b in np.flatnonzero(linked[a])} - group
        left -= group
        if len(group) > 1:
            groups.append(tuple(sorted(paths[n] for n in group)))
    return sorted(groups, key=lambda group: (-len(group), group))


def unit_rows(count, dimension=16, seed=0):
    rows = np.random.default_rng(seed).standard_normal((count, dimension)).astype(np.float32)
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def names(count):
    # in no order that has to do with the rows
    order = np.random.default_rng(5).permutation(count)
    return [f"photos/{number:04d} it's.jpg" for number in order]


def as_pairs(found):
    return [list(zip(paths, values)) for paths, values in zip(found.paths, found.similarities)]


def assert_same(found, expected):
    for pairs, wanted in zip(as_pairs(found), expected, strict=True):
        assert [path for path, _ in pairs] == [path for path, _ in wanted]
        np.testing.assert_allclose([v for _, v in pairs], [v for _, v in wanted], atol=2e-7)


@pytest.fixture
def index(tmp_path):
    index = Index.create(tmp_path / "birds.index", model=BIRDS, dimension=16)
    index.add(names(60), unit_rows(60), model=BIRDS)
    return index


def test_the_nearest_are_those_of_a_literal_search(index, monkeypatch):
    monkeypatch.setattr("keras_ms.search.kept_rows._LARGE", 20)
    queries = unit_rows(7, seed=1)
    for k in (1, 5, 60):
        expected = literal_search(names(60), unit_rows(60), queries, k)
        assert_same(index.search(queries, k, model=BIRDS), expected)
    assert index.search(queries, 99, model=BIRDS).paths.shape == (7, 60)


@pytest.mark.parametrize("sizes", [(500,), (1, 2, 497), (37,) * 13 + (19,)])
def test_parts_of_any_size_give_the_same_answer_with_ties_too(sizes):
    # few values, so that most similarities are shared
    rows = np.random.default_rng(2).integers(-1, 2, (500, 3)).astype(np.float32)
    rows[~rows.any(axis=1)] = 1
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    paths, stops = names(500), np.cumsum(sizes)
    parts = [(paths[b - a : b], rows[b - a : b]) for a, b in zip(sizes, stops)]
    found = nearest_rows(parts, rows[:40], 7)
    expected = literal_search(paths, rows, rows[:40], 7)
    assert found[0].tolist() == [[path for path, _ in one] for one in expected]


def test_many_candidates_are_compared_in_halves(monkeypatch):
    monkeypatch.setattr("keras_ms.search.exact_search._CANDIDATES", 50)
    monkeypatch.setattr("keras_ms.search.exact_search._PRODUCTS", 300)
    monkeypatch.setattr("keras_ms.search.exact_search._PAIRS", 7)
    rows = np.ones((100, 4), np.float32) / 2
    nearest = NearestRows(rows[:9], 3)
    nearest.look_at(names(100), rows)
    paths, similarities = nearest.found()
    assert paths.tolist() == [sorted(names(100))[:3]] * 9
    assert (similarities == 1).all()


def test_a_path_that_is_added_again_is_replaced(index):
    paths, other = names(60), unit_rows(3, seed=3)
    done = index.add([paths[0], "new.jpg", paths[1]], other, model=BIRDS)
    assert done == (1, 2) and len(index) == 61
    found = index.search(other, 1, model=BIRDS)
    assert found.paths[:, 0].tolist() == [paths[0], "new.jpg", paths[1]]
    # of one that is given twice, the last counts
    assert index.add(["twice.jpg", "twice.jpg"], other[:2], model=BIRDS) == (1, 0)
    everything = {p: row for part in index.batches(7) for p, row in zip(*part, strict=True)}
    assert len(everything) == len(index) == 62
    np.testing.assert_allclose(everything["twice.jpg"], other[1], atol=1e-6)


def test_what_is_removed_is_not_found(index):
    paths, rows = names(60), unit_rows(60)
    assert index.remove([*paths[:20], paths[0], "never there.jpg"]) == 20
    assert index.remove([]) == 0
    expected = literal_search(paths[20:], rows[20:], rows[:5], 4)
    assert_same(index.search(rows[:5], 4, model=BIRDS), expected)
    index.compact()
    assert len(index) == 40


def test_lengths_and_types_of_embeddings_do_not_matter(index):
    queries = unit_rows(3, seed=1)
    expected = index.search(queries, 3, model=BIRDS)
    for scaled in (queries * 1e4, (queries * 1e-12).astype(np.float64), queries.tolist()):
        found = index.search(np.asarray(scaled), 3, model=BIRDS)
        assert (found.paths == expected.paths).all()


def test_an_empty_index_finds_nothing(tmp_path):
    index = Index.create(tmp_path / "new", model=BIRDS, dimension=4)
    assert len(index) == 0 and list(index.batches()) == []
    assert index.search(np.ones((2, 4)), 5, model=BIRDS).paths.shape == (2, 0)
    assert index.duplicates(0.5) == [] and index.add([], [], model=BIRDS) == (0, 0)


def test_another_model_is_refused_by_both_names(index, tmp_path):
    for call in (
        lambda: index.search(unit_rows(1), model=CARS),
        lambda: index.add(["a.jpg"], unit_rows(1), model=CARS),
        lambda: Index.create(index.place, model=CARS, dimension=16),
    ):
        with pytest.raises(ValueError, match=r"birds\.onnx.*cars\.onnx"):
            call()
    with pytest.raises(ValueError, match="16 numbers.*Received: 8"):
        index.search(unit_rows(1, 8), model=BIRDS)
    assert Index.create(index.place, model=BIRDS, dimension=16).model == index.model


@pytest.mark.parametrize(
    "embeddings, message",
    [
        (np.full((1, 16), np.nan), "finite"),
        (np.zeros((1, 16)), "all zeros"),
        (np.ones(16), "shape"),
        (np.ones((2, 16)), "1 paths, 2 embeddings"),
        (np.array([["a"] * 16]), "real numbers"),
    ],
)
def test_wrong_embeddings_are_refused_and_change_nothing(index, embeddings, message):
    with pytest.raises(ValueError, match=message):
        index.add(["a.jpg"], embeddings, model=BIRDS)
    with pytest.raises(ValueError, match="list of paths"):
        index.add("a.jpg", unit_rows(1), model=BIRDS)
    assert len(index) == 60


def test_what_is_no_index_is_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match="None is at .*gone"):
        Index(tmp_path / "gone")
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "a.jpg").write_bytes(b"")
    with pytest.raises(ValueError, match="holds 'a.jpg'"):
        Index.create(tmp_path / "photos", model=BIRDS, dimension=4)
    with pytest.raises(ValueError, match="Received a file"):
        Index.create(tmp_path / "photos" / "a.jpg", model=BIRDS, dimension=4)


def test_making_that_was_interrupted_is_made_again(tmp_path):
    (tmp_path / "birds" / "pictures.lance" / "data").mkdir(parents=True)
    (tmp_path / "birds" / "pictures.lance" / "data" / "part.lance").write_bytes(b"half")
    with pytest.raises(FileNotFoundError):
        Index(tmp_path / "birds")
    assert len(Index.create(tmp_path / "birds", model=BIRDS, dimension=4)) == 0


def test_damaged_files_are_an_error_that_names_the_index(index, tmp_path):
    for path in (tmp_path / "birds.index" / "pictures.lance" / "data").iterdir():
        path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(OSError, match=r"birds\.index cannot be read or written: .* make it again"):
        Index(index.place).search(unit_rows(1), model=BIRDS)
    for path in (tmp_path / "birds.index" / "pictures.lance" / "_versions").iterdir():
        path.write_bytes(b"")
    with pytest.raises(OSError, match=r"birds\.index cannot be read or written"):
        Index(index.place)


@pytest.mark.parametrize("size, band", [(1, 128), (7, 3), (100, 128), (100, 16)])
def test_duplicates_are_those_of_all_pairs(size, band, monkeypatch):
    monkeypatch.setattr("keras_ms.search.duplicates._BAND", band)
    rows = unit_rows(60, seed=4)
    rows[10], rows[20:23], rows[50] = rows[3], rows[4], rows[3] + 0.02 * rows[5]
    paths = names(60)

    def scan():
        for start in range(0, 60, size):
            yield paths[start : start + size], rows[start : start + size]

    for threshold in (0.999, 0.55, 1.0):
        groups = duplicate_groups(scan, threshold)
        assert [group.paths for group in groups] == literal_groups(paths, rows, threshold)
    similarity = dict(pair for group in duplicate_groups(scan, 0.99) for pair in zip(*group))
    assert min(similarity.values()) >= 0.99 and similarity[paths[10]] == 1
    assert set(similarity) == {paths[n] for n in (3, 10, 50, 4, 20, 21, 22)}


def test_duplicates_of_an_index(index, monkeypatch):
    monkeypatch.setattr("keras_ms.search.index.BATCH", 7)
    for threshold in (0.4, 0.6):
        groups = index.duplicates(threshold)
        assert [g.paths for g in groups] == literal_groups(names(60), unit_rows(60), threshold)
    index.add(["copy.jpg"], unit_rows(60)[7:8], model=BIRDS)
    assert [g.paths for g in index.duplicates(0.99999)] == [("copy.jpg", names(60)[7])]
    with pytest.raises(ValueError, match="threshold"):
        index.duplicates(0)


def test_approximate_search_finds_what_lies_near(tmp_path):
    centres = unit_rows(20, seed=6)
    rows = np.repeat(centres, 30, axis=0) + 0.02 * unit_rows(600, seed=7)
    index = Index.create(tmp_path / "near", model=BIRDS, dimension=16)
    index.add(names(300), rows[::2], model=BIRDS)
    with pytest.raises(ValueError, match="make_approximate"):
        index.search(centres, model=BIRDS, approximate=True)
    index.make_approximate()
    # later ones are found too
    index.add([f"later {n}.jpg" for n in range(300)], rows[1::2], model=BIRDS)
    index.remove(names(300)[:5])
    exact = index.search(centres, 10, model=BIRDS)
    found = index.search(centres, 10, model=BIRDS, approximate=True, probes=10)
    assert np.mean(found.similarities >= exact.similarities[:, -1:]) > 0.9
    quality = index.evaluate_approximate(10, probes=24, num_queries=30)
    assert quality.recall == 1 and quality.num_queries == 30
    assert not set(names(300)[:5]) & set(found.paths.ravel())
    # the nearest parts hold fewer than are asked for: further ones have the rest
    many = index.search(centres, 400, model=BIRDS, approximate=True, probes=1)
    assert many.paths.shape == (20, 400) and (many.paths != "").all()
    assert all(len(set(row)) == 400 for row in many.paths)
    with pytest.raises(ValueError, match="`probes`.*Received: 0"):
        index.search(centres, model=BIRDS, approximate=True, probes=0)
    with pytest.raises(ValueError, match="`probes`.*Received: 0"):
        index.evaluate_approximate(probes=0)


def test_a_folder_full_of_the_same_picture_is_one_group():
    rows = np.repeat(unit_rows(2), [1500, 500], axis=0)
    paths = names(2000)
    tracemalloc.start()
    groups = duplicate_groups(lambda: iter([(paths, rows)]), 0.99)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert [len(group.paths) for group in groups] == [1500, 500]
    # not with the 1.1 million pairs, of which each would take 24 bytes at least three times
    assert peak < 60e6


def test_more_neighbours_than_pictures_take_no_room(index):
    tracemalloc.start()
    found = index.search(unit_rows(20), 10**7, model=BIRDS)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert found.paths.shape == (20, 60) and peak < 50e6


def test_an_index_at_a_url_is_found_beside_other_tables(tmp_path):
    place = f"file://{tmp_path}/tables"
    database = lancedb.connect(place)
    for number in range(12):
        database.create_table(f"a{number}", data=[{"x": number}])
    with pytest.raises(FileNotFoundError, match="None is at"):
        Index(place)
    Index.create(place, model=BIRDS, dimension=16).add(["a.jpg"], unit_rows(1), model=BIRDS)
    assert len(Index(place)) == 1 and len(Index.create(place, model=BIRDS, dimension=16)) == 1


def test_stray_files_beside_an_index_are_in_no_ones_way(index, tmp_path):
    (Path(index.place) / ".DS_Store").write_text("")
    (Path(index.place) / "notes.txt").write_text("")
    assert len(Index.create(index.place, model=BIRDS, dimension=16)) == 60
    (tmp_path / "new").mkdir()
    (tmp_path / "new" / ".DS_Store").write_text("")
    assert len(Index.create(tmp_path / "new", model=BIRDS, dimension=16)) == 0


@pytest.mark.slow
def test_another_process_sees_what_was_added_and_its_additions_are_seen(index):
    code = (
        "import sys, numpy as np\n"
        "from keras_ms.search import Index, IndexedModel\n"
        "index = Index(sys.argv[1])\n"
        "print(len(index))\n"
        "index.add(['theirs.jpg'], np.ones((1, 16)), model=index.model)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, index.place], capture_output=True, text=True, timeout=600
    )
    assert done.stdout.split() == ["60"], done.stderr
    assert index.search(np.ones((1, 16)), 1, model=BIRDS).paths[0, 0] == "theirs.jpg"


@pytest.mark.slow
def test_two_processes_that_write_at_once_leave_each_path_once(index):
    code = (
        "import sys, numpy as np\n"
        "from keras_ms.search import Index\n"
        "index, own = Index(sys.argv[1]), float(sys.argv[2])\n"
        "print('ready', flush=True)\n"
        "input()\n"
        "rows = np.eye(16)[[int(own)] * 50]\n"
        "for step in range(40):\n"
        "    paths = [f'{number}.jpg' for number in range(step * 10, step * 10 + 50)]\n"
        "    index.add(paths, rows, model=index.model)\n"
        "    index.remove([f'{sys.argv[2]} gone.jpg'])\n"
        "print('done')\n"
    )
    writers = [
        subprocess.Popen(
            [sys.executable, "-c", code, index.place, str(own)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for own in (0, 1)
    ]
    for writer in writers:
        assert writer.stdout.readline() == "ready\n"
    for writer in writers:
        writer.stdin.write("\n")
        writer.stdin.flush()
    assert [writer.communicate(timeout=1200)[0] for writer in writers] == ["done\n"] * 2
    found = [pair for paths, rows in index.batches() for pair in zip(paths, rows)]
    theirs = {path: row for path, row in found if not path.startswith("photos/")}
    assert len(found) == len(index) == 60 + 440
    assert set(theirs) == {f"{number}.jpg" for number in range(440)}
    # whole batches: the row is that of one writer or of the other
    assert all(np.isin(row, (0, 1)).all() and row[:2].sum() == 1 for row in theirs.values())
