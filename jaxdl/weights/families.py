"""Which name tables a model has, by its class: the one place that says so.

Reads from: errors, models, the tables beside it. Used by: weights.fitting.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from jaxdl.errors import ConfigError
from jaxdl.models import (
    BERT,
    GPT,
    VGG,
    BERTClassifier,
    BERTMaskedLM,
    BERTPretraining,
    BERTTagger,
    InceptionV3,
    Llama,
    ResNet,
    ViT,
)
from jaxdl.weights.bert import bert
from jaxdl.weights.gpt import gpt2
from jaxdl.weights.inception import inception
from jaxdl.weights.llama import llama
from jaxdl.weights.names import Names
from jaxdl.weights.resnet import resnet, torchvision_resnet
from jaxdl.weights.vgg import vgg
from jaxdl.weights.vit import vit

__all__ = ["TABLES", "tables_of"]

TABLES: Mapping[type, Sequence[Callable[[Any], Names]]] = {
    BERT: (bert,),
    BERTClassifier: (bert,),
    BERTMaskedLM: (bert,),
    BERTPretraining: (bert,),
    BERTTagger: (bert,),
    ViT: (vit,),
    GPT: (gpt2,),
    Llama: (llama,),
    ResNet: (resnet, torchvision_resnet),
    VGG: (vgg,),
    InceptionV3: (inception,),
}
"""By class, functions from a model to a table; the first is what ``export`` writes."""


def tables_of(model: Any, names: Names | Callable[[Any], Names] | None) -> list[Names]:
    """The tables that a file for a model may follow.

    Args:
        model: the module.
        names: a table, or a function to one, in place of the family's own.

    Raises:
        ConfigError: the class has no table, and none is given.
    """
    if names is not None:
        return [names if isinstance(names, Names) else names(model)]
    for kind in type(model).__mro__:
        if kind in TABLES:
            return [table(model) for table in TABLES[kind]]
    raise ConfigError(
        f"there is no name table for {type(model).__name__}",
        expected=f"one of {', '.join(sorted(kind.__name__ for kind in TABLES))}",
        do="give one: names=weights.Names(rules=..., inputs=...), see docs/weights.md",
    )
