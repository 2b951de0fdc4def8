"""A new run's state that begins with the parameters of another run.

Reads from: protocols, checkpoints.matching, .partial, .tensors. Used by: recipe.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

from jaxdl.checkpoints.matching import Patterns
from jaxdl.checkpoints.partial import Partial, Source, load_partial
from jaxdl.checkpoints.tensors import is_key
from jaxdl.protocols import PyTree, TrainState

__all__ = ["InitFrom"]


@dataclass(frozen=True)
class InitFrom:
    """Which parameters of another run a new run begins with; the arguments of ``load_partial``.

    Attributes:
        folder: of the other run, or of its checkpoints.
        step, source, rename, only, new, ignore, cast: as in ``load_partial``.
    """

    folder: Path
    step: int | None = None
    source: Source = "params"
    rename: Sequence[tuple[str, str]] = ()
    only: Patterns = None
    new: Patterns = None
    ignore: Patterns = None
    cast: bool = False

    def fill(
        self, state: TrainState, opt_init: Callable[[Any], Any] | None = None
    ) -> tuple[TrainState, Partial]:
        """The state of a new run at step 0, with what is taken over, each leaf where it lay.

        The moving average begins at the parameters. Some optimizers keep a copy of the parameters
        that they begin at (``optax.contrib.schedule_free``, ``prodigy``): give ``opt_init`` there.

        Args:
            state: as the placed step's ``init`` made it.
            opt_init: from the new parameters to the optimizer's state; it is kept as ``init`` made
                it when ``None``.

        Returns:
            The new state, and what happened to every leaf.

        Raises:
            JaxdlError: as ``load_partial``.
        """
        taken = load_partial(
            self.folder,
            state.params,
            step=self.step,
            source=self.source,
            rename=self.rename,
            only=self.only,
            new=self.new,
            ignore=self.ignore,
            cast=self.cast,
            model_state=state.model_state,
        )
        params, opt_state = taken.params, state.opt_state
        if opt_init is not None:
            opt_state = _init_like(opt_state, opt_init, params)
        # A step donates its state, so no two leaves of it may share memory.
        ema = None if state.ema is None else jax.tree.map(jnp.copy, params)
        new = replace(
            state, params=params, model_state=taken.model_state, opt_state=opt_state, ema=ema
        )
        return new, taken


def _init_like(old: PyTree, opt_init: Callable[[Any], Any], params: PyTree) -> PyTree:
    shardings = jax.tree.map(lambda leaf: leaf.sharding, old)
    init = jax.jit(lambda p: jax.tree.map(_own, opt_init(p)), out_shardings=shardings)
    return init(params)


def _own(x: Any) -> Any:
    """The same value in memory of its own, without JAX's weak type."""
    x = jnp.asarray(x)
    return x if is_key(x) else jnp.copy(jnp.asarray(x, x.dtype))
