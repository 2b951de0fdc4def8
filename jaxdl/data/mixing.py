"""Mixup and cutmix: transforms of a batch that mix its rows two by two.

They belong in the data pipeline. In the step, a row's partner would depend on how the batch is cut
into microbatches and devices; here batch ``k`` is mixed whole, as a function of ``(seed, k)``.

Reads from: errors, data.batches. Used by: recipes, by choice.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from jaxdl.data.batches import Transform
from jaxdl.errors import BatchError, ConfigError, closest

__all__ = ["cutmix", "mixup"]

_Mixer = Callable[[npt.NDArray[Any], npt.NDArray[np.int64], np.random.Generator], Any]


def mixup(
    num_classes: int, *, alpha: float = 0.2, image: str = "image", label: str = "label"
) -> Transform:
    """Each row ``w`` of itself and ``1 - w`` of another, with ``w`` from Beta(alpha, alpha).

    Labels become the same mixture of one-hot vectors: take a loss of soft labels. Source: Zhang et
    al. 2017, arXiv:1710.09412. As there, partners are a permutation of the batch; ``w`` is drawn
    for each row. A last batch that is filled up mixes the repeated rows in too.

    Args:
        num_classes: ``K``.
        alpha: of the Beta distribution.
        image: the field of images, ``[B, ...]``, which become float32.
        label: the field of labels: integers ``[B]`` or soft ``[B, K]``; becomes float32 ``[B, K]``.

    Raises:
        ConfigError: ``alpha`` is not positive, or no class.
        BatchError: when it is used, a field is missing or a label out of range.
    """

    def mixed(images: Any, partner: npt.NDArray[np.int64], rng: np.random.Generator) -> Any:
        weight = rng.beta(alpha, alpha, len(images)).astype(np.float32)
        shape = (-1,) + (1,) * (images.ndim - 1)
        floats = images.astype(np.float32)
        w = weight.reshape(shape)
        return w * floats + (1 - w) * floats[partner], weight

    return _transform(mixed, num_classes, alpha, (image, label))


def cutmix(
    num_classes: int, *, alpha: float = 1.0, image: str = "image", label: str = "label"
) -> Transform:
    """Each image with a rectangle of another, labels mixed by the share of the area.

    Source: Yun et al. 2019, arXiv:1905.04899: the rectangle has the image's shape, its centre is
    anywhere, what reaches over the edge is cut off and does not count. A rectangle is drawn for
    each row.

    Args:
        num_classes: ``K``.
        alpha: of the Beta distribution that the share is drawn from.
        image: the field of images, ``[B, H, W, C]``; the dtype is kept.
        label: as ``mixup``.

    Raises:
        ConfigError: ``alpha`` is not positive, or no class.
        BatchError: when it is used, a field is missing or a label out of range.
    """

    def mixed(images: Any, partner: npt.NDArray[np.int64], rng: np.random.Generator) -> Any:
        rows, height, width = images.shape[:3]
        side = np.sqrt(1 - rng.beta(alpha, alpha, rows))
        y, x = rng.integers(height, size=rows), rng.integers(width, size=rows)
        down = _between(y, (height * side).astype(np.int64), height)
        across = _between(x, (width * side).astype(np.int64), width)
        inside = down[:, :, None] & across[:, None, :]
        weight = 1 - inside.mean(axis=(1, 2))
        chosen = np.where(inside[..., None], images[partner], images)
        return chosen, weight.astype(np.float32)

    return _transform(mixed, num_classes, alpha, (image, label))


def _between(
    centre: npt.NDArray[np.int64], size: npt.NDArray[np.int64], length: int
) -> npt.NDArray[np.bool_]:
    places, first = np.arange(length)[None], (centre - size // 2)[:, None]
    return (places >= first) & (places < first + size[:, None])


def _transform(mix: _Mixer, num_classes: int, alpha: float, fields: tuple[str, str]) -> Transform:
    if alpha <= 0 or num_classes < 1:
        raise ConfigError(
            f"alpha is {alpha} and num_classes is {num_classes}",
            expected="a positive alpha and at least one class",
            do="leave the transform out to mix nothing",
        )
    image, label = fields

    def transform(batch: dict[str, Any], rng: np.random.Generator) -> dict[str, Any]:
        for name in fields:
            if name not in batch:
                raise BatchError(
                    f"the batch has no field {name!r}",
                    expected=", ".join(batch),
                    do=closest(name, batch),
                )
        soft = _soft(np.asarray(batch[label]), num_classes)
        partner = rng.permutation(len(soft))
        images, weight = mix(np.asarray(batch[image]), partner, rng)
        w = weight[:, None]
        return {**batch, image: images, label: w * soft + (1 - w) * soft[partner]}

    return transform


def _soft(labels: npt.NDArray[Any], num_classes: int) -> npt.NDArray[np.float32]:
    if labels.ndim == 2 and labels.shape[1] == num_classes:
        return labels.astype(np.float32)
    whole = labels.ndim == 1 and np.issubdtype(labels.dtype, np.integer)
    if not whole or labels.min() < 0 or labels.max() >= num_classes:
        raise BatchError(
            f"the labels are {labels.dtype}{list(labels.shape)}",
            expected=f"integers from 0 to {num_classes - 1}, or soft labels [B, {num_classes}]",
            do="check num_classes",
        )
    return np.eye(num_classes, dtype=np.float32)[labels]
