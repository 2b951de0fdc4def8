"""A decoder's step by formula: what it computes, reads and sends, without a program.

Everything is counted as low as it can be, for a bound that no run beats: attention as a causal mask
leaves it, gradients sent in bfloat16, each weight read once where it is used. ``plan`` counts the
real program instead.

Reads from: errors, tpu.programs.hlo, tpu.slices.names, tpu.plans.roofline. Used by: benchmarks, and
by hand.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass

import numpy as np

from jaxdl.errors import ConfigError, closest
from jaxdl.tpu.plans.roofline import Work
from jaxdl.tpu.programs.hlo import Collective
from jaxdl.tpu.slices.names import Topology, parse_topology

__all__ = ["KEPT", "Decoder", "transformer"]

KEPT = ("qkv", "context", "out", "mlp_in", "mlp_out")
"""What a remat policy can keep of a block: the outputs of its products, by name."""

_AXES = ("data", "fsdp", "tensor")
_BF16, _F32 = 2, 4


@dataclass(frozen=True)
class Decoder:
    """The shape of a transformer that predicts the next token.

    Attributes:
        layers: blocks.
        width: of the residual stream.
        heads: of the queries.
        kv_heads: of keys and values.
        head_dim: of each.
        mlp: hidden width of the feed-forward part.
        vocab: tokens.
        gated: whether the feed-forward part has a gate, so three kernels instead of two.
        tied: whether the logits use the embedding's matrix.
    """

    layers: int
    width: int
    heads: int
    kv_heads: int
    head_dim: int
    mlp: int
    vocab: int
    gated: bool = True
    tied: bool = False

    @property
    def kernels(self) -> dict[str, int]:
        """Parameters of a block's products."""
        return {
            "qkv": self.width * self.head_dim * (self.heads + 2 * self.kv_heads),
            "out": self.width * self.head_dim * self.heads,
            "mlp_in": self.width * self.mlp * (2 if self.gated else 1),
            "mlp_out": self.width * self.mlp,
        }

    @property
    def parameters(self) -> int:
        """All of them but norms and biases."""
        tables = self.vocab * self.width * (1 if self.tied else 2)
        return self.layers * sum(self.kernels.values()) + tables

    def attention_flops(self, length: int) -> int:
        """FLOPs for a token of ``Q K^T`` and ``weights V`` in the forward pass, in full.

        Args:
            length: tokens of a row.
        """
        return 4 * length * self.heads * self.head_dim * self.layers

    def model_flops(self, length: int) -> int:
        """FLOPs for a token, forwards and backwards, attention in full.

        Args:
            length: tokens of a row.
        """
        used = self.layers * sum(self.kernels.values()) + self.vocab * self.width
        return 6 * used + 3 * self.attention_flops(length)


def transformer(
    shape: Decoder,
    topology: str | Topology,
    mesh: Mapping[str, int],
    *,
    rows: int,
    length: int,
    kept: Collection[str] = KEPT,
) -> Work:
    """One training step of a decoder with AdamW, in bfloat16 with parameters in float32.

    Args:
        shape: of the model.
        topology: the slice, or several.
        mesh: sizes of the axes ``data``, ``fsdp`` and ``tensor``, those that there are. Parameters
            are divided over ``fsdp`` and ``tensor``, rows over ``data`` and ``fsdp``.
        rows: of the global batch.
        length: tokens of a row.
        kept: of ``KEPT``, what is not computed a second time in the backward pass; ``()`` for
            ``remat="full"``.

    Returns:
        What ``jaxdl.tpu.plans.roofline.predict`` takes. Attention is counted as a kernel that keeps
        no scores: 2 products forwards, 5 backwards, each half of the square.

    Raises:
        ConfigError: an axis or a name is not known, or the mesh does not fit the slice.
    """
    target = parse_topology(topology) if isinstance(topology, str) else topology
    sizes = _sizes(mesh, target)
    for name in kept:
        if name not in KEPT:
            raise ConfigError(
                f"a block has no {name!r} to keep", expected=", ".join(KEPT), do=closest(name, KEPT)
            )
    tokens = rows * length
    attention = shape.attention_flops(length)
    again = _recomputed(shape, kept, attention / 2)
    # Causal: half of each square; 7 products of the kernel against 2 of the forward pass.
    executed = shape.model_flops(length) - 3 * attention + 3.5 * attention / 2 + again
    return Work(
        topology=target,
        mesh=sizes,
        executed=float(tokens * executed),
        model=float(tokens * shape.model_flops(length)),
        attention=float(tokens * 3 * attention),
        cycles=None,
        hbm_bytes=_memory(shape, sizes, tokens, again=bool(again)),
        collectives=tuple(_collectives(shape, sizes, tokens, target)),
    )


