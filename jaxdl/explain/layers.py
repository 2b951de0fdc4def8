"""A layer inside a model: its activation read, and the scores that follow from another one.

Nothing of the model changes. Linen's calls are intercepted (``flax.linen.intercept_methods``) while
the function is traced, wherever in it a module is applied; of an NNX module a copy is watched.

Reads from: errors, explain.targets. Used by: explain.attending, explain.cam,
explain.tokens, cli, and by hand.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax import nnx
from flax.core.tracers import current_trace

from jaxdl.errors import ConfigError, PathError, closest
from jaxdl.explain.targets import ScoreFn

__all__ = [
    "Layer",
    "LayerInfo",
    "check_trace",
    "linen_layer",
    "linen_layers",
    "nnx_layer",
    "split_layer",
]

At = Literal["output", "input"]


class Layer(NamedTuple):
    """A place inside a model, as two pure functions.

    Attributes:
        read: ``inputs -> activation``.
        resume: ``(inputs, activation) -> scores``: the model's own, but for what that layer gives.
            Paths around the layer, such as a residual one, are those of the inputs.
    """

    read: Callable[[Any], Any]
    resume: Callable[[Any, Any], Any]


class LayerInfo(NamedTuple):
    """A module that was called.

    Attributes:
        path: its names from the root, ``"block_0/attention"``; ``""`` is the root.
        kind: its class.
        input: shape and dtype of the first argument; ``None`` where that is no array.
        output: shape and dtype of what it returned; ``None`` where that is no array.
    """

    path: str
    kind: str
    input: jax.ShapeDtypeStruct | None
    output: jax.ShapeDtypeStruct | None


def split_layer(features: Callable[[Any], Any], head: Callable[[Any], Any]) -> Layer:
    """A layer of a model that is two functions, one after the other.

    Args:
        features: ``inputs -> activation``.
        head: ``activation -> scores``.

    Examples:
        >>> layer = split_layer(lambda x: 2 * x, lambda a: a + 1)
        >>> layer.read(3), layer.resume(3, 10)
        (6, 11)
    """

    def resume(inputs: Any, activation: Any) -> Any:
        del inputs
        return head(activation)

    return Layer(features, resume)


def linen_layers(fn: ScoreFn, inputs: Any) -> list[LayerInfo]:
    """The Linen modules that a function calls, in the order in which they return.

    Computes nothing.

    Args:
        fn: calls ``module.apply`` somewhere.
        inputs: arrays, or their shapes.

    Examples:
        >>> model = nn.Sequential([nn.Dense(3), nn.relu, nn.Dense(2)])
        >>> variables = model.init(jax.random.key(0), jnp.ones((1, 4)))
        >>> found = linen_layers(lambda x: model.apply(variables, x), jnp.ones((1, 4)))
        >>> [(layer.path, layer.kind) for layer in found]
        [('layers_0', 'Dense'), ('layers_2', 'Dense'), ('', 'Sequential')]
    """
    found: list[LayerInfo] = []

    inside: list[tuple[str, ...]] = []

    def watch(next_fun: Any, args: Any, kwargs: Any, context: Any) -> Any:
        module = context.module
        # A call that calls its parent class's is one call.
        if context.method_name != "__call__" or module.path in inside:
            return next_fun(*args, **kwargs)
        inside.append(module.path)
        out = next_fun(*args, **kwargs)
        inside.pop()
        given = _shape(args[0] if args else None)
        kind = type(module).__name__
        found.append(LayerInfo("/".join(module.path), kind, given, _shape(out)))
        return out

    def watched(inputs: Any) -> Any:
        with nn.intercept_methods(watch):
            return fn(inputs)

    jax.eval_shape(watched, inputs)
    return found


def _shape(value: Any) -> jax.ShapeDtypeStruct | None:
    if not hasattr(value, "shape") or not hasattr(value, "dtype"):
        return None
    return jax.ShapeDtypeStruct(value.shape, value.dtype)


def linen_layer(fn: ScoreFn, path: str, *, at: At = "output") -> Layer:
    """A layer of the Linen module that a function applies, found by its path.

    Args:
        fn: ``inputs -> scores``; applies the module, once.
        path: the names from the root, as in the parameters: ``"block_1/conv_0"``.
            ``linen_layers`` lists them.
        at: the layer's ``"output"``, or its ``"input"`` (its call's first argument).

    Returns:
        See ``Layer``. Its functions raise, while they are traced: ``PathError`` when there is no
        such layer; ``ConfigError`` when it is called more than once, gives no array, or is inside
        ``nn.scan``, ``nn.remat`` or ``jit``, out of which its activation cannot be read.

    Raises:
        ConfigError: ``at`` is neither.

    Examples:
        >>> model = nn.Sequential([nn.Dense(3), nn.relu, nn.Dense(2)])
        >>> variables = model.init(jax.random.key(0), jnp.ones((1, 4)))
        >>> layer = linen_layer(lambda x: model.apply(variables, x), "layers_0")
        >>> layer.read(jnp.ones((1, 4))).shape
        (1, 3)
    """
    _check_at(at)

    def run(inputs: Any, value: Any) -> tuple[Any, list[Any]]:
        watch = _Watch(path, at, value)
        called: list[str] = []

        def intercept(next_fun: Any, args: Any, kwargs: Any, context: Any) -> Any:
            name = "/".join(context.module.path)
            if context.method_name != "__call__" or name != path or watch.inside:
                called.append(name)
                return next_fun(*args, **kwargs)
            return watch.around(next_fun, args, kwargs)

        with nn.intercept_methods(intercept):
            scores = fn(inputs)
        watch.check(called)
        return scores, watch.seen

    def read(inputs: Any) -> Any:
        return run(inputs, None)[1][0]

    def resume(inputs: Any, activation: Any) -> Any:
        return run(inputs, activation)[0]

    return Layer(read, resume)


def nnx_layer(
    module: nnx.Module,
    path: str,
    *,
    at: At = "output",
    call: Callable[[Any, Any], Any] | None = None,
) -> Layer:
    """A layer of an NNX module, found by its path. The module itself stays as it is.

    Args:
        module: in evaluation mode (``module.eval()``).
        path: attributes and indices from the root: ``"blocks/1/conv"``.
        at: the layer's ``"output"``, or its ``"input"``.
        call: ``(module, inputs) -> scores``; ``module(inputs)`` when ``None``.

    Returns:
        See ``Layer``. Its functions raise ``ConfigError``, while they are traced, when the layer
        is not called once, or gives no array.

    Raises:
        ConfigError: ``at`` is neither.
        PathError: there is no such layer.

    Examples:
        >>> model = nnx.Sequential(nnx.Linear(4, 3, rngs=nnx.Rngs(0)), nnx.relu)
        >>> nnx_layer(model, "layers/0").read(jnp.ones((1, 4))).shape
        (1, 3)
    """
    _check_at(at)
    _inner(module, path)
    applied = call or (lambda module, inputs: module(inputs))

    def run(inputs: Any, value: Any) -> tuple[Any, list[Any]]:
        watch = _Watch(path, at, value)
        copy = nnx.clone(module)
        layer = _inner(copy, path)
        object.__setattr__(layer, "__class__", _watched_class(type(layer)))
        vars(layer)[_KEPT] = watch
        scores = applied(copy, inputs)
        watch.check([path])
        return scores, watch.seen

    def read(inputs: Any) -> Any:
        return run(inputs, None)[1][0]

    def resume(inputs: Any, activation: Any) -> Any:
        return run(inputs, activation)[0]

    return Layer(read, resume)


class _Watch:
    """Around one call: keeps what is there, or puts another value in its place."""

    def __init__(self, path: str, at: At, value: Any) -> None:
        self.path, self.at, self.value = path, at, value
        self.seen: list[Any] = []
        self.inside = False
        self._trace = current_trace()

    def around(self, inner: Callable[..., Any], args: Any, kwargs: Any) -> Any:
        if self.at == "input":
            args = (self._exchanged(args[0] if args else None), *args[1:])
        # A call that calls its parent class's is one call.
        self.inside = True
        out = inner(*args, **kwargs)
        self.inside = False
        return out if self.at == "input" else self._exchanged(out)

    def _exchanged(self, there: Any) -> Any:
        if self.value is None:
            check_trace(self._trace, f"the activation of {self.path!r}")
        self.seen.append(there)
        if self.value is None or _shape(there) is None:
            return there
        return jnp.asarray(self.value, there.dtype).reshape(there.shape)

    def check(self, called: list[str]) -> None:
        if not self.seen:
            raise PathError(
                f"no layer {self.path!r} is called",
                expected="the path of a module that the function calls, and a function that is not "
                "jitted itself",
                do=closest(self.path, dict.fromkeys(name for name in called if name)),
            )
        if len(self.seen) > 1 or _shape(self.seen[0]) is None:
            raise ConfigError(
                f"the layer {self.path!r} is called {len(self.seen)} times, with "
                f"{type(self.seen[0]).__name__} as its {self.at}",
                expected="one call, whose activation is an array",
                do="name another layer",
            )


def check_trace(beginning: Any, what: str) -> None:
    """What is read here can leave the function: no inner transformation is being traced.

    Args:
        beginning: what ``current_trace`` gave outside of the model.
        what: is read, for the message.

    Raises:
        ConfigError: one is.
    """
    if current_trace() != beginning:
        raise ConfigError(
            f"{what} cannot be read: it is inside nn.scan, nn.remat, jit, vmap or the like",
            expected="a layer outside of them",
            do="make the model with scan_layers=False and remat=None (models.unstack_layers gives "
            "the parameters), or name a layer around it",
        )


_KEPT = "explain_watch"


@functools.cache
def _watched_class(kind: type) -> type:
    """The class with a call that its instance's watch is around."""

    def call(self: Any, *args: Any, **kwargs: Any) -> Any:
        inner = functools.partial(kind.__call__, self)
        return vars(self)[_KEPT].around(inner, args, kwargs)

    return type(kind.__name__, (kind,), {"__call__": call})


def _inner(module: Any, path: str) -> Any:
    found: Any = module
    for name in path.split("/"):
        try:
            found = found[int(name)] if name.isdigit() else getattr(found, name)
        except (AttributeError, IndexError, KeyError, TypeError):
            found = None
    if not isinstance(found, nnx.Module) or found is module:
        known = ["/".join(map(str, path)) for path, _ in nnx.iter_modules(module) if path]
        raise PathError(
            f"there is no layer {path!r} in the {type(module).__name__}",
            expected="the path of a module inside it",
            do=closest(path, known),
        )
    return found


def _check_at(at: str) -> None:
    if at not in ("output", "input"):
        raise ConfigError(f"at is {at!r}", expected="'output' or 'input'", do="use 'output'")
