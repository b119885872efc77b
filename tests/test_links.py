"""Links to other sites are well formed, and so are those within the pages; nothing is fetched."""

import re
from pathlib import Path
from urllib.parse import urlsplit

import pytest

PROJECT = Path(__file__).resolve().parents[1]
PAGES = sorted(
    [*PROJECT.glob("*.md"), *(PROJECT / "docs").glob("*.md"), *(PROJECT / "examples").rglob("*.md")]
)
CODE = re.compile(r"^```.*?^```|`[^`\n]*`", re.DOTALL | re.MULTILINE)
# what names a paper is linked by; one of another name is to be added with its number
PAPERS = {
    "1711.05101": "Loshchilov and Hutter",
    "2003.10555": "ELECTRA",
    "2106.08254": "BEiT",
}


def prose(page):
    return CODE.sub("", page.read_text(encoding="utf-8"))


def links(text):
    """(words, target) of each Markdown link and picture."""
    return re.findall(r"\[([^\]]*)\]\(([^)\s]*)\)", text)


def addresses(text):
    return re.findall(r"https?://[^\s)>\"]+", text)


def fault(address):
    """What is wrong with the address of another site, "" if nothing is."""
    parts = urlsplit(address)
    if parts.scheme != "https":
        return "not https"
    if not re.fullmatch(r"([a-z0-9-]+\.)+[a-z]{2,}", parts.netloc):
        return "no host"
    if re.search(r"[^\w/.#%~?=&@:+-]|//|[.,;:]$", parts.path + parts.query + parts.fragment):
        return "odd characters"
    if parts.netloc == "arxiv.org":
        number = re.fullmatch(r"/abs/(\d\d)(\d\d)\.\d{4,5}", parts.path)
        if number is None or not 1 <= int(number[2]) <= 12:
            return "no number of a paper"
    return ""


def headings(page):
    """The places that GitHub gives the headings of a page."""
    text = re.sub(r"^```.*?^```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL | re.M)
    for heading in re.findall(r"^#+ (.+)$", text, re.MULTILINE):
        words = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading).strip().lower()
        yield re.sub(r"[^\w\- ]", "", words).replace(" ", "-")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(PROJECT).as_posix())
def test_addresses_are_well_formed(page):
    assert not [(each, fault(each)) for each in addresses(prose(page)) if fault(each)]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(PROJECT).as_posix())
def test_links_between_pages_lead_to_places_on_github_too(page):
    broken = []
    for _, target in links(prose(page)):
        if re.match("[a-z]+:", target):
            continue
        path, _, place = target.partition("#")
        file = (page.parent / path).resolve() if path else page
        if not file.exists() or place and place not in headings(file):
            broken.append(target)
    assert not broken


def test_papers_are_linked_by_their_names():
    found = {
        target.rpartition("/")[2]: words
        for page in PAGES
        for words, target in links(prose(page))
        if "arxiv.org" in target
    }
    assert found == PAPERS


@pytest.mark.parametrize(
    "address, expected",
    [
        ("https://arxiv.org/abs/2106.08254", ""),
        ("https://github.com/a/b/blob/v2.9.0/docs/losses.md#multisimilarityloss", ""),
        ("http://example.org/", "not https"),
        ("https://example/", "no host"),
        ("https://example.org/page.", "odd characters"),
        ("https://example.org/a//b", "odd characters"),
        ("https://arxiv.org/abs/2113.08254", "no number of a paper"),
        ("https://arxiv.org/pdf/2106.08254", "no number of a paper"),
    ],
)
def test_faults_are_found(address, expected):
    assert fault(address) == expected


def test_every_address_is_seen():
    assert sum(len(addresses(prose(page))) for page in PAGES) > 20
