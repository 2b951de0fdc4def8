"""``jaxdl attack``, ``robustness`` and ``certify``: a trained run attacked, corrupted, smoothed.

Reads from: errors, protocols, data, metrics, hooks, objectives, placement, recipe,
robustness, step, cli.opening, cli.stores, cli.tables, cli.training. Used by: cli.verbs.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import tyro

from jaxdl import data, metrics, objectives, robustness
from jaxdl.cli.opening import rebuilt
from jaxdl.cli.stores import Key, Trusted
from jaxdl.cli.tables import score_table, table
from jaxdl.cli.training import choose_devices
from jaxdl.errors import ConfigError, closest
from jaxdl.hooks.logs import jsonable
from jaxdl.models.layers import to_float
from jaxdl.objectives.drawing import example_streams
from jaxdl.objectives.fields import field as field_of
from jaxdl.protocols import MASK, Batch, Objective
from jaxdl.recipe import Recipe, place

__all__ = ["AttackOptions", "CertifyOptions", "RobustnessOptions", "attack", "certify", "corrupt"]

_STREAM = 0x636F7272
_Json = Annotated[bool, tyro.conf.FlagCreatePairsOff, tyro.conf.arg(name="json")]
_Number = tyro.conf.arg(metavar="N")


@dataclass(frozen=True)
class _Options:
    """What the three have in common."""

    run: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="RUN")]
    """The run's folder."""
    split: Literal["train", "validation", "test"] = "test"
    """Which split."""
    rows: Annotated[int | None, _Number] = None
    """The first so many of its rows; all when not given."""
    field: str = "image"
    """The batch field that is changed."""
    step: Annotated[int | None, _Number] = None
    """The checkpoint of which step; the newest when not given."""
    devices: Annotated[int | None, _Number] = None
    """How many devices to use; all when not given."""
    key: Key = None
    """Of sealed checkpoints, where a key lies: file:PATH, env:NAME or command:WORDS."""
    trust: Trusted = ()
    """Of sealed checkpoints, the public key of their signer; as often as needed."""
    as_json: _Json = False
    """Print JSON in place of the table."""


@dataclass(frozen=True)
class AttackOptions(_Options):
    """Measures a trained run under PGD, in the units of its images: from 0 to 1 for pixels."""

    norm: Literal["linf", "l2"] = "linf"
    """Of the ball around each image."""
    radius: float = 0.3
    """Of the ball."""
    steps: Annotated[int, _Number] = 40
    """Of gradient; 1 with a step as large as the radius and --start image is FGSM."""
    step_size: Annotated[float | None, tyro.conf.arg(metavar="SIZE")] = None
    """Of each; 2.5 radius / steps when not given."""
    restarts: Annotated[int, _Number] = 1
    """So many starts, of which the worst for each image counts."""
    start: Literal["random", "image"] = "random"
    """A random point of the ball, or the image."""
    low: float = 0.0
    """The lowest value that is valid."""
    high: float = 1.0
    """The highest."""
    unroll: tyro.conf.FlagCreatePairsOff[bool] = False
    """Write the steps out: compiles for longer, and may run several times as fast on a CPU."""


@dataclass(frozen=True)
class RobustnessOptions(_Options):
    """Measures a trained run on corrupted images, at severities 1 to 5."""

    kinds: tuple[str, ...] = robustness.CORRUPTIONS
    """Which corruptions."""
    metric: str | None = None
    """Which metric to show; accuracy, or the loss where there is none, when not given."""


@dataclass(frozen=True)
class CertifyOptions(_Options):
    """Certifies the labels of a trained run under Gaussian noise (randomised smoothing)."""

    sigma: float = 0.25
    """Standard deviation of the noise. A run that was not trained on it will certify little."""
    samples: Annotated[int, _Number] = 1000
    """Noisy copies of each image that the bound comes from."""
    selection: Annotated[int, _Number] = 100
    """Noisy copies that the label comes from."""
    alpha: float = 0.001
    """The probability that a certificate is wrong."""
    seed: Annotated[int, _Number] = 0
    """Of the noise."""
    radii: tuple[float, ...] = (0.0, 0.25, 0.5, 0.75, 1.0)
    """Where to show the certified accuracy."""


class _Opened(NamedTuple):
    """A run, restored: its plain objective, and the batches to measure."""

    recipe: Recipe
    objective: Objective
    state: Any
    batches: data.Batches
    scales: bool


