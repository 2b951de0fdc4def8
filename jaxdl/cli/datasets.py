"""``jaxdl data``: prepare TFDS data sets from files on disk, and list what is prepared.

Reads from: errors, units, data, cli.tables. Used by: cli.verbs.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from jaxdl import data, units
from jaxdl.cli.tables import table
from jaxdl.errors import ConfigError, closest

__all__ = ["ListOptions", "PrepareOptions", "prepared", "run"]

_HELP = """\
usage: jaxdl data prepare NAME --from FOLDER   prepare a TFDS data set from files on disk
       jaxdl data ls                           list what is prepared
"""


@dataclass(frozen=True)
class PrepareOptions:
    """Prepares a TFDS data set from its original files. Nothing is downloaded.

    Needs TensorFlow (the prepare extra); what it writes is read without.
    """

    name: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="NAME")]
    """As TFDS spells it: mnist, fashion_mnist, cifar10, ..."""
    folder: Annotated[Path, tyro.conf.arg(name="from", metavar="FOLDER")]
    """Holds the original files under their original names, still compressed."""
    data_dir: Annotated[Path | None, tyro.conf.arg(metavar="FOLDER")] = None
    """Where to prepare; $JAXDL_DATA_DIR or ~/.cache/jaxdl when not given."""


@dataclass(frozen=True)
class ListOptions:
    """Lists the data sets that are prepared."""

    data_dir: Annotated[Path | None, tyro.conf.arg(metavar="FOLDER")] = None
    """Where to look; $JAXDL_DATA_DIR or ~/.cache/jaxdl when not given."""


def run(argv: Sequence[str]) -> int:
    """The verb.

    Args:
        argv: the words after ``data``.
    """
    if not argv or argv[0] in ("-h", "--help"):
        print(_HELP, end="")
        return 0
    if argv[0] == "prepare":
        options = tyro.cli(PrepareOptions, prog="jaxdl data prepare", args=list(argv[1:]))
        folder = data.prepare(options.name, options.folder, options.data_dir)
        print(f"{options.name} is prepared in {folder}")
        return 0
    if argv[0] != "ls":
        raise ConfigError(
            f"there is no verb 'data {argv[0]}'",
            expected="data prepare or data ls",
            do=closest(argv[0], ["prepare", "ls"]),
        )
    root = data.data_folder(tyro.cli(ListOptions, prog="jaxdl data ls", args=argv[1:]).data_dir)
    rows = prepared(root)
    if rows:
        table(rows, ["data set", "version", "splits", "size"])
    else:
        print(f"nothing is prepared in {root}")
    return 0


def prepared(root: Path) -> list[list[str]]:
    """Name, version, splits and size of each prepared data set.

    Args:
        root: the data folder.
    """
    rows: list[list[str]] = []
    for info in sorted(root.glob("*/**/dataset_info.json")):
        folder = info.parent
        content = json.loads(info.read_text())
        splits = [
            f"{split['name']} {sum(map(int, split['shardLengths'])):,}"
            for split in content.get("splits", [])
        ]
        size = sum(file.stat().st_size for file in folder.iterdir() if file.is_file())
        name = str(folder.parent.relative_to(root))
        rows.append([name, folder.name, ", ".join(splits), units.size(size)])
    return rows
