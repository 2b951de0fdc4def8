"""Data: sources of rows, a cache of decoded columns, batches by number, padding and prefetch.

A source knows rows by index; ``Batches`` makes batch ``k`` of them from ``(seed, k)``;
``prefetch`` makes the next ones in the background. Heavy libraries load on first use.

Reads from: its own modules. Used by: placement, evaluation, hooks, fit, recipe, cli.
"""

from jaxdl.data.batches import Batches, Transform
from jaxdl.data.cache import cached, open_columns
from jaxdl.data.columns import Columns, arrays, npz
from jaxdl.data.decoding import Records, records
from jaxdl.data.folders import cache_folder, check_space, data_folder
from jaxdl.data.handwritten import digits
from jaxdl.data.image_files import image_folder
from jaxdl.data.labels import check_labels
from jaxdl.data.padding import pad_batch
from jaxdl.data.prefetching import Prefetcher, prefetch
from jaxdl.data.prepared import tfds
from jaxdl.data.preparing import prepare
from jaxdl.data.skipping import Skipping, with_skipped
from jaxdl.data.source import Source

__all__ = [
    "Batches",
    "Columns",
    "Prefetcher",
    "Records",
    "Skipping",
    "Source",
    "Transform",
    "arrays",
    "cache_folder",
    "cached",
    "check_labels",
    "check_space",
    "data_folder",
    "digits",
    "image_folder",
    "npz",
    "open_columns",
    "pad_batch",
    "prefetch",
    "prepare",
    "records",
    "tfds",
    "with_skipped",
]
