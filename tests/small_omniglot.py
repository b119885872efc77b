"""Omniglot's two archives in small, of generated drawings."""

import io
import zipfile

import numpy as np
from PIL import Image

BACKGROUND, EVALUATION = "omniglot_images_background.zip", "omniglot_images_evaluation.zip"


def drawing(column=10, side=105):
    pixels = np.full((side, side), 255, np.uint8)
    pixels[:, column : column + 6] = 0
    file = io.BytesIO()
    Image.fromarray(pixels).convert("1").save(file, "PNG")
    return file.getvalue()


def write_archives(folder, background=None, evaluation=None, names=(BACKGROUND, EVALUATION)):
    background = background or {
        f"images_background/{alphabet}/character0{c}/000{c}_0{d}.png": drawing(10 * c + d)
        for alphabet in ("Greek", "Armenian")
        for c in (1, 2)
        for d in (1, 2, 3)
    }
    evaluation = evaluation or {
        f"images_evaluation/Tengwar/character01/0009_0{d}.png": drawing(50 + d) for d in (1, 2)
    }
    for name, members in zip(names, (background, evaluation)):
        with zipfile.ZipFile(folder / name, "w", zipfile.ZIP_DEFLATED) as archive:
            for member, content in members.items():
                archive.writestr(member, content)
    return folder
