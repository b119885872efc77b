"""The folder of a run belongs to one process from its first moment on."""

import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from keras_ms.run import session
from keras_ms.run.folder import RunFolder
from keras_ms.run.settings import Settings


def test_of_those_that_begin_together_one_has_the_folder(tmp_path):
    for number in range(50):
        barrier, results = threading.Barrier(4, timeout=60), []

        def begin(seed, number=number, barrier=barrier, results=results):
            run = RunFolder(tmp_path / f"runs {number}" / "run")
            barrier.wait()
            try:
                with run.claim():
                    run.create(Settings.from_values(seed=seed))
                    results.append(seed)
                    barrier.wait()
            except (FileExistsError, BlockingIOError) as error:
                assert str(run.path) in str(error) and "--run-name" in str(error)
                results.append(None)
                barrier.wait()

        with ThreadPoolExecutor(4) as pool:
            list(pool.map(begin, range(4)))
        winners = [seed for seed in results if seed is not None]
        assert len(results) == 4 and len(winners) == 1
        run = RunFolder(tmp_path / f"runs {number}" / "run")
        assert run.read_settings().training.seed == winners[0]


_TWO_PROCESSES = """
import multiprocessing, sys
given, sys.argv[0] = sys.argv[1], "keras-ms"  # in a command keras_ms is imported without Keras
from keras_ms.run.folder import RunFolder
from keras_ms.run.settings import Settings

def begin(folder, seed, barrier, results):
    run = RunFolder(folder)
    barrier.wait()
    try:
        with run.claim():
            run.create(Settings.from_values(seed=seed))
            results.put(seed)
            barrier.wait()
    except (FileExistsError, BlockingIOError):
        results.put(None)
        barrier.wait()

system = multiprocessing.get_context("fork")
for number in range(20):
    barrier, results = system.Barrier(2), system.Queue()
    folder = given + f"/{number}"
    both = [system.Process(target=begin, args=(folder, s, barrier, results)) for s in (1, 2)]
    [process.start() for process in both]
    found = sorted((results.get() for _ in both), key=bool)
    [process.join() for process in both]
    assert found[0] is None and found[1] == RunFolder(folder).read_settings().training.seed, found
print("one each time")
"""


@pytest.mark.slow
def test_two_processes_that_begin_together(tmp_path):
    done = subprocess.run(
        [sys.executable, "-c", _TWO_PROCESSES, str(tmp_path)],
        capture_output=True, text=True, timeout=1800,
    )  # fmt: skip
    assert done.stdout == "one each time\n", done.stderr


def test_a_folder_that_no_run_began_in_is_removed_unless_it_was_there(tmp_path):
    run = RunFolder(tmp_path / "run")
    with pytest.raises(ValueError), run.claim():
        assert run.path.is_dir()
        raise ValueError
    assert not run.path.exists()
    run.path.mkdir()
    (run.path / "notes.txt").write_text("mine")
    with run.claim(), pytest.raises(BlockingIOError, match="another process"):
        with run.claim():
            pass
    assert (run.path / "notes.txt").is_file()


def test_a_lock_that_was_removed_meanwhile_locks_nothing(tmp_path, monkeypatch):
    run = RunFolder(tmp_path)
    flock = RunFolder.lock.__wrapped__.__globals__["fcntl"].flock

    def removed(file, kind):
        flock(file, kind)
        (tmp_path / ".lock").unlink()

    monkeypatch.setattr("keras_ms.run.folder.fcntl.flock", removed)
    with pytest.raises(BlockingIOError, match="another process"):
        with run.lock():
            pass


def test_runs_without_a_name_that_begin_in_one_second_have_names_of_their_own(
    tmp_path, monkeypatch
):
    monkeypatch.setattr(session, "_run_name", lambda settings: "birds")
    settings = Settings.from_values(runs_folder=str(tmp_path))
    with session.opened_run(settings) as (first, _), session.opened_run(settings) as (second, _):
        assert [first.path.name, second.path.name] == ["birds", "birds-2"]


@pytest.mark.parametrize("name", ["n" * 255, "ü" * 127])
def test_the_longest_names_are_taken_and_longer_ones_refused(tmp_path, name):
    with RunFolder(tmp_path / name).claim():
        RunFolder(tmp_path / name).create(Settings())
    with pytest.raises(OSError, match="Choose another --run-name"):
        with RunFolder(tmp_path / (name + "nn")).claim():
            pass


def test_a_name_with_a_zero_byte_is_refused_in_its_file(tmp_path):
    (tmp_path / "a.json").write_text('{"run_name": "a\\u0000b"}')
    with pytest.raises(ValueError, match="run_name. Expected no zero byte.*a.json"):
        Settings.read(tmp_path / "a.json")


def test_a_number_that_a_callback_adds_now_and_then_is_in_the_history(tmp_path):
    run = RunFolder(tmp_path)
    rows = [
        {"step": 2, "loss": 0.5},
        {"step": 4, "loss": 0.25, "drift": 3.0},
        {"step": 6, "loss": 0},
    ]
    run.write_history(rows)
    lines = run.history_file.read_text().splitlines()
    assert lines == ["step,loss,drift", "2,0.5,", "4,0.25,3.0", "6,0,"]
    read = run.read_history()
    assert [row["loss"] for row in read] == [0.5, 0.25, 0] and read[1]["drift"] == 3
    run.write_history([*read, {"step": 8, "loss": 0.125, "drift": 1.0}])
    assert run.history_file.read_text().splitlines()[-1].endswith("1.0")
