"""PyTorch's side of input_pipeline.py: a DataLoader over image files, with Pillow.

Reads the image size from the command line, then a JSON list of paths and, line by line, numbers
of images; answers each number by the seconds and the processor seconds that an image took.
"""

import json
import math
import multiprocessing
import os
import random
import sys
import time
from pathlib import Path

import numpy as np
import torch
from PIL import Image

SCALE, RATIO = (0.16, 1.0), (3 / 4, 4 / 3)
BATCH, WORKERS, PREFETCH = 80, 2, 2


class Views(torch.utils.data.Dataset):
    """Random resized crops and flips, as torchvision's transforms of PIL images make them."""

    def __init__(self, paths, image_size):
        self.paths, self.image_size = paths, image_size

    def __len__(self):
        return len(self.paths)

    def __getitem__(self, index):
        with Image.open(self.paths[index]) as file:
            image = file.convert("RGB")
        left, top, width, height = window(*image.size)
        image = image.crop((left, top, left + width, top + height))
        image = image.resize((self.image_size, self.image_size), Image.Resampling.BILINEAR)
        if random.random() < 0.5:
            image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        pixels = torch.from_numpy(np.array(image)).permute(2, 0, 1).contiguous()
        return pixels.float().div(255)


def window(width, height):
    """A random share of the area at a random shape; the centred square after ten misses."""
    for _ in range(10):
        area = width * height * random.uniform(*SCALE)
        shape = math.exp(random.uniform(math.log(RATIO[0]), math.log(RATIO[1])))
        w, h = round(math.sqrt(area * shape)), round(math.sqrt(area / shape))
        if 0 < w <= width and 0 < h <= height:
            return random.randint(0, width - w), random.randint(0, height - h), w, h
    side = min(width, height)
    return (width - side) // 2, (height - side) // 2, side, side


def processor_seconds():
    """Of this process and of its workers."""
    ticks = 0
    for worker in multiprocessing.active_children():
        fields = (
            Path(f"/proc/{worker.pid}/stat").read_text(encoding="utf-8").rsplit(")", 1)[1].split()
        )
        ticks += int(fields[11]) + int(fields[12])
    return time.process_time() + ticks / os.sysconf("SC_CLK_TCK")


def endless(loader):
    while True:
        yield from loader


def main():
    paths = json.loads(sys.stdin.readline())
    torch.set_num_threads(WORKERS)
    batches = endless(
        torch.utils.data.DataLoader(
            Views(paths, int(sys.argv[1])),
            batch_size=BATCH,
            shuffle=True,
            drop_last=True,
            num_workers=WORKERS,
            prefetch_factor=PREFETCH,
            persistent_workers=True,
        )
    )
    for line in sys.stdin:
        # what the workers made ready while others had their turn does not count
        for _ in range(WORKERS * PREFETCH + 1):
            next(batches)
        seen, start = 0, np.array([time.perf_counter(), processor_seconds()])
        while seen < int(line):
            seen += len(next(batches))
        spent = np.array([time.perf_counter(), processor_seconds()]) - start
        print(json.dumps((spent / seen).tolist()), flush=True)


if __name__ == "__main__":
    main()