def attack(argv: Sequence[str]) -> int:
    """The verb ``attack``.

    Args:
        argv: the words after it.
    """
    options = tyro.cli(AttackOptions, prog="jaxdl attack", args=list(argv))
    chosen = robustness.pgd(
        options.radius,
        norm=options.norm,
        steps=options.steps,
        step_size=options.step_size,
        random_start=options.start == "random",
        restarts=options.restarts,
        low=options.low,
        high=options.high,
        unroll=options.unroll,
    )
    opened = _open(options)
    _check_range(opened, options)
    attacked = objectives.with_adversary(
        opened.objective, chosen, options.field, integers="scale" if opened.scales else "refuse"
    )
    scores = {"clean": _measured(opened, opened.objective, options)({})}
    start = time.perf_counter()
    scores["attacked"] = _measured(opened, attacked, options)({})
    said = (
        f"{options.norm} {options.radius:g}, {options.steps} steps of {chosen.step_size:g}, "
        f"{options.restarts} from a random point"
    )
    said = said if chosen.random_start else said.replace("a random point", "the image")
    print(f"{said}: {time.perf_counter() - start:.0f} s", file=sys.stderr)
    if options.as_json:
        _print_json(scores)
    else:
        score_table(scores)
    return 0


def corrupt(argv: Sequence[str]) -> int:
    """The verb ``robustness``.

    Args:
        argv: the words after it.
    """
    options = tyro.cli(RobustnessOptions, prog="jaxdl robustness", args=list(argv))
    for name in options.kinds:
        robustness.Corruption(name)
    opened = _open(options)
    _check_range(opened, options)
    measure = _measured(opened, opened.objective, options)
    scores: dict[str, Any] = {"clean": measure({})}
    metric = _chosen_metric(options.metric, scores["clean"])
    for name in options.kinds:
        spoil = _spoiler(name, options.field)
        scores[name] = [measure({"change": spoil, "severity": s}) for s in robustness.SEVERITIES]
    if options.as_json:
        _print_json(scores)
        return 0
    rows = [["clean", f"{scores['clean'][metric]:.4f}"] + [""] * len(robustness.SEVERITIES)]
    for name in options.kinds:
        found = [each[metric] for each in scores[name]]
        rows.append([name, *(f"{x:.4f}" for x in (float(np.mean(found)), *found))])
    table(rows, [metric, "mean", *map(str, robustness.SEVERITIES)])
    return 0


