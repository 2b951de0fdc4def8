"""In which dtype what is kept and computed: a policy, and the objective that follows it.

Parameters stay in the master dtype, so that updates too small for half precision are kept. The
loss sees copies of them in the dtype of the computation. The names are those of jmp
(github.com/google-deepmind/jmp).

Reads from: errors, protocols, tree_paths. Used by: recipes, by choice.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, fields
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from jaxdl.errors import ConfigError, closest
from jaxdl.protocols import MASK, Aux, Batch, ModelState, Objective, Params, PyTree
from jaxdl.tree_paths import match_mask

__all__ = ["Precision", "precision", "with_precision"]

_SHORT = {"f16": "float16", "bf16": "bfloat16", "f32": "float32", "f64": "float64"}
_LONG = {**_SHORT, "half": "float16", "full": "float32"}
_EXACT = (MASK, "weight", "weights", "label", "labels", "target", "targets")
_PRESETS = {
    "f32": ("f32", "f32", "f32"),
    "bf16": ("f32", "bf16", "f32"),
    "f16": ("f32", "f16", "f32"),
}


@dataclass(frozen=True)
class Precision:
    """Three dtypes. Each is given by name (``"bf16"``, ``"bfloat16"``) or as a dtype.

    Attributes:
        params: of the parameters, and with them of the optimizer's state and the EMA.
        compute: of the forward and backward pass.
        output: of what the model returns, from which the loss is taken.

    Raises:
        ConfigError: a dtype is unknown, or is no float of 16, 32 or 64 bits.

    Examples:
        >>> str(Precision(compute="bf16"))
        'params=f32,compute=bf16,output=f32'
    """

    params: Any = jnp.float32
    compute: Any = jnp.bfloat16
    output: Any = jnp.float32

    def __post_init__(self) -> None:
        """Dtypes by name become dtypes, so that equal policies are equal values."""
        for each in fields(self):
            object.__setattr__(self, each.name, _dtype(each.name, getattr(self, each.name)))

    def __str__(self) -> str:
        """The spelling that ``parse`` reads."""
        names = {long: short for short, long in _SHORT.items()}
        parts = (f"{each.name}={names[getattr(self, each.name).name]}" for each in fields(self))
        return ",".join(parts)

    @classmethod
    def parse(cls, text: str) -> Precision:
        """A policy from ``"params=f32,compute=bf16,output=f32"``, or the name of a preset.

        What is left out has its default. ``p``, ``c`` and ``o`` are short for the three.

        Args:
            text: the policy.

        Raises:
            ConfigError: a part or a dtype is unknown, or a part is named twice.

        Examples:
            >>> Precision.parse("compute=f16").compute.name
            'float16'
        """
        if "=" not in text:
            return precision(text)
        known = {each.name: each.name for each in fields(cls)}
        known |= {name[0]: name for name in known}
        given: dict[str, str] = {}
        for part in text.split(","):
            name, equals, value = (piece.strip() for piece in part.partition("="))
            if not equals or name not in known or known[name] in given:
                raise ConfigError(
                    f"the policy {text!r} has the part {part.strip()!r}",
                    expected="params=, compute= and output=, each at most once",
                    do=closest(name, [each.name for each in fields(cls)]),
                )
            given[known[name]] = value
        return cls(**given)


def precision(policy: str | Precision) -> Precision:
    """A policy by its preset's name, by its spelling, or as it is.

    ``"f32"`` is float32 throughout. ``"bf16"`` and ``"f16"`` keep parameters and outputs in float32
    and compute in the half type (jmp's ``"bfloat16"`` would make all three of them half).

    Args:
        policy: ``"f32"``, ``"bf16"``, ``"f16"``, or what ``Precision.parse`` reads.

    Raises:
        ConfigError: as ``Precision.parse``.

    Examples:
        >>> precision("bf16") == Precision()
        True
    """
    if isinstance(policy, Precision):
        return policy
    if "=" in policy:
        return Precision.parse(policy)
    names = {name: name for name in _PRESETS} | {_SHORT[name]: name for name in _PRESETS}
    name = policy.strip()
    if name not in names:
        raise ConfigError(
            f"there is no precision {policy!r}",
            expected=f"one of {', '.join(_PRESETS)}, or params=f32,compute=bf16,output=f32",
            do=closest(name, names),
        )
    return Precision(*_PRESETS[names[name]])


def with_precision(
    objective: Objective,
    policy: str | Precision = "bf16",
    *,
    keep: str | Iterable[str] | None = None,
    exact: Iterable[str] = _EXACT,
) -> Objective:
    """The same objective, computed in another dtype than its parameters are kept in.

    Inside the loss, parameters and floating batch fields are cast to ``policy.compute``; a Linen
    module whose ``dtype`` is not set takes its first argument in it too, and what the outermost
    module returns is cast to ``policy.output``. Gradients come back in the master dtype, since a
    cast is differentiated as the cast back. Sums, weights and metrics are float32 or wider, the
    model's state keeps its own dtypes, and integers, booleans and keys are not touched.

    A Linen module with its own ``dtype`` computes in that. NNX modules and functions follow JAX's
    rules of promotion: one float32 array among half ones makes the result float32.

    float16 needs ``gradients.scaled``; ``make_train_step`` warns where it is missing.

    Args:
        objective: any objective.
        policy: a ``Precision``, its spelling, or a preset: ``"f32"``, ``"bf16"``, ``"f16"``.
        keep: regular expression(s) of parameter paths that the loss sees in the master dtype.
            Where they meet half-precision numbers, the result is theirs.
        exact: batch fields that are not cast: what is compared, weighed or counted.

    Returns:
        An ``Objective``. With a policy of float32 throughout, and a model and batch that are, it
        is the same program.

    Raises:
        ConfigError: the policy is unknown, or needs 64-bit floats that are not enabled.
        PathError: while tracing, when ``keep`` matches no parameter.

    Examples:
        >>> from jaxdl.objectives import from_mean
        >>> objective = from_mean(lambda p, batch: jnp.mean(p * batch["x"]))
        >>> loss = with_precision(objective, "bf16").loss
        >>> total, aux = loss(jnp.array(1.001), {}, {"x": jnp.ones(4)}, None, train=True)
        >>> float(total), total.dtype.name
        (4.0, 'float32')
    """
    chosen = precision(policy)
    wide = [each.name for each in fields(chosen) if getattr(chosen, each.name) == np.float64]
    if wide and jnp.result_type(float) != np.float64:
        raise ConfigError(
            f"the policy {chosen} has float64 in {', '.join(wide)}",
            expected="16 or 32 bits, or jax_enable_x64",
            do="call jax.config.update('jax_enable_x64', True) before any array is made",
        )

    def init(key: Any, batch: Batch) -> tuple[Params, ModelState]:
        params, model_state = objective.init(key, batch)
        return _cast(params, chosen.params), model_state

    loss = _Loss(objective, chosen, keep, tuple(exact))
    return objective._replace(init=init, loss=loss)


@dataclass(frozen=True)
class _Loss:
    """The loss under a policy."""

    objective: Objective
    policy: Precision
    keep: str | Iterable[str] | None
    exact: tuple[str, ...]

    @property
    def narrow_range(self) -> bool:
        """Whether small gradients are lost, which ``make_train_step`` asks."""
        return self.policy.compute == np.float16

    def __call__(
        self, params: Params, model_state: ModelState, batch: Batch, key: Any, *, train: bool
    ) -> tuple[Any, Aux]:
        compute, output = self.policy.compute, self.policy.output
        params = _cast_params(params, compute, self.keep)
        batch = _cast_batch(batch, compute, self.exact)
        mixed = compute != output
        with _modules(compute, output) if mixed else contextlib.nullcontext():
            total, aux = self.objective.loss(params, model_state, batch, key, train=train)
        kept = Aux(
            _wide(aux.weight),
            _as_before(aux.model_state, model_state),
            jax.tree.map(_wide, aux.metrics),
            _cast(aux.outputs, output),
        )
        return _wide(total), kept


def _cast_params(params: Params, dtype: Any, keep: str | Iterable[str] | None) -> Params:
    if keep is None:
        return _cast(params, dtype)
    kept = match_mask(keep, params)
    return jax.tree.map(lambda x, stays: x if stays else _as(x, dtype), params, kept)


def _cast_batch(batch: Batch, dtype: Any, exact: tuple[str, ...]) -> Batch:
    if not isinstance(batch, Mapping):
        return _cast(batch, dtype)
    return {name: x if name in exact else _cast(x, dtype) for name, x in batch.items()}


def _cast(tree: PyTree, dtype: Any) -> PyTree:
    return jax.tree.map(lambda x: _as(x, dtype), tree)


def _as(x: Any, dtype: Any) -> Any:
    """Floating arrays in ``dtype``; everything else, and what is in it, as it is."""
    own = jax.dtypes.result_type(x) if isinstance(x, float) else getattr(x, "dtype", None)
    if own is None or own == dtype or not jnp.issubdtype(own, jnp.floating):
        return x
    return jnp.asarray(x).astype(dtype)


def _wide(x: Any) -> Any:
    """A sum: float32 at least."""
    own = getattr(x, "dtype", None)
    if own is None or not jnp.issubdtype(own, jnp.floating):
        return x
    return _as(x, jnp.promote_types(own, jnp.float32))


def _as_before(new: ModelState, old: ModelState) -> ModelState:
    """The model's state in the dtypes it had."""
    if jax.tree.structure(new) != jax.tree.structure(old):
        return new  # The step says what changed.
    return jax.tree.map(lambda n, o: _as(n, jnp.result_type(o)) if _is_float(o) else n, new, old)


def _is_float(x: Any) -> bool:
    return jnp.issubdtype(getattr(x, "dtype", np.dtype(bool)), jnp.floating)


def _modules(compute: Any, output: Any) -> Any:
    """Within it Linen modules read ``compute``, and the outermost one returns ``output``.

    A module often makes float32 numbers of its own, as from the bytes of an image, and one of them
    would make all that follows float32.
    """

    def intercept(call: Callable[..., Any], args: Any, kwargs: Any, context: Any) -> Any:
        if context.method_name != "__call__":
            return call(*args, **kwargs)
        if args and getattr(context.module, "dtype", compute) is None:
            args = (_cast(args[0], compute), *args[1:])
        outputs = call(*args, **kwargs)
        return outputs if context.module.path else _cast(outputs, output)

    return nn.intercept_methods(intercept)


def _dtype(part: str, given: Any) -> np.dtype[Any]:
    name = _LONG.get(given, given) if isinstance(given, str) else given
    try:
        found = None if name is None else jnp.dtype(name)
    except TypeError:
        found = None
    if found is None or found.name not in _SHORT.values():
        raise ConfigError(
            f"{part} is {given!r}, which is no dtype to compute in",
            expected=", ".join(f"{short} ({long})" for short, long in _SHORT.items()),
            do=closest(str(given), [*_LONG, *_SHORT.values()]),
        )
    return found
