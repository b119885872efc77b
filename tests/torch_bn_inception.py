"""BN-Inception in PyTorch, written from its description: the counterpart of ours in tests and
benchmarks. Parameter names are those of the public weights file."""

import torch
from torch import nn

# name: 1x1, (reduce, 3x3), (reduce, 3x3, 3x3), pool, projection; width 0: the block has none
BLOCKS = {
    "3a": (64, (64, 64), (64, 96, 96), "avg", 32),
    "3b": (64, (64, 96), (64, 96, 96), "avg", 64),
    "3c": (0, (128, 160), (64, 96, 96), "ceil", 0),
    "4a": (224, (64, 96), (96, 128, 128), "avg", 128),
    "4b": (192, (96, 128), (96, 128, 128), "avg", 128),
    "4c": (160, (128, 160), (128, 160, 160), "avg", 128),
    "4d": (96, (128, 192), (160, 192, 192), "avg", 128),
    "4e": (0, (128, 192), (192, 256, 256), "ceil", 0),
    "5a": (352, (192, 320), (160, 224, 224), "avg", 128),
    "5b": (352, (192, 320), (192, 224, 224), "max", 128),
}


class BNInception(nn.Module):
    """From normalised images (batch, 3, height, width) to feature maps (batch, 1024, h, w)."""

    def __init__(self, classifier=True):
        super().__init__()
        self._add("conv1_7x7_s2", 3, 64, 7, stride=2)
        self._add("conv2_3x3_reduce", 64, 64, 1)
        self._add("conv2_3x3", 64, 192, 3)
        width = 192
        for block, (one, three, double, _, projection) in BLOCKS.items():
            name, stride = f"inception_{block}", 1 if projection else 2
            if one:
                self._add(f"{name}_1x1", width, one, 1)
            self._add(f"{name}_3x3_reduce", width, three[0], 1)
            self._add(f"{name}_3x3", *three, 3, stride)
            self._add(f"{name}_double_3x3_reduce", width, double[0], 1)
            self._add(f"{name}_double_3x3_1", *double[:2], 3)
            self._add(f"{name}_double_3x3_2", *double[1:], 3, stride)
            if projection:
                self._add(f"{name}_pool_proj", width, projection, 1)
            width = one + three[1] + double[2] + (projection or width)
        if classifier:
            self.last_linear = nn.Linear(width, 1000)

    def _add(self, name, before, after, kernel, stride=1):
        convolution = nn.Conv2d(before, after, kernel, stride, kernel // 2)
        self.add_module(name, convolution)
        self.add_module(f"{name}_bn", nn.BatchNorm2d(after, eps=1e-5, momentum=0.1))

    def _apply_named(self, name, x):
        return torch.relu(getattr(self, f"{name}_bn")(getattr(self, name)(x)))

    def forward(self, x):
        x = _pool("ceil", self._apply_named("conv1_7x7_s2", x))
        x = self._apply_named("conv2_3x3", self._apply_named("conv2_3x3_reduce", x))
        x = _pool("ceil", x)
        for block, (one, _, _, pool, projection) in BLOCKS.items():
            name = f"inception_{block}"
            branches = [self._apply_named(f"{name}_1x1", x)] if one else []
            for branch in ("3x3_reduce 3x3", "double_3x3_reduce double_3x3_1 double_3x3_2"):
                y = x
                for layer in branch.split():
                    y = self._apply_named(f"{name}_{layer}", y)
                branches.append(y)
            y = _pool(pool, x)
            branches.append(self._apply_named(f"{name}_pool_proj", y) if projection else y)
            x = torch.cat(branches, 1)
        return x


def _pool(kind, x):
    if kind == "ceil":
        return nn.functional.max_pool2d(x, 3, stride=2, ceil_mode=True)
    if kind == "max":
        return nn.functional.max_pool2d(x, 3, stride=1, padding=1)
    return nn.functional.avg_pool2d(x, 3, stride=1, padding=1, count_include_pad=True)


def randomize(network, seed=0):
    """Random statistics, scales and biases, so that no part of a conversion can be left out.

    Pixels of 0–255 give features of the order of 1.
    """
    generator = torch.Generator().manual_seed(seed)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.weight.data.uniform_(0.5, 1.5, generator=generator)
            module.bias.data.normal_(0, 0.3, generator=generator)
            module.running_mean.normal_(0, 0.3, generator=generator)
            module.running_var.uniform_(0.8, 2.4, generator=generator)
        elif isinstance(module, nn.Conv2d):
            fan_in = module.weight[0].numel()
            module.weight.data.normal_(0, (2 / fan_in) ** 0.5, generator=generator)
            module.bias.data.normal_(0, 0.3, generator=generator)
    network.conv1_7x7_s2.weight.data /= 75.0  # the standard deviation of such pixels
    return network
