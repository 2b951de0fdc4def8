"""jaxdl is to the training step what Optax is to the update: pure functions that compose.

Names are loaded when they are first used, so that ``import jaxdl`` does nothing and costs nothing.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from jaxdl import (
        data,
        errors,
        evaluation,
        generation,
        gradients,
        hosts,
        layouts,
        losses,
        metrics,
        models,
        objectives,
        optimizers,
        placement,
        reductions,
        tpu,
        tree_paths,
        weights,
    )
    from jaxdl.hosts import initialize
    from jaxdl.layouts import (
        Layout,
        data_parallel,
        fsdp,
        layout,
        sequence,
        single,
        tensor_parallel,
        zero1,
    )
    from jaxdl.loop import FitResult, fit
    from jaxdl.metrics import report
    from jaxdl.objectives import from_mean, from_nnx, supervised
    from jaxdl.placement import from_pmap_state, jit, pmap
    from jaxdl.protocols import Aux, Mean, Metric, Objective, Tally, TrainState, TrainStep
    from jaxdl.recipe import Recipe
    from jaxdl.step import make_eval_step, make_predict_step, make_train_step

__version__ = "0.1.0"

_MODULES = [
    *("data", "errors", "evaluation", "generation", "gradients", "hosts", "layouts", "losses"),
    *("metrics", "models", "objectives", "optimizers", "placement", "reductions", "tpu"),
    *("tree_paths", "weights"),
]

_HOMES = {
    "loop": "FitResult fit",
    "hosts": "initialize",
    "layouts": "Layout data_parallel fsdp layout sequence single tensor_parallel zero1",
    "metrics": "report",
    "objectives": "from_mean from_nnx supervised",
    "placement": "from_pmap_state jit pmap",
    "protocols": "Aux Mean Metric Objective Tally TrainState TrainStep",
    "recipe": "Recipe",
    "step": "make_eval_step make_predict_step make_train_step",
}
_NAMES = {name: home for home, names in _HOMES.items() for name in names.split()}

__all__ = [
    "Aux",
    "FitResult",
    "Layout",
    "Mean",
    "Metric",
    "Objective",
    "Recipe",
    "Tally",
    "TrainState",
    "TrainStep",
    "data",
    "data_parallel",
    "errors",
    "evaluation",
    "fit",
    "from_mean",
    "from_nnx",
    "from_pmap_state",
    "fsdp",
    "generation",
    "gradients",
    "hosts",
    "initialize",
    "jit",
    "layout",
    "layouts",
    "losses",
    "make_eval_step",
    "make_predict_step",
    "make_train_step",
    "metrics",
    "models",
    "objectives",
    "optimizers",
    "placement",
    "pmap",
    "reductions",
    "report",
    "sequence",
    "single",
    "supervised",
    "tensor_parallel",
    "tpu",
    "tree_paths",
    "weights",
    "zero1",
]


def __getattr__(name: str) -> Any:
    if name in _NAMES:
        value = getattr(importlib.import_module(f"jaxdl.{_NAMES[name]}"), name)
    elif name in _MODULES:
        value = importlib.import_module(f"jaxdl.{name}")
    else:
        from jaxdl.errors import closest

        raise AttributeError(f"jaxdl has no {name!r}; {closest(name, __all__)}")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return __all__
