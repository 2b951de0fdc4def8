"""Batch ``k`` of a run, as a pure function of ``(seed, k)``, on any number of hosts.

There is no iterator and so no iterator state: a run that stops after batch ``k`` resumes by
asking for batch ``k + 1``, on as many hosts as it likes.

Reads from: errors, protocols, data.order, data.padding, data.source. Used by: data.prefetching,
hooks, fit, recipe.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping
from functools import cached_property
from typing import Any, TypeAlias

import jax
import numpy as np
import numpy.typing as npt

from jaxdl.data.order import check_seed, epoch_order, transform_rng
from jaxdl.data.padding import mask_rows
from jaxdl.data.source import Source
from jaxdl.errors import BatchError, ConfigError, DataError, closest
from jaxdl.protocols import MASK

__all__ = ["Batches", "Transform"]

Transform: TypeAlias = Callable[[dict[str, Any], np.random.Generator], Mapping[str, Any]]
"""``(batch, rng) -> batch`` on NumPy arrays ``[B, ...]``; pure but for its draws from ``rng``."""


class Batches:
    """The batches of a source, numbered from 0 without end, over epochs.

    In every epoch each row comes exactly once. The last batch of an epoch is filled with
    repeated rows that a ``mask`` takes out of every sum (``remainder="pad"``; then every batch
    has a mask, so that all have one structure), or left out (``remainder="drop"``: which rows
    are left out changes from epoch to epoch).

    ``transform`` sees the global batch on every host, which then keeps its own rows: that is
    what makes a random or row-mixing transform the same on any number of hosts, and it costs
    each host the transform of the whole batch. Augment on the device where that is too much.
    It runs before the mask of the padding is added.

    Args:
        source: any ``Source``.
        batch_size: rows of the global batch.
        seed: of the order and of ``transform``; from 0 to 2**64 - 1.
        shuffle: ``False`` keeps the order of the source.
        remainder: ``"pad"`` or ``"drop"``.
        transform: see above; its generator depends on ``(seed, k)`` only.

    Attributes:
        source: as given.
        batch_size: as given.
        seed: as given.
        num_examples: rows of the source.
        batches_per_epoch: how many batches one epoch has.

    Raises:
        ConfigError: batch_size is below 1, or ``seed`` or ``remainder`` is not one of the above.
        DataError: the source is empty, or ``"drop"`` would leave no batch.

    Examples:
        >>> from jaxdl import data
        >>> batches = Batches(data.arrays({"label": np.arange(5)}), 2, shuffle=False)
        >>> batches[2]["label"], batches[2]["mask"]
        (array([4, 4]), array([1., 0.], dtype=float32))
        >>> [batch["label"].tolist() for batch in batches.epoch(1)]
        [[0, 1], [2, 3], [4, 4]]
    """

    def __init__(
        self,
        source: Source,
        batch_size: int,
        *,
        seed: int = 0,
        shuffle: bool = True,
        remainder: str = "pad",
        transform: Transform | None = None,
    ):
        _check_settings(len(source), batch_size, remainder)
        self.source = source
        self.batch_size = batch_size
        self.seed = check_seed(seed)
        self.num_examples = len(source)
        whole, rest = divmod(self.num_examples, batch_size)
        self.batches_per_epoch = whole + (1 if rest and remainder == "pad" else 0)
        self._masked = bool(rest) and remainder == "pad"
        self._shuffle = shuffle
        self._transform = transform
        self._local = slice(0, batch_size)
        self._newest_order: tuple[int, npt.NDArray[np.int64]] | None = None

    @cached_property
    def spec(self) -> dict[str, jax.ShapeDtypeStruct]:
        """Shape and dtype of each field of a batch (of this host's rows), the mask included."""
        if self._transform is not None:
            return {
                name: jax.ShapeDtypeStruct(value.shape, value.dtype)
                for name, value in self[0].items()
            }
        rows = self._local.stop - self._local.start
        spec = {
            name: jax.ShapeDtypeStruct((rows, *row.shape), row.dtype)
            for name, row in self.source.spec.items()
        }
        if self._masked and MASK not in spec:
            spec[MASK] = jax.ShapeDtypeStruct((rows,), np.float32)
        return spec

    def __getitem__(self, k: int) -> dict[str, npt.NDArray[Any]]:
        """Batch ``k``: this host's rows of it, in new arrays that nobody else will write to.

        Raises:
            BatchError: ``k`` is negative, or the transform changed the number of rows.
            DataError: the source cannot read a row.
        """
        rows = self.rows(k)
        real = len(rows)
        if real < self.batch_size:
            rows = np.concatenate([rows, np.full(self.batch_size - real, rows[0] if real else 0)])
        if self._transform is None:
            batch = self.source.gather(rows[self._local])
        else:
            changed = self._transform(self.source.gather(rows), transform_rng(self.seed, k))
            batch = {n: v[self._local] for n, v in _checked(changed, self.batch_size).items()}
        if not self._masked:
            return batch
        return mask_rows(batch, np.arange(self._local.start, self._local.stop) < real)

    def rows(self, k: int) -> npt.NDArray[np.int64]:
        """The rows of the source that batch ``k`` holds, on all hosts, without its padding.

        Args:
            k: which batch.

        Raises:
            BatchError: ``k`` is negative.
        """
        if k < 0:
            raise BatchError(f"batch {k} was asked for", expected="k from 0", do="count from 0")
        epoch, place = divmod(k, self.batches_per_epoch)
        return self._order(epoch)[place * self.batch_size : (place + 1) * self.batch_size]

    def epoch(self, e: int = 0) -> Iterator[dict[str, npt.NDArray[Any]]]:
        """The batches of epoch ``e``, in order."""
        for k in range(e * self.batches_per_epoch, (e + 1) * self.batches_per_epoch):
            yield self[k]

    def host(self, index: int, count: int) -> Batches:
        """The same batches, of which one of ``count`` hosts reads its own rows only.

        The hosts' rows, concatenated in the order of their index, are the global batch.

        Args:
            index: of this host, from 0, such as ``jax.process_index()``.
            count: of hosts, such as ``jax.process_count()``.

        Returns:
            Batches of ``batch_size // count`` rows; ``batch_size`` stays the global one.

        Raises:
            ConfigError: ``batch_size`` does not divide over the hosts, or there is no such host.
        """
        if not 0 <= index < count:
            raise ConfigError(
                f"host {index} of {count}",
                expected="an index from 0 to count - 1",
                do="give jax.process_index() and jax.process_count()",
            )
        if self.batch_size % count:
            raise ConfigError(
                f"a batch of {self.batch_size} rows does not divide over {count} hosts",
                expected=f"a multiple of {count}",
                do=f"choose batch_size={-(-self.batch_size // count) * count}",
            )
        local = copy.copy(self)
        local.__dict__.pop("spec", None)
        rows = self.batch_size // count
        local._local = slice(index * rows, (index + 1) * rows)
        return local

    def to_grain(self, epochs: int = 1) -> Any:
        """These batches as a ``grain.MapDataset``, in the same order, for Grain's transforms,
        threads and worker processes.

        It is the way to read a source that decodes per record (``data.records``): decoding in
        Grain's workers can use more than one core. A columnar source gains nothing by it.

        Args:
            epochs: how many epochs of batches the data set holds.

        Returns:
            A ``grain.MapDataset`` whose element ``k`` is ``self[k]``.
        """
        import grain

        return grain.MapDataset.range(epochs * self.batches_per_epoch).map(self.__getitem__)

    def _order(self, epoch: int) -> npt.NDArray[np.int64]:
        newest = self._newest_order
        if newest is not None and (newest[0] == epoch or not self._shuffle):
            return newest[1]
        if self._shuffle:
            order = epoch_order(self.num_examples, self.seed, epoch)
        else:
            order = np.arange(self.num_examples)
        # One assignment, so that a prefetch thread beside the main one sees a whole pair.
        self._newest_order = (epoch, order)
        return order


def _checked(changed: Mapping[str, Any], rows: int) -> dict[str, npt.NDArray[Any]]:
    arrays = {name: np.asarray(value) for name, value in changed.items()}
    for name, value in arrays.items():
        if value.shape[:1] != (rows,):
            raise BatchError(
                f"the transform gave field {name!r} the shape {list(value.shape)}",
                expected=f"{rows} rows, as it was given",
                do="keep the first axis of every field",
            )
    return arrays


def _check_settings(rows: int, batch_size: int, remainder: str) -> None:
    if remainder not in ("pad", "drop"):
        raise ConfigError(
            f"remainder is {remainder!r}",
            expected="'pad' or 'drop'",
            do=closest(remainder, ["pad", "drop"]),
        )
    if batch_size < 1:
        raise ConfigError(
            f"batch_size is {batch_size}", expected="at least 1", do="choose a positive batch size"
        )
    if rows == 0:
        raise DataError(
            "the source is empty", expected="at least one row", do="check the split or the slice"
        )
    if remainder == "drop" and rows < batch_size:
        raise DataError(
            f"{rows} rows do not fill one batch of {batch_size}, and remainder='drop' drops it",
            expected=f"a batch size of at most {rows}",
            do="choose a smaller batch size, or remainder='pad'",
        )
