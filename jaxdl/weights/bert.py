"""BERT's names: those of the Hub's files and of ``transformers``.

Reads from: models, weights.names. Used by: weights.families.
"""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp

from jaxdl.models import BERT, BERTClassifier, BERTMaskedLM, BERTPretraining, BERTTagger
from jaxdl.weights.names import Names, Rule, dense, embedding, norm

__all__ = ["bert"]

_WORDS = r"^cls\.predictions\."
_SENTENCE = r"^cls\.seq_relationship\."
_CLASSES = r"^classifier\."
_POOLER = r"^(bert\.)?pooler\."
_QUESTIONS = r"^qa_outputs\."
# Heads of a file that a model of ours has not.
_OTHERS: dict[type, tuple[str, ...]] = {
    BERT: (_WORDS, _SENTENCE, _CLASSES, _QUESTIONS),
    BERTMaskedLM: (_SENTENCE, _CLASSES, _QUESTIONS),
    BERTPretraining: (_CLASSES, _QUESTIONS),
    BERTClassifier: (_WORDS, _SENTENCE, _QUESTIONS),
    BERTTagger: (_WORDS, _SENTENCE, _QUESTIONS),
}


def bert(model: Any) -> Names:
    """The table of ``BERT`` and its heads for files of ``BertModel`` and ``BertFor...``.

    A head that the file has and the model has not is passed over, and so is a pooler. The head of
    masked words is the word embedding, which some files hold a second time. Old files name the
    scale and bias of a norm ``gamma`` and ``beta``.

    Args:
        model: whose names are asked for.
    """
    own = isinstance(model, BERT)
    encoder = model if own else model.bert
    words = isinstance(model, BERTMaskedLM | BERTPretraining)
    others = next(found for kind, found in _OTHERS.items() if isinstance(model, kind))
    skipped = [r"embeddings\.position_ids$", *others]
    if not encoder.pooler:
        skipped.append(_POOLER)
    tied = {
        "cls.predictions.decoder.weight": "bert.embeddings.word_embeddings.weight",
        "cls.predictions.decoder.bias": "cls.predictions.bias",
    }
    return Names(
        rules=(
            *_encoder("" if own else "bert/"),
            *dense("head/transform", "cls.predictions.transform.dense"),
            *norm("head/norm", "cls.predictions.transform.LayerNorm"),
            Rule("head/bias", "cls.predictions.bias"),
            *dense("next_sentence", "cls.seq_relationship"),
            *dense("classifier", "classifier"),
        ),
        inputs=lambda _: (jnp.zeros((1, 1), jnp.int32),),
        prefix="bert.",
        renames=(
            (r"LayerNorm\.gamma$", "LayerNorm.weight"),
            (r"LayerNorm\.beta$", "LayerNorm.bias"),
        ),
        skipped=tuple(skipped),
        tied=tied if words else {},
    )


def _encoder(ours: str) -> tuple[Rule, ...]:
    block, at = f"{ours}block_{{i}}", "bert.encoder.layer.{i}"
    attention = [
        rule
        for name in ("query", "key", "value")
        for rule in dense(f"{block}/attention/{name}", f"{at}.attention.self.{name}")
    ]
    return (
        *embedding(f"{ours}token_embedding", "bert.embeddings.word_embeddings"),
        *embedding(f"{ours}position_embedding", "bert.embeddings.position_embeddings"),
        *embedding(f"{ours}type_embedding", "bert.embeddings.token_type_embeddings"),
        *norm(f"{ours}embedding_norm", "bert.embeddings.LayerNorm"),
        *attention,
        *dense(f"{block}/attention/out", f"{at}.attention.output.dense"),
        *norm(f"{block}/attention_norm", f"{at}.attention.output.LayerNorm"),
        *dense(f"{block}/mlp_in", f"{at}.intermediate.dense"),
        *dense(f"{block}/mlp_out", f"{at}.output.dense"),
        *norm(f"{block}/mlp_norm", f"{at}.output.LayerNorm"),
        *dense(f"{ours}pooler", "bert.pooler.dense"),
    )
