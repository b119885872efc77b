"""What lies in a folder and below it: images, folders, and how many files of every other kind."""

import os
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field

from keras_ms.data.file_names import same_name, shown_name
from keras_ms.terminal.counted import counted
from keras_ms.terminal.progress import Progress

# what programs and systems put beside images
_SYSTEM = {
    "__MACOSX", "@eaDir", "$RECYCLE.BIN", "System Volume Information", "lost+found", "Thumbs.db",
    "desktop.ini",
}  # fmt: skip
# endings of pictures, whether they can be read or not
_PICTURES = set(
    ".jpg .jpeg .jpe .jfif .jif .png .apng .bmp .dib .gif .webp .tif .tiff .avif .heic .heif .hif "
    ".jp2 .j2k .jxl .svg .ico .psd .xcf .tga .pcx .ppm .pgm .pbm .pnm .exr .hdr .dcm .raw .cr2 "
    ".cr3 .nef .arw .dng .orf .rw2 .raf .pef .srw .3fr .nrw .rwl .iiq .mpo .jps .pjpeg .pjp .jfi "
    ".jpx .jls .jxr .wdp .avifs .heics .qoi .dds .sgi .xbm .eps .fits".split()
)
# what describes a picture and is called after it
_BESIDE_PICTURES = {
    ".txt", ".json", ".xml", ".xmp", ".yaml", ".yml", ".csv", ".npy", ".md5", ".url",
}  # fmt: skip
_IMAGE_ENDING = re.compile(r"\.(jpe?g|png|gif|bmp|webp|tiff?)")
# of files without an ending: how JPEG, PNG, GIF, BMP, TIFF and WebP begin
_BEGINNINGS = re.compile(rb"\xff\xd8\xff|\x89PNG|GIF8|BM....\0\0|II\*\0|MM\0\*|RIFF....WEBP", re.S)
_DEEPEST = 32

# reasons for passing over what may be images that someone wants, in the words of a log
DANGLING = "links that lead nowhere"
REPEATED = "links to folders that are listed already"
TOO_DEEP = "folders that are nested too deeply"
HIDDEN_IMAGES = "hidden images"
HIDDEN_IMAGE_FOLDERS = "hidden folders of images"
NAMELESS = "images without an ending"
LONGER = "files with more after an image's ending"
DEEPER = "images in subfolders of class folders"
BESIDE = "images beside the class folders"
UNREADABLE = "images that cannot be read"
TOO_FEW = "images of classes that are too small"
# and others
HIDDEN_FILES = "hidden files"
HIDDEN_FOLDERS = "hidden folders"
UNNAMED = "files without an ending"
OTHER_ENDINGS = "files of other endings"
SPECIAL = "pipes, sockets or devices"
# of a single one
_ONE = {
    DANGLING: "link that leads nowhere",
    REPEATED: "link to a folder that is listed already",
    TOO_DEEP: "folder that is nested too deeply",
    HIDDEN_IMAGES: "hidden image",
    HIDDEN_IMAGE_FOLDERS: "hidden folder of images",
    NAMELESS: "image without an ending",
    LONGER: "file with more after an image's ending",
    DEEPER: "image in subfolders of class folders",
    BESIDE: "image beside the class folders",
    UNREADABLE: "image that cannot be read",
    TOO_FEW: "image of a class that is too small",
    HIDDEN_FILES: "hidden file",
    HIDDEN_FOLDERS: "hidden folder",
    UNNAMED: "file without an ending",
    OTHER_ENDINGS: "file of another ending",
    SPECIAL: "pipe, socket or device",
}
_SAFE = {HIDDEN_FILES, HIDDEN_FOLDERS, UNNAMED, OTHER_ENDINGS, SPECIAL}
_FOLDERS = {REPEATED, TOO_DEEP, HIDDEN_IMAGE_FOLDERS, HIDDEN_FOLDERS}


@dataclass
class Folder:
    """A folder that was listed.

    Attributes:
        path: str, which opens it.
        images: names of the image files in it, sorted.
        folders: `Folder` of each subfolder, sorted.
        others: Counter of what lies in it besides, by reason.
        num_images: images in it and below.
        maybe_images: whether it or a folder below holds anything that looks like an image.
    """

    path: str
    images: list = field(default_factory=list)
    folders: list = field(default_factory=list)
    others: Counter = field(default_factory=Counter)
    num_images: int = 0
    maybe_images: bool = False

    @property
    def name(self) -> str:
        return os.path.basename(self.path)

    def files(self) -> list[str]:
        """Paths of the images in it."""
        prefix = "" if str(self.path) == os.curdir else self.path
        return [os.path.join(prefix, name).removeprefix(f".{os.sep}") for name in self.images]

    def below(self) -> Iterator["Folder"]:
        """It and all folders below it, each before those below it."""
        left = [self]
        while left:
            folder = left.pop()
            yield folder
            left += reversed(folder.folders)