def certify(argv: Sequence[str]) -> int:
    """The verb ``certify``.

    Args:
        argv: the words after it.
    """
    options = tyro.cli(CertifyOptions, prog="jaxdl certify", args=list(argv))
    opened = _open(options)
    count = min(options.rows or opened.batches.num_examples, opened.batches.num_examples)
    taken = [opened.batches[k] for k in range(-(-count // opened.batches.batch_size))]
    fields = {name: np.concatenate([batch[name] for batch in taken])[:count] for name in taken[0]}
    images = to_float(fields[options.field]) if opened.scales else fields[options.field]
    rest = {name: value[:1] for name, value in fields.items() if name not in (options.field, MASK)}
    variables = (_params(opened), opened.state.model_state)

    def predict(x: jax.Array) -> Any:
        batch = {name: jnp.repeat(value, len(x), axis=0) for name, value in rest.items()}
        batch = {**batch, options.field: x}
        return opened.objective.loss(*variables, batch, opened.state.key, train=False)[1].outputs

    right = field_of(fields, "label")

    found = robustness.certify(
        predict,
        images,
        jax.random.key(options.seed),
        sigma=options.sigma,
        samples=options.samples,
        selection=options.selection,
        alpha=options.alpha,
    )
    accuracies = {r: robustness.certified_accuracy(found, right, r) for r in options.radii}
    abstained = float(np.mean(found.labels == robustness.ABSTAIN))
    if options.as_json:
        _print_json({"certified_accuracy": accuracies, "abstained": abstained, "rows": count})
        return 0
    rows = [[f"{radius:g}", f"{accuracy:.4f}"] for radius, accuracy in accuracies.items()]
    table([*rows, ["abstained", f"{abstained:.4f}"]], ["l2 radius", "certified accuracy"])
    return 0


def _open(options: _Options) -> _Opened:
    if options.rows is not None and options.rows < 1:
        raise ConfigError(f"rows is {options.rows}", expected="at least 1", do="leave it out")
    run = rebuilt(options.run, options.devices)
    recipe = run.recipe
    batches = recipe.split(options.split)
    restored = run.restore(options.step, key=options.key, trust=options.trust)
    plain = objectives.without_adversary(recipe.objective)
    opened = _Opened(recipe, plain, restored.state, batches, scales=False)
    return opened._replace(scales=_scales(opened, options.field))


def _params(opened: _Opened) -> Any:
    return opened.state.params if opened.state.ema is None else opened.state.ema


def _scales(opened: _Opened, field: str) -> bool:
    """Whether the images are integers, which the model divides by their largest value itself."""
    batch = opened.batches[0]
    if field not in batch:
        raise ConfigError(
            f"the batch has no field {field!r}",
            expected=f"one of {', '.join(batch)}",
            do=f"{closest(field, batch)} (--field)",
        )
    if np.issubdtype(batch[field].dtype, np.floating):
        return False
    given = (_params(opened), opened.state.model_state)
    seen = [
        opened.objective.loss(*given, {**batch, field: x}, opened.state.key, train=False)[0]
        for x in (batch[field], to_float(batch[field]))
    ]
    if not np.allclose(seen[0], seen[1], rtol=1e-4):
        raise ConfigError(
            f"{field!r} holds {batch[field].dtype}, and the model does not divide it by its largest"
            " value itself",
            expected="floats, or integers that the model scales to 0 .. 1",
            do="scale the images in the recipe's transform",
        )
    return True


def _check_range(opened: _Opened, options: _Options) -> None:
    images = opened.batches[0][options.field]
    low, high = getattr(options, "low", 0.0), getattr(options, "high", 1.0)
    if opened.scales:
        return
    slack = 1e-3 * (high - low)
    if np.min(images) < low - slack or np.max(images) > high + slack:
        raise ConfigError(
            f"{options.field!r} holds {np.min(images):.4g} to {np.max(images):.4g}",
            expected=f"values from {low:g} to {high:g}",
            do="give --low and --high (and a radius in those units)"
            if hasattr(options, "low")
            else "corruptions are defined for pixels from 0 to 1: normalise within the model",
        )


def _measured(
    opened: _Opened, objective: Objective, options: _Options
) -> Callable[[dict[str, Any]], dict[str, Any]]:
    """Measures the split by one program; ``change`` is applied to each batch first."""
    recipe = replace(opened.recipe, objective=objective)
    step = place(recipe, devices=choose_devices(options.devices)).evaluation
    rows = recipe.rows()

    def measure(changes: dict[str, Any]) -> dict[str, Any]:
        sums: Any = None
        left = options.rows or opened.batches.num_examples
        for k in range(opened.batches.batches_per_epoch):
            if left <= 0:
                break
            batch = data.pad_batch(opened.batches[k], rows)
            mask = np.asarray(batch[MASK])
            real = mask.reshape(len(mask), -1).max(axis=1) > 0
            kept = np.cumsum(real) <= left
            batch[MASK] = mask * kept.reshape((-1,) + (1,) * (mask.ndim - 1)).astype(mask.dtype)
            left -= int(np.sum(real))
            if changes:
                batch = changes["change"](batch, changes["severity"])
            new = metrics.total([step(opened.state, step.put(batch))])
            sums = new if sums is None else metrics.add(sums, new)
        return metrics.report(sums)

    return measure


def _spoiler(name: str, field: str) -> Callable[[Batch, int], Batch]:
    """One program for all severities. An image's draws follow from the image."""

    @jax.jit
    def spoiled(images: jax.Array, severity: jax.Array) -> jax.Array:
        keys = example_streams({}, None, images, _STREAM, train=False)
        return robustness.corrupt(images, name, severity, keys)

    def change(batch: Batch, severity: int) -> Batch:
        return {**batch, field: np.asarray(spoiled(batch[field], np.int32(severity)))}

    return change


def _chosen_metric(name: str | None, scores: dict[str, Any]) -> str:
    numbers = [key for key, value in scores.items() if np.ndim(value) == 0]
    chosen = name or ("accuracy" if "accuracy" in numbers else "loss")
    if chosen not in numbers:
        raise ConfigError(
            f"there is no metric {chosen!r}",
            expected=f"one of {', '.join(numbers)}",
            do=closest(chosen, numbers),
        )
    return chosen


def _print_json(scores: Any) -> None:
    print(json.dumps(jsonable(scores), indent=2, allow_nan=False))