def _sizes(mesh: Mapping[str, int], topology: Topology) -> dict[str, int]:
    for name in mesh:
        if name not in _AXES:
            raise ConfigError(
                f"the mesh has an axis {name!r}", expected=", ".join(_AXES), do=closest(name, _AXES)
            )
    if math.prod(mesh.values()) != topology.devices:
        raise ConfigError(
            f"the mesh {dict(mesh)} takes {math.prod(mesh.values())} devices",
            expected=f"{topology.devices}, those of {topology}",
            do="change an axis",
        )
    return {name: mesh.get(name, 1) for name in _AXES}


def _recomputed(shape: Decoder, kept: Collection[str], attention: float) -> float:
    """FLOPs for a token of what is computed again.

    What ``mlp_out`` gives is only added to the residual stream: no gradient needs it.
    """
    products = sum(
        2 * size * shape.layers
        for name, size in shape.kernels.items()
        if name not in kept and name != "mlp_out"
    )
    return products + (0.0 if "context" in kept else attention)


def _memory(shape: Decoder, sizes: Mapping[str, int], tokens: int, *, again: bool) -> float:
    """Bytes of one device at the least.

    Parameters and both moments are read and written in float32. A gathered kernel is read in
    bfloat16 for the forward pass, for recomputation, and for the gradient of its input. Of
    activations only a block's input counts, written once and read once.
    """
    held = shape.parameters / (sizes["fsdp"] * sizes["tensor"])
    gathered = shape.parameters / sizes["tensor"]
    passes = 3 if again else 2
    local = tokens / (sizes["data"] * sizes["fsdp"])
    stream = 2 * local * shape.width * shape.layers / sizes["tensor"]
    return 6 * _F32 * held + passes * _BF16 * gathered + _BF16 * stream


def _collectives(
    shape: Decoder, sizes: Mapping[str, int], tokens: int, topology: Topology
) -> list[Collective]:
    """Traffic at the least, all of it in bfloat16."""
    found: list[Collective] = []
    whole = _BF16 * shape.parameters // sizes["tensor"]
    if sizes["fsdp"] > 1:
        group = _group(sizes, "fsdp")
        found.append(_collective("all-gather", whole, 2, group))
        found.append(_collective("reduce-scatter", whole, 1, group))
    if sizes["tensor"] > 1:
        local = _BF16 * tokens * shape.width // (sizes["data"] * sizes["fsdp"])
        # After attention and after the feed-forward part, forwards and backwards.
        reduced = _collective("all-reduce", local, 4 * shape.layers, _group(sizes, "tensor"))
        found.append(reduced)
    if sizes["data"] > 1:
        found += _over_data(whole // sizes["fsdp"], sizes, topology.num_slices)
    return found


def _over_data(size: int, sizes: Mapping[str, int], slices: int) -> list[Collective]:
    """Gradients: summed within each slice, then between slices a part by each device."""
    group = _group(sizes, "data")
    within = sizes["data"] // slices
    found: list[Collective] = []
    if within > 1:
        found.append(_collective("all-reduce", size, 1, group[:within]))
    if slices > 1:
        part = size // max(1, within)
        between = _collective("all-reduce", part, 1, group[:: max(1, within)])
        found.append(between._replace(network="dcn"))
    return found


def _collective(kind: str, size: int, times: int, group: tuple[int, ...]) -> Collective:
    count = len(group)
    rounds = 2 if kind == "all-reduce" else 1
    wire = round(rounds * size * (count - 1) / count) * times
    return Collective(kind, size, count, times, wire, "", group, ())


def _group(sizes: Mapping[str, int], axis: str) -> tuple[int, ...]:
    numbers = np.arange(math.prod(sizes.values())).reshape(tuple(sizes.values()))
    along = np.moveaxis(numbers, list(sizes).index(axis), 0)
    return tuple(int(n) for n in along.reshape(along.shape[0], -1)[:, 0])
