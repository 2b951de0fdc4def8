"""Inception v3 in PyTorch, with the layers, sizes and names of torchvision's models/inception.py.

Written from its published structure for these tests, as torchvision itself needs another build of
PyTorch. Two rules for small images are ours: the second head pools over what is there, and pads its
5x5 convolution where less than 5 x 5 are left.
"""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch", reason="requirements-parity.txt installs PyTorch")
nn, functional = torch.nn, torch.nn.functional


class Layer(nn.Module):
    """Convolution, BatchNorm, ReLU."""

    def __init__(self, before, after, size, stride=1, padding=0):
        super().__init__()
        self.conv = nn.Conv2d(before, after, size, stride, padding, bias=False)
        self.bn = nn.BatchNorm2d(after, eps=0.001)

    def forward(self, x):
        return torch.relu(self.bn(self.conv(x)))


def same(before, after, height, width=None):
    """A layer of stride 1 that keeps the image's size."""
    taps = (height, width or height)
    return Layer(before, after, taps, padding=tuple(n // 2 for n in taps))


class Block(nn.Module):
    """Named layers, run in turns: a branch is the names of its layers, a tuple is a fork."""

    branches: tuple = ()
    down = False

    def forward(self, x):
        ends = []
        for branch in self.branches:
            y = x
            for name in branch:
                if isinstance(name, tuple):
                    y = torch.cat([getattr(self, part)(y) for part in name], 1)
                else:
                    y = getattr(self, name)(y)
            ends.append(y)
        if self.down:
            return torch.cat([*ends, functional.max_pool2d(x, 3, 2)], 1)
        mean = functional.avg_pool2d(x, 3, 1, 1)
        return torch.cat([*ends, self.branch_pool(mean)], 1)


class BlockA(Block):
    branches = (
        ("branch1x1",),
        ("branch5x5_1", "branch5x5_2"),
        ("branch3x3dbl_1", "branch3x3dbl_2", "branch3x3dbl_3"),
    )

    def __init__(self, before, pooled):
        super().__init__()
        self.branch1x1 = same(before, 64, 1)
        self.branch5x5_1, self.branch5x5_2 = same(before, 48, 1), same(48, 64, 5)
        self.branch3x3dbl_1, self.branch3x3dbl_2 = same(before, 64, 1), same(64, 96, 3)
        self.branch3x3dbl_3 = same(96, 96, 3)
        self.branch_pool = same(before, pooled, 1)


class BlockB(Block):
    branches = (("branch3x3",), ("branch3x3dbl_1", "branch3x3dbl_2", "branch3x3dbl_3"))
    down = True

    def __init__(self, before):
        super().__init__()
        self.branch3x3 = Layer(before, 384, 3, 2)
        self.branch3x3dbl_1, self.branch3x3dbl_2 = same(before, 64, 1), same(64, 96, 3)
        self.branch3x3dbl_3 = Layer(96, 96, 3, 2)


class BlockC(Block):
    branches = (
        ("branch1x1",),
        tuple(f"branch7x7_{i}" for i in (1, 2, 3)),
        tuple(f"branch7x7dbl_{i}" for i in (1, 2, 3, 4, 5)),
    )

    def __init__(self, before, n):
        super().__init__()
        self.branch1x1 = same(before, 192, 1)
        self.branch7x7_1, self.branch7x7_2 = same(before, n, 1), same(n, n, 1, 7)
        self.branch7x7_3 = same(n, 192, 7, 1)
        self.branch7x7dbl_1, self.branch7x7dbl_2 = same(before, n, 1), same(n, n, 7, 1)
        self.branch7x7dbl_3, self.branch7x7dbl_4 = same(n, n, 1, 7), same(n, n, 7, 1)
        self.branch7x7dbl_5 = same(n, 192, 1, 7)
        self.branch_pool = same(before, 192, 1)


class BlockD(Block):
    branches = (
        ("branch3x3_1", "branch3x3_2"),
        tuple(f"branch7x7x3_{i}" for i in (1, 2, 3, 4)),
    )
    down = True

    def __init__(self, before):
        super().__init__()
        self.branch3x3_1, self.branch3x3_2 = same(before, 192, 1), Layer(192, 320, 3, 2)
        self.branch7x7x3_1, self.branch7x7x3_2 = same(before, 192, 1), same(192, 192, 1, 7)
        self.branch7x7x3_3, self.branch7x7x3_4 = same(192, 192, 7, 1), Layer(192, 192, 3, 2)


class BlockE(Block):
    branches = (
        ("branch1x1",),
        ("branch3x3_1", ("branch3x3_2a", "branch3x3_2b")),
        ("branch3x3dbl_1", "branch3x3dbl_2", ("branch3x3dbl_3a", "branch3x3dbl_3b")),
    )

    def __init__(self, before):
        super().__init__()
        self.branch1x1 = same(before, 320, 1)
        self.branch3x3_1 = same(before, 384, 1)
        self.branch3x3_2a, self.branch3x3_2b = same(384, 384, 1, 3), same(384, 384, 3, 1)
        self.branch3x3dbl_1, self.branch3x3dbl_2 = same(before, 448, 1), same(448, 384, 3)
        self.branch3x3dbl_3a, self.branch3x3dbl_3b = same(384, 384, 1, 3), same(384, 384, 3, 1)
        self.branch_pool = same(before, 192, 1)


class SecondHead(nn.Module):
    def __init__(self, before, classes):
        super().__init__()
        self.conv0, self.conv1 = Layer(before, 128, 1), Layer(128, 768, 5)
        self.fc = nn.Linear(768, classes)

    def forward(self, x):
        x = functional.avg_pool2d(x, min(5, x.shape[-1]), 3)
        edge = 2 if x.shape[-1] < 5 else 0
        x = functional.pad(self.conv0(x), (edge, edge, edge, edge))
        return self.fc(self.conv1(x).mean((2, 3)))


class TorchInception(nn.Module):
    """``(logits, logits of the second head)`` in training, logits else; no dropout."""

    def __init__(self, classes):
        super().__init__()
        self.Conv2d_1a_3x3, self.Conv2d_2a_3x3 = Layer(3, 32, 3, 2), Layer(32, 32, 3)
        self.Conv2d_2b_3x3 = same(32, 64, 3)
        self.Conv2d_3b_1x1, self.Conv2d_4a_3x3 = Layer(64, 80, 1), Layer(80, 192, 3)
        self.Mixed_5b, self.Mixed_5c = BlockA(192, 32), BlockA(256, 64)
        self.Mixed_5d, self.Mixed_6a = BlockA(288, 64), BlockB(288)
        self.Mixed_6b, self.Mixed_6c = BlockC(768, 128), BlockC(768, 160)
        self.Mixed_6d, self.Mixed_6e = BlockC(768, 160), BlockC(768, 192)
        self.AuxLogits = SecondHead(768, classes)
        self.Mixed_7a = BlockD(768)
        self.Mixed_7b, self.Mixed_7c = BlockE(1280), BlockE(2048)
        self.fc = nn.Linear(2048, classes)

    def forward(self, x):
        x = self.Conv2d_2b_3x3(self.Conv2d_2a_3x3(self.Conv2d_1a_3x3(x)))
        x = self.Conv2d_4a_3x3(self.Conv2d_3b_1x1(functional.max_pool2d(x, 3, 2)))
        x = functional.max_pool2d(x, 3, 2)
        x = self.Mixed_6a(self.Mixed_5d(self.Mixed_5c(self.Mixed_5b(x))))
        x = self.Mixed_6e(self.Mixed_6d(self.Mixed_6c(self.Mixed_6b(x))))
        second = self.AuxLogits(x) if self.training else None
        x = self.Mixed_7c(self.Mixed_7b(self.Mixed_7a(x)))
        logits = self.fc(x.mean((2, 3)))
        return (logits, second) if self.training else logits
