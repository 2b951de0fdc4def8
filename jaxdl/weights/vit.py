"""ViT's names: those of the Hub's files, which ``transformers`` reads and writes.

Reads from: models, weights.moves, weights.names. Used by: weights.families.
"""

from __future__ import annotations

import jax.numpy as jnp

from jaxdl.models import ViT
from jaxdl.weights.moves import shaped
from jaxdl.weights.names import Names, Rule, dense, norm

__all__ = ["vit"]

# Names of a model of transformers 5 in memory, and those of its files.
_IN_MEMORY = (
    (r"^((?:vit\.)?)layers\.", r"\1encoder.layer."),
    (r"\.attention\.q_proj\.", ".attention.attention.query."),
    (r"\.attention\.k_proj\.", ".attention.attention.key."),
    (r"\.attention\.v_proj\.", ".attention.attention.value."),
    (r"\.attention\.o_proj\.", ".attention.output.dense."),
    (r"\.mlp\.fc1\.", ".intermediate.dense."),
    (r"\.mlp\.fc2\.", ".output.dense."),
)


def vit(model: ViT) -> Names:
    """The table of ``ViT`` for files of ``ViTForImageClassification`` and ``ViTModel``.

    The pooler of ``ViTModel`` is the dense layer with a tanh that ``representation_dim`` makes. The
    files are of models with a LayerNorm epsilon of 1e-12, so build ours with ``epsilon=1e-12``.
    ``transformers`` 5 calls the tensors of a model in memory otherwise than those of its files;
    both names are read, and those of files are written.

    Args:
        model: whose names are asked for.
    """
    at, block = "vit.encoder.layer.{i}", "block_{i}"
    attention = [
        rule
        for name in ("query", "key", "value")
        for rule in dense(f"{block}/attention/{name}", f"{at}.attention.attention.{name}")
    ]
    first = shaped(lambda shape: (1, 1, *shape))
    skipped = [r"^(vit\.)?embeddings\.mask_token$"]
    skipped += [] if model.representation_dim else [r"^(vit\.)?pooler\."]
    skipped += [] if model.num_classes is not None else [r"^classifier\."]
    return Names(
        rules=(
            *dense("patch_embedding", "vit.embeddings.patch_embeddings.projection"),
            Rule("class_token", "vit.embeddings.cls_token", first),
            Rule(
                "position_embedding",
                "vit.embeddings.position_embeddings",
                shaped(lambda shape: (1, *shape)),
            ),
            *norm(f"{block}/attention_norm", f"{at}.layernorm_before"),
            *attention,
            *dense(f"{block}/attention/out", f"{at}.attention.output.dense"),
            *norm(f"{block}/mlp_norm", f"{at}.layernorm_after"),
            *dense(f"{block}/mlp_in", f"{at}.intermediate.dense"),
            *dense(f"{block}/mlp_out", f"{at}.output.dense"),
            *norm("norm", "vit.layernorm"),
            *dense("representation", "vit.pooler.dense"),
            *dense("head", "classifier"),
        ),
        inputs=_images,
        prefix="vit.",
        renames=_IN_MEMORY,
        skipped=tuple(skipped),
    )


def _images(model: ViT) -> tuple[jnp.ndarray]:
    size = model.image_size
    height, width = (size, size) if isinstance(size, int) else size
    return (jnp.zeros((1, height, width, 3)),)
