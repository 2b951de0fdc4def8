"""Data: sources of rows, a cache of decoded columns, batches by number, padding and prefetch.

A source knows rows by index; ``Batches`` makes batch ``k`` of them from ``(seed, k)``;
``prefetch`` makes the next ones in the background. Heavy libraries load on first use.

Reads from: its own modules. Used by: placement, evaluation, hooks, fit, recipe, cli.
"""

from jaxdl.data.augmenting import (
    CIFAR10_MEAN,
    CIFAR10_STD,
    IMAGENET_MEAN,
    IMAGENET_STD,
    augmented,
    center_crop,
    cutout,
    normalized,
    random_crop,
    random_flip,
    random_resized_crop,
)
from jaxdl.data.batches import Batches, Transform
from jaxdl.data.cache import cached, open_columns
from jaxdl.data.cartpole import CartPole
from jaxdl.data.collecting import collect, episode_returns
from jaxdl.data.colours import color_jitter, gaussian_blur, random_grayscale
from jaxdl.data.columns import Columns, arrays, npz
from jaxdl.data.decoding import Records, records
from jaxdl.data.environments import Environments, GymnasiumEnvironments, Moved
from jaxdl.data.folders import cache_folder, check_space, data_folder
from jaxdl.data.handwritten import digits
from jaxdl.data.image_files import image_folder
from jaxdl.data.labels import check_labels
from jaxdl.data.mixing import cutmix, mixup
from jaxdl.data.mu_law import mu_law_decode, mu_law_encode
from jaxdl.data.packing import pack
from jaxdl.data.padding import pad_batch
from jaxdl.data.poisson import PoissonBatches
from jaxdl.data.prefetching import Prefetcher, prefetch
from jaxdl.data.prepared import tfds
from jaxdl.data.preparing import prepare
from jaxdl.data.randaugment import rand_augment
from jaxdl.data.skipping import Skipping, with_skipped
from jaxdl.data.source import Source
from jaxdl.data.tokenizing import Encoded, Tokenizer, load_tokenizer, train_bpe, train_wordpiece

__all__ = [
    "CIFAR10_MEAN",
    "CIFAR10_STD",
    "IMAGENET_MEAN",
    "IMAGENET_STD",
    "Batches",
    "CartPole",
    "Columns",
    "Encoded",
    "Environments",
    "GymnasiumEnvironments",
    "Moved",
    "PoissonBatches",
    "Prefetcher",
    "Records",
    "Skipping",
    "Source",
    "Tokenizer",
    "Transform",
    "arrays",
    "augmented",
    "cache_folder",
    "cached",
    "center_crop",
    "check_labels",
    "check_space",
    "collect",
    "color_jitter",
    "cutmix",
    "cutout",
    "data_folder",
    "digits",
    "episode_returns",
    "gaussian_blur",
    "image_folder",
    "load_tokenizer",
    "mixup",
    "mu_law_decode",
    "mu_law_encode",
    "normalized",
    "npz",
    "open_columns",
    "pack",
    "pad_batch",
    "prefetch",
    "prepare",
    "rand_augment",
    "random_crop",
    "random_flip",
    "random_grayscale",
    "random_resized_crop",
    "records",
    "tfds",
    "train_bpe",
    "train_wordpiece",
    "with_skipped",
]