def list_folder(
    path: str | os.PathLike,
    suffixes: tuple[str, ...],
    progress: Progress | None = None,
) -> Folder:
    """Lists a folder and everything below it; links are followed.

    A link to a folder above itself, or to one that its part of the tree holds already, is
    counted and not followed.

    Args:
        path: the folder.
        suffixes: endings of image files, lower case.
        progress: called with (images found so far, None) after each folder.

    Returns:
        `Folder`.

    Raises:
        OSError: a folder that cannot be listed; the message names it.
    """
    root = Folder(os.fspath(path))
    order, num_images = [], 0
    stat = os.stat(root.path)
    # (folder, its depth, the folders of its part of the tree)
    left = [(root, 0, {(stat.st_dev, stat.st_ino)})]
    while left:
        folder, depth, known = left.pop()
        order.append(folder)
        _list_one(folder, suffixes, depth, known)
        for inner in folder.folders:
            # each part of the root is on its own: links may repeat it in another
            part = known if depth else known | {_identity(inner.path)}
            left.append((inner, depth + 1, part))
        num_images += len(folder.images)
        if progress is not None:
            progress(num_images, None)
    for folder in reversed(order):
        folder.num_images = len(folder.images) + sum(f.num_images for f in folder.folders)
        folder.maybe_images = (
            bool(folder.images)
            or any(map(may_be_images, folder.others))
            or any(f.maybe_images for f in folder.folders)
        )
    return root


def _list_one(folder, suffixes, depth, known):
    names = []
    try:
        with os.scandir(folder.path) as entries:
            for entry in entries:
                if _leads_to(entry.is_dir):
                    _add_folder(folder, entry, suffixes, depth, known, names)
                elif _is_hidden(entry.name):
                    is_image = _suffix(entry.name) in suffixes and not entry.name.startswith("._")
                    folder.others[HIDDEN_IMAGES if is_image else HIDDEN_FILES] += 1
                elif not _leads_to(entry.is_file):
                    folder.others[DANGLING if entry.is_symlink() else SPECIAL] += 1
                elif _suffix(entry.name) in suffixes:
                    folder.images.append(entry.name)
                else:
                    folder.others[_kind(entry)] += 1
    except OSError as error:
        raise type(error)(
            error.errno,
            f"Cannot list the folder {shown_name(folder.path)!r} ({error.strerror}). Make it "
            "readable, or move it out of the data folder",
        ) from error
    folder.images.sort(key=os.fsencode)
    # sorted as they are shown, so that class ids are the same on every system
    names.sort(key=lambda name: (same_name(name), name))
    folder.folders = [Folder(os.path.join(folder.path, name)) for name in names]


def _add_folder(folder, entry, suffixes, depth, known, names):
    if _is_hidden(entry.name):
        has_images = _holds_images(entry, suffixes)
        folder.others[HIDDEN_IMAGE_FOLDERS if has_images else HIDDEN_FOLDERS] += 1
    elif depth >= _DEEPEST:
        folder.others[TOO_DEEP] += 1
    elif depth == 0 and not entry.is_symlink():
        names.append(entry.name)
    else:
        identity = _identity(entry.path)
        if identity in known:
            folder.others[REPEATED] += 1
        else:
            if depth:
                known.add(identity)
            names.append(entry.name)


def _leads_to(kind):
    try:
        return kind()
    except OSError:  # a link to itself
        return False


def _identity(path):
    stat = os.stat(path)
    return stat.st_dev, stat.st_ino


def _holds_images(entry, suffixes):
    if entry.name in _SYSTEM:
        return False
    try:
        with os.scandir(entry.path) as entries:
            return any(_suffix(e.name) in suffixes and not e.name.startswith("._") for e in entries)
    except OSError:
        return False


def _is_hidden(name):
    return name.startswith(".") or name in _SYSTEM


def _suffix(name):
    # of ".jpg" too, whose stem is empty
    return name[name.rfind(".") :].lower() if "." in name else ""


def _kind(entry):
    """Why a file is not used: its ending, or words."""
    suffix = _suffix(entry.name)
    is_plain = re.fullmatch(r"\.\w{1,8}", suffix, re.A)
    is_own = suffix in _PICTURES | _BESIDE_PICTURES
    # what downloads and editors put behind an ending, such as .part and .1
    if not is_own and _IMAGE_ENDING.search(entry.name.lower()):
        return LONGER
    if is_plain:
        return suffix
    if suffix:
        return OTHER_ENDINGS
    try:
        with open(entry.path, "rb") as file:
            return NAMELESS if _BEGINNINGS.match(file.read(12)) else UNNAMED
    except OSError:  # whoever may not read it does not train on it
        return UNNAMED


def may_be_images(reason: str) -> bool:
    """Whether what was passed over for this reason may be images that someone wants."""
    return reason in _PICTURES if reason.startswith(".") else reason not in _SAFE


def tally_line(used: int, passed_over: dict[str, int]) -> str:
    """How many files are used and passed over, by reason: a line for a log."""
    files = used + sum(n for reason, n in passed_over.items() if reason not in _FOLDERS)
    line = f"{used:,} of {files:,} files used"
    if not passed_over:
        return line
    # what may matter first
    ordered = sorted(passed_over.items(), key=lambda pair: (not may_be_images(pair[0]), -pair[1]))
    words = (counted(n, _ONE.get(reason, reason), reason) for reason, n in ordered)
    return f"{line}; passed over: " + ", ".join(words)
