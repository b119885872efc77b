"""The page of a search: pictures once each, up to a limit, names that are shown and do no harm."""

import json
import os
import re
import subprocess
import sys

import numpy as np
from PIL import Image

from keras_ms.report.search_page import write_search_page


def written(tmp_path, results, **options):
    path = tmp_path / "page.html"
    size = write_search_page(results, path, what="some queries", **options)
    assert size == path.stat().st_size
    return path.read_text(encoding="utf-8")


def photos(folder, count):
    paths = [folder / f"photo {number}.png" for number in range(count)]
    for number, path in enumerate(paths):
        pixels = np.full((30, 20 + number, 3), 20 * number, np.uint8)
        Image.fromarray(pixels).save(path)
    return [str(path) for path in paths]


def test_each_picture_is_in_the_page_once(tmp_path):
    paths = photos(tmp_path, 3)
    results = [(paths[0], [(path, 0.5) for path in paths]), ("row 1", [(paths[2], 0.25)])]
    page = written(tmp_path, results, facts={"Model": "birds.onnx"})
    assert page.count("data:image/jpeg") == 3
    assert len(re.findall(r'class="pic p\d"', page)) == 5
    assert "pictures are in the page" not in page and "1.000 is the most" in page
    assert "birds.onnx" in page and "0.250" in page
    assert "http" not in page.replace("http-equiv", "")


def test_a_page_has_a_limit_and_says_so(tmp_path):
    paths = photos(tmp_path, 4)
    broken, gone = str(tmp_path / "broken.jpg"), "tar://a.jpg::birds.tar"
    (tmp_path / "broken.jpg").write_bytes(b"none")
    results = [("row 0", [(path, 0.5) for path in [broken, gone, *paths]])]
    page = written(tmp_path, results, max_pictures=3)
    assert page.count("data:image/jpeg") == 3 and page.count("not in the page") == 3
    assert "3 of 6 pictures are in the page; 1 more would have made it too large; 2 are not" in page


def test_names_are_text(tmp_path):
    name = "<script>alert(1)</script>\udce9.jpg"
    page = written(tmp_path, [(name, [(name, 1.0)])])
    assert "<script" not in page and "&lt;script&gt;" in page and "\\xe9" in page
    page = written(tmp_path, [])
    assert "Nothing was found" in page and "1.000 is the most" not in page


def test_names_that_are_not_ascii_are_found_in_every_locale(tmp_path):
    """Under LC_ALL=C the text of an index is not what the system calls the file by."""
    path = tmp_path / "é 鸟.png"
    Image.new("RGB", (20, 20)).save(path)
    code = """
import json, sys
from keras_ms.report.search_page import write_search_page
name, page = json.load(sys.stdin)
write_search_page([(name, [(name, 1.0)])], page, what="a query")
"""
    done = subprocess.run(
        [sys.executable, "-c", code],
        input=json.dumps([str(path), str(tmp_path / "page.html")]),
        env={**os.environ, "LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"},
        capture_output=True, text=True, timeout=600,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    page = (tmp_path / "page.html").read_text(encoding="utf-8")
    assert page.count("data:image/jpeg") == 1 and "not in the page" not in page
