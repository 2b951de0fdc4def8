"""A placed step as a file: its program in StableHLO, without the Python that wrote it.

The file is a zip of a manifest in JSON and the program as ``jax.export`` serialises it. Nothing in
it is pickled, so that reading one runs no code but the program's own. States and sums are flat
lists of leaves with their paths: no class of a model or an optimizer is needed to read them.

Reads from: errors, protocols, tree_paths, layouts, models.activations, placement.jit. Used by: the
user.
"""

from __future__ import annotations

import importlib.util
import inspect
import json
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
from jax.sharding import NamedSharding

from jaxdl.errors import MissingExtraError, ProgramError
from jaxdl.layouts import activation_rules
from jaxdl.models.activations import activations_on
from jaxdl.placement.jit import PlacedStep
from jaxdl.protocols import Batch, Mean, PyTree, Sums
from jaxdl.tree_paths import leaf_paths

__all__ = ["LoadedProgram", "export_program", "load_program"]

_FORMAT = 1


def export_program(
    placed: PlacedStep,
    state: PyTree,
    batch: Batch,
    path: str | Path,
    *,
    platforms: Sequence[str] | None = None,
) -> Path:
    """Writes the update of a placed step.

    Args:
        placed: what ``jaxdl.jit(step)`` gave.
        state: a state, or ``placed.abstract_state(batch)``.
        batch: a batch of the shapes that the program will be given.
        path: the file to write; one that is there is replaced.
        platforms: such as ``("cpu", "tpu")``; the one that is in use when ``None``.

    Returns:
        The path.

    Raises:
        MissingExtraError: ``flatbuffers``, which ``jax.export`` writes with, is not installed.
    """
    _check_flatbuffers()
    from jax import export

    batch = placed.put(batch)
    leaves, structure = jax.tree.flatten((state, batch))
    names: dict[str, Any] = {}

    def flat(*leaves: Any) -> list[Any]:
        state, batch = jax.tree.unflatten(structure, leaves)
        state, sums = _updated(placed, state, batch)
        names["sums"] = leaf_paths(sums)
        names["means"] = [name for name, entry in sums.items() if isinstance(entry, Mean)]
        return jax.tree.leaves((state, sums))

    rows = NamedSharding(placed.mesh, placed.layout.batch_spec())
    shardings = (placed.shardings(state), jax.tree.map(lambda _: rows, batch))
    jitted = jax.jit(flat, in_shardings=tuple(jax.tree.leaves(shardings)))
    shapes = [jax.ShapeDtypeStruct(x.shape, x.dtype) for x in leaves]
    exported = export.export(jitted, platforms=platforms)(*shapes)
    manifest = {
        "format": _FORMAT,
        "jax": jax.__version__,
        "platforms": list(exported.platforms),
        "devices": exported.nr_devices,
        "state": _described(state),
        "batch": _described(batch),
        **names,
    }
    path = Path(path)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("manifest.json", json.dumps(manifest, indent=1))
        file.writestr("program", bytes(exported.serialize()))
    return path


class LoadedProgram:
    """An update from a file: ``(state, batch) -> (state, sums)``.

    Attributes:
        manifest: what the file says of itself: platforms, number of devices, the paths, shapes and
            dtypes of state and batch.
    """

    def __init__(self, exported: Any, manifest: dict[str, Any]):
        self.manifest = manifest
        self._call = jax.jit(exported.call)

    def __call__(self, state: PyTree, batch: Batch) -> tuple[PyTree, Sums]:
        """One update; the state that is given is not consumed.

        Args:
            state: of the paths, shapes and dtypes that were exported, on as many devices.
            batch: the same.

        Returns:
            The state, of the structure that was given, and the sums: a ``Mean`` where it was one,
            any other leaf by its path.

        Raises:
            ProgramError: state or batch are not those of the program.
        """
        for role, given in (("state", state), ("batch", batch)):
            _check_same(role, self.manifest[role], _described(given))
        leaves, structure = jax.tree.flatten(state)
        out = self._call(*leaves, *jax.tree.leaves(batch))
        found = dict(zip(self.manifest["sums"], out[len(leaves) :], strict=True))
        sums: Sums = {}
        for name in self.manifest["means"]:
            sums[name] = Mean(found.pop(f"{name}/total"), found.pop(f"{name}/weight"))
        return jax.tree.unflatten(structure, out[: len(leaves)]), {**sums, **found}


