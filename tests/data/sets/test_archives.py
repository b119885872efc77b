"""Every attack on the extraction of archives is refused, and nothing is left behind."""

import gzip
import hashlib
import io
import shutil
import struct
import tarfile
import tracemalloc
import zipfile

import numpy as np
import pytest

from keras_ms.data.sets.archives import extract_archive

FILES = {"birds/a/1.jpg": b"one" * 1000, "birds/b/2.jpg": b"two", "attributes.txt": b"x"}


def tar_bytes(files=FILES, *extra, **options):
    """A tar archive of the files, then the members (TarInfo, content) of `extra`."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", **options) as tar:
        for name, content in files.items():
            tar.addfile(member(name, len(content)), io.BytesIO(content))
        for info, content in extra:
            tar.addfile(info, io.BytesIO(content))
    return buffer.getvalue()


def member(name, size=0, kind=tarfile.REGTYPE, target=""):
    info = tarfile.TarInfo(name)
    info.size, info.type, info.linkname = size, kind, target
    return info


def zip_bytes(files=FILES, *extra, compression=zipfile.ZIP_DEFLATED):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", compression) as opened:
        for name, content in files.items():
            opened.writestr(name, content)
        for info, content in extra:
            opened.writestr(info, content)
    return buffer.getvalue()


def zip_member(name, mode):
    info = zipfile.ZipInfo(name)
    info.create_system, info.external_attr = 3, mode << 16
    return info


def pack(folder, name, content):
    path = folder / name
    path.write_bytes(gzip.compress(content) if name.endswith("gz") else content)
    return path


def tree(folder):
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


@pytest.mark.parametrize("name", ["x.tgz", "x.tar.gz", "x.tar", "x.zip", "X.ZIP"])
def test_all_or_one_folder_of_an_archive(tmp_path, name):
    archive = pack(tmp_path, name, zip_bytes() if "zip" in name.lower() else tar_bytes())
    told = []
    count = extract_archive(archive, tmp_path / "all", progress=lambda *done: told.append(done))
    total = 3 if "zip" in name.lower() else None
    assert count == 3 and told == [(number, total) for number in (1, 2, 3)]
    for path, content in FILES.items():
        assert (tmp_path / "all" / path).read_bytes() == content
    assert extract_archive(archive, tmp_path / "birds", prefix="birds") == 2
    assert tree(tmp_path / "birds") == ["a", "a/1.jpg", "b", "b/2.jpg"]


def test_what_is_there_is_kept(tmp_path):
    archive = pack(tmp_path, "x.tgz", tar_bytes())
    out = tmp_path / "out"
    out.mkdir()
    assert extract_archive(archive, out, prefix="birds/b") == 1
    with pytest.raises(FileExistsError, match="out exists already and is not empty. Remove it"):
        extract_archive(archive, out)
    assert tree(tmp_path) == ["out", "out/2.jpg", "x.tgz"]


def test_a_folder_that_another_process_makes_meanwhile_is_kept(tmp_path):
    def make(*done):
        (tmp_path / "out").mkdir(exist_ok=True)
        (tmp_path / "out" / "theirs").touch()

    extract_archive(pack(tmp_path, "x.tgz", tar_bytes()), tmp_path / "out", progress=make)
    assert tree(tmp_path) == ["out", "out/theirs", "x.tgz"]


def test_damage_to_any_header_of_a_tar_shows(tmp_path):
    content = tar_bytes({f"{number}.jpg": b"x" * 300 for number in range(10)})
    end = 10 * 1024  # each file is a header and a block; the end mark follows
    damaged = {f"cut at {size}": content[:size] for size in range(0, end + 512, 100)}
    for position in range(0, end, 100):
        # headers only: a tar has no check sum of its files
        if position % 1024 < 512:
            flipped = bytearray(content)
            flipped[position] ^= 1
            damaged[f"flipped at {position}"] = bytes(flipped)
    assert len(damaged) > 150
    for name, archive in damaged.items():
        archive = pack(tmp_path, f"{name}.tar", archive)
        with pytest.raises(ValueError, match="cut off or damaged"):
            extract_archive(archive, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_headers_of_a_tar_do_not_fill_the_memory(tmp_path):
    def comment(number):
        header = tarfile.TarInfo("pax")
        text = b"x" * 200_000
        record = b"200011 c%03d=" % number + text[: 200_011 - 12] + b"\n"
        header.type, header.size = tarfile.XGLTYPE, len(record)
        return header.tobuf() + record.ljust(-(-len(record) // 512) * 512, b"\0")

    ends = bytes(1024)
    parts = [comment(number) + tar_bytes({str(number): b""})[:512] for number in range(100)]
    archive = pack(tmp_path, "x.tar", b"".join(parts) + ends)
    tracemalloc.start()
    assert extract_archive(archive, tmp_path / "out") == 100
    assert tracemalloc.get_traced_memory()[1] < 8e6  # of 20 MB
    tracemalloc.stop()
    # nor do many before one file
    archive = pack(tmp_path, "y.tar", comment(0) + comment(1) + tar_bytes())
    with pytest.raises(ValueError, match="headers of more than 262,144 bytes"):
        extract_archive(archive, tmp_path / "more")


def test_check_sums(tmp_path):
    archive = pack(tmp_path, "x.zip", zip_bytes())
    content = archive.read_bytes()
    right = {
        "sha256": hashlib.sha256(content).hexdigest().upper(),
        "md5": hashlib.md5(content).hexdigest(),
    }
    assert extract_archive(archive, tmp_path / "out", **right) == 3


def refused_archives():
    """Name -> (file name, content, part of the message, further options)."""
    gz = gzip.compress(tar_bytes())
    flipped = bytearray(gz)
    flipped[-6] ^= 1  # in the check sum of the compression
    crc = bytearray(zip_bytes(compression=zipfile.ZIP_STORED))
    crc[crc.index(b"oneone")] ^= 1
    lying = bytearray(zip_bytes({"a": b"\0" * 100_000}))
    # the size the directory at the end declares: 100,000 becomes 10
    where = lying.rindex(struct.pack("<I", 100_000))
    lying[where : where + 4] = struct.pack("<I", 10)
    encrypted = bytearray(zip_bytes({"a": b"a"}))
    encrypted[encrypted.index(b"PK\1\2") + 8] |= 1
    link = (member("birds/c", kind=tarfile.SYMTYPE, target="/etc/passwd"), b"")
    hard = (member("birds/c", kind=tarfile.LNKTYPE, target="birds/a/1.jpg"), b"")
    long_name = tarfile.TarInfo("long")
    long_name.type, long_name.size = tarfile.GNUTYPE_LONGNAME, 4
    chain = (long_name.tobuf(tarfile.GNU_FORMAT) + b"name".ljust(512, b"\0")) * 2000
    header = tarfile.TarInfo("pax")
    header.type, header.size = tarfile.XHDTYPE, 10**12
    many = {str(number): b"" for number in range(50)}
    damaged, out, bomb = "cut off or damaged", "leads out of the folder", "more than 100,000 bytes"
    cases = {
        "no archive": ("x.tgz", b"hello" * 1000, damaged, {}),
        "empty": ("x.tar", b"", damaged, {}),
        "no zip": ("x.zip", b"hello", damaged, {}),
        "cut in the compression": ("y.tgz", gz[: len(gz) // 2], damaged, {}),
        "cut in the last bytes": ("y.tgz", gz[:-4], damaged, {}),
        "compression's check sum": ("y.tgz", bytes(flipped), damaged, {}),
        "cut in a file": ("x.tar", tar_bytes()[:2000], damaged, {}),
        "cut between files": ("x.tar", tar_bytes()[: 512 + 3072], damaged, {}),
        "cut zip": ("x.zip", zip_bytes()[:-30], damaged, {}),
        "zip's check sum": ("x.zip", bytes(crc), damaged, {}),
        "sha256": ("x.zip", zip_bytes(), "another check sum", {"sha256": "0" * 64}),
        "md5": ("x.tgz", tar_bytes(), "another check sum", {"md5": "0" * 32}),
        "symbolic link": ("x.tgz", tar_bytes(FILES, link), "is a link to '/etc/passwd'", {}),
        "hard link": ("x.tgz", tar_bytes(FILES, hard), "is a link", {}),
        "through a link": (
            "x.tgz",
            tar_bytes({}, link, (member("birds/c/evil", 1), b"x")),
            "is a link",
            {},
        ),
        "link in a zip": (
            "x.zip",
            zip_bytes(FILES, (zip_member("c", 0o120777), "/etc/passwd")),
            "is a link",
            {},
        ),
        "pipe in a zip": (
            "x.zip",
            zip_bytes(FILES, (zip_member("c", 0o010644), "")),
            "no plain file",
            {},
        ),
        "encrypted": ("x.zip", bytes(encrypted), "encrypted", {}),
        "unusual compression": (
            "x.zip",
            zip_bytes(compression=zipfile.ZIP_LZMA),
            "unusual method",
            {},
        ),
        "a name in no alphabet": (
            "x.zip",
            zip_bytes({"ü": b"x"}).replace("ü".encode(), b"\xc3\xc3"),
            damaged,
            {},
        ),
        "a member before the file": ("x.zip", zip_bytes()[60:], damaged, {}),
        "twice": (
            "x.tar",
            tar_bytes(FILES, (member("birds/b/2.jpg", 1), b"x")),
            "occurs twice",
            {},
        ),
        "file and folder": (
            "x.tar",
            tar_bytes(FILES, (member("birds/b/2.jpg/c", 1), b"x")),
            "both a file",
            {},
        ),
        "bomb in a tgz": ("x.tgz", tar_bytes({"a": b"\0" * 100_001}), bomb, {}),
        "bomb of many": ("x.tgz", tar_bytes({"a": b"\0" * 60_000, "b": b"\0" * 60_000}), bomb, {}),
        "bomb in a zip": ("x.zip", zip_bytes({"a": b"\0" * 100_001}), bomb, {}),
        "bomb beside the prefix": (
            "x.zip",
            zip_bytes({**FILES, "a": b"\0" * 100_001}),
            bomb,
            {"prefix": "birds"},
        ),
        "bomb after the end": ("x.tgz", tar_bytes() + b"\0" * 200_000, "end mark", {}),
        "a zip that lies about its size": ("x.zip", bytes(lying), damaged, {}),
        "many members": ("x.zip", zip_bytes(many), "more than 49 members", {"max_members": 49}),
        "many members in a tgz": ("x.tgz", tar_bytes(many), "49 members", {"max_members": 49}),
        "huge header": ("x.tgz", header.tobuf() + b"\0" * 10_240, "header", {}),
        "endless headers": ("x.tgz", chain, "headers of more than", {}),
        "no such prefix": ("x.tgz", tar_bytes(), "no files below 'fish'", {"prefix": "fish"}),
        "another kind": ("x.rar", b"", "Expected an archive ending in", {}),
    }
    for kind, label in (
        (tarfile.FIFOTYPE, "pipe"),
        (tarfile.CHRTYPE, "device"),
        (tarfile.BLKTYPE, "block device"),
    ):
        extra = (member("birds/c", kind=kind), b"")
        cases[label] = ("x.tgz", tar_bytes(FILES, extra), "no plain file", {})
    for name in ("../evil", "birds/../../evil", "/tmp/evil", "..\\evil", "C:/evil", "C:evil", ".."):
        files = {**FILES, name: b"evil"}
        cases[f"tar with {name}"] = ("x.tgz", tar_bytes(files), out, {})
        cases[f"zip with {name}"] = ("x.zip", zip_bytes(files), out, {})
        cases[f"{name} beside the prefix"] = ("x.tgz", tar_bytes(files), out, {"prefix": "birds"})
    return cases


CASES = refused_archives()


def test_random_damage_is_refused_or_harmless(tmp_path):
    rng = np.random.default_rng(0)
    sources = {
        "x.tar": tar_bytes(),
        "y.tar": tar_bytes({"long" * 60: b"x" * 600}, format=tarfile.PAX_FORMAT),
        "x.tgz": gzip.compress(tar_bytes()),
        "x.zip": zip_bytes(),
    }
    refused = 0
    for trial in range(300):
        name = list(sources)[trial % 4]
        content = bytearray(sources[name])
        for position in rng.integers(-len(content), 0, 2):
            # half of the damage near the end, where a zip has its directory
            content[position if trial % 8 < 4 else max(position, -300)] = rng.integers(256)
        (tmp_path / name).write_bytes(content)
        try:
            extract_archive(tmp_path / name, tmp_path / "out", max_bytes=100_000)
            assert all(path.is_file() or path.is_dir() for path in (tmp_path / "out").rglob("*"))
            shutil.rmtree(tmp_path / "out")
        except ValueError as error:
            refused += 1
            assert name in str(error)
        (tmp_path / name).unlink()
        assert tree(tmp_path) == []
    assert 100 < refused < 300


@pytest.mark.parametrize("case", CASES)
def test_refused_with_nothing_left_behind(tmp_path, case):
    name, content, message, options = CASES[case]
    inside = tmp_path / "inside"
    inside.mkdir()
    archive = inside / name
    compress = name == "x.tgz" and case != "no archive"
    archive.write_bytes(gzip.compress(content) if compress else content)
    with pytest.raises(ValueError, match=message) as refused:
        extract_archive(archive, inside / "out", **{"max_bytes": 100_000, **options})
    assert name in str(refused.value)
    assert tree(tmp_path) == ["inside", f"inside/{name}"]


def test_a_missing_archive(tmp_path):
    with pytest.raises(FileNotFoundError, match="no file .*x.tgz"):
        extract_archive(tmp_path / "x.tgz", tmp_path / "out")
    assert tree(tmp_path) == []
