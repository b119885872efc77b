"""The documentation site builds without a warning; every public name has its page."""

import os
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import pytest

import keras_ms
import keras_ms.export
import keras_ms.mining
import keras_ms.search
import keras_ms.weighting

PROJECT = Path(__file__).resolve().parents[1]
REFERENCE = (PROJECT / "docs" / "reference.md").read_text(encoding="utf-8")
# names that keras_ms has too stand in the reference once
ALSO_AT_THE_TOP = {"Preprocessing", "export_onnx", "export_saved_model"}


def names_of(module, source):
    """Names that the file of a module imports under their own name: those that it offers."""
    text = Path(source).read_text(encoding="utf-8")
    return {f"{module}.{name}" for name in re.findall(r"(\w+) as \1\b", text)}


def public_names():
    names = {f"keras_ms.{name}" for name in keras_ms.__all__}
    for module in (keras_ms.export, keras_ms.mining, keras_ms.search, keras_ms.weighting):
        names |= names_of(module.__name__, module.__file__)
    return names - {f"keras_ms.export.{name}" for name in ALSO_AT_THE_TOP}


def test_every_public_name_is_in_the_reference_once():
    listed = re.findall(r"^   (keras_ms\.[\w.]+)$", REFERENCE, re.MULTILINE)
    assert len(listed) == len(set(listed))
    assert set(listed) == public_names()


def test_import_keras_ms_is_enough_for_every_name_of_the_reference():
    code = (
        "import sys, keras_ms; from operator import attrgetter; "
        "[attrgetter(name.removeprefix('keras_ms.'))(keras_ms) for name in sys.argv[1:]]"
    )
    words = [sys.executable, "-c", code, *re.findall(r"^   (keras_ms\.[\w.]+)$", REFERENCE, re.M)]
    done = subprocess.run(words, cwd=PROJECT, capture_output=True, text=True, timeout=1800)
    assert done.returncode == 0, done.stderr


def test_every_page_is_reached_from_the_first():
    text = (PROJECT / "docs" / "index.md").read_text(encoding="utf-8")
    *_, text = text.partition("```{toctree}")
    listed = set(re.findall(r"^(\w+)$", text, re.MULTILINE))
    pages = {path.stem for path in (PROJECT / "docs").glob("*.md")} - {"index"}
    assert listed == pages


class Links(HTMLParser):
    """Of one page: where its links, pictures and scripts lead, and its places."""

    def __init__(self, page):
        super().__init__()
        self.targets, self.places = set(), set()
        self.feed(page.read_text(encoding="utf-8"))

    def handle_starttag(self, tag, attrs):
        given = dict(attrs)
        self.places.add(given.get("id"))
        self.targets |= {given[name] for name in ("href", "src") if given.get(name)}


@pytest.mark.slow
def test_the_site_builds_and_its_links_lead_to_places(tmp_path):
    for package in ("sphinx", "myst_parser", "furo", "sphinx_copybutton"):
        pytest.importorskip(package, reason='needs pip install -e ".[docs]"')
    site = tmp_path / "site"
    words = ["-W", "--keep-going", "-q", "-d", tmp_path / "trees", "-c", "docs", ".", site]
    built = subprocess.run(
        [sys.executable, "-m", "sphinx", *map(str, words)],
        cwd=PROJECT, env={**os.environ, "PYTHONPATH": str(PROJECT)}, capture_output=True, text=True,
    )  # fmt: skip
    assert built.returncode == 0, built.stderr

    for name in public_names():
        page = site / "docs" / "reference" / f"{name}.html"
        assert f'id="{name}"' in page.read_text(encoding="utf-8")
    # the search reads it from the disk, as a script: no server
    index = (site / "searchindex.js").read_text(encoding="utf-8")
    assert index.startswith("Search.setIndex(") and "docs/getting_started" in index

    links = {page.resolve(): Links(page) for page in site.rglob("*.html")}
    assert (site / "docs" / "index.html").resolve() in links
    broken = []
    for page, found in links.items():
        for target in found.targets:
            if re.match(r"[a-z]+:|//", target):
                continue
            path, _, place = target.partition("#")
            file = (page.parent / path.partition("?")[0]).resolve() if path else page
            if not file.exists() or place and file in links and place not in links[file].places:
                broken.append(f"{page.relative_to(site)}: {target}")
    assert not broken, "\n".join(broken)


def test_the_citation_has_the_version():
    text = (PROJECT / "CITATION.cff").read_text(encoding="utf-8")
    assert re.findall(r"^version: (.+)$", text, re.MULTILINE) == [keras_ms.__version__]