def load_program(path: str | Path) -> LoadedProgram:
    """Reads what ``export_program`` wrote.

    Args:
        path: the file.

    Raises:
        ProgramError: the file is none, is damaged, or is of another format, platform, number of
            devices or a version of JAX that this one cannot read.
        MissingExtraError: ``flatbuffers`` is not installed.
    """
    _check_flatbuffers()
    from jax import export

    manifest, program = _read(Path(path))
    platform, devices = jax.default_backend(), jax.device_count()
    if platform not in manifest["platforms"]:
        raise ProgramError(
            f"{path} is a program for {', '.join(manifest['platforms'])}",
            expected=f"one for {platform}, which is in use here",
            do=f"export it with platforms=({platform!r},) among others",
        )
    if manifest["devices"] > devices:
        raise ProgramError(
            f"{path} is a program for {manifest['devices']} devices",
            expected=f"at most {devices}, which are here",
            do="export it from a step that is placed on as many devices",
        )
    try:
        exported = export.deserialize(bytearray(program))
    except Exception as error:
        raise ProgramError(
            f"{path}, written by jax {manifest['jax']}, cannot be read: {error}",
            expected=f"a program that jax {jax.__version__} reads",
            do="export it again with this version; jax reads those of the last six months",
        ) from error
    return LoadedProgram(exported, manifest)


def _updated(placed: PlacedStep, state: PyTree, batch: Batch) -> tuple[PyTree, Sums]:
    options: dict[str, Any] = {}
    if "batch_sharding" in inspect.signature(placed.pure.update).parameters:
        options["batch_sharding"] = NamedSharding(placed.mesh, placed.layout.batch_spec())
    with activations_on(placed.mesh, activation_rules(placed.layout, placed.mesh)):
        return placed.pure.update(state, batch, **options)


def _described(tree: PyTree) -> list[list[Any]]:
    leaves = zip(leaf_paths(tree), jax.tree.leaves(tree), strict=True)
    return [[path, list(x.shape), str(x.dtype)] for path, x in leaves]


def _check_same(role: str, wanted: list[Any], given: list[Any]) -> None:
    if wanted == given:
        return
    known = {path: rest for path, *rest in wanted}
    wrong = [f"{p} is {rest}" for p, *rest in given if known.get(p) != rest]
    absent = sorted(known.keys() - {path for path, *_ in given})
    raise ProgramError(
        f"the {role} is not that of the program: {'; '.join(wrong) or 'it lacks leaves'}",
        expected="; ".join(f"{p}: {known[p]}" for p in absent) or f"{known}",
        do=f"give a {role} of the shapes and dtypes that were exported, or export again",
    )


def _read(path: Path) -> tuple[dict[str, Any], bytes]:
    try:
        with zipfile.ZipFile(path) as file:
            manifest = json.loads(file.read("manifest.json"))
            program = file.read("program")
    except (OSError, KeyError, ValueError, zipfile.BadZipFile) as error:
        raise ProgramError(
            f"{path} cannot be read as an exported program: {error}",
            expected="a file that placement.export_program wrote",
            do="check the path, or export again",
        ) from error
    if manifest.get("format") != _FORMAT:
        raise ProgramError(
            f"{path} has the format {manifest.get('format')}",
            expected=f"format {_FORMAT}",
            do="read it with the version of jaxdl that wrote it, or export again",
        )
    return manifest, program


def _check_flatbuffers() -> None:
    if importlib.util.find_spec("flatbuffers") is None:
        raise MissingExtraError(
            "jax.export needs the package flatbuffers, which is not installed",
            expected="flatbuffers",
            do="pip install flatbuffers",
        )
