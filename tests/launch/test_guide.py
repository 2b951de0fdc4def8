"""Every command of docs/launch.md is one that the scripts take, and its figures are the table's."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

TEXT = (Path(__file__).resolve().parents[2] / "docs" / "launch.md").read_text()
BLOCKS = re.findall(r"```\n(.*?)```", TEXT, flags=re.DOTALL)
COMMANDS = [
    shlex.split(line)
    for block in BLOCKS
    for line in block.splitlines()
    if line.strip().startswith("tpu/")
]


def test_commands_are_taken(cloud):
    assert len(COMMANDS) > 20
    cloud.environment["WANDB_API_KEY"] = "x"
    # What create remembers, the later lines of the guide do not repeat.
    shape = ["--slice", "v5e-8", "--zone", "us-west4-a"]
    for path, verb, name, *rest in COMMANDS:
        known = shape if path == "tpu/vm.sh" and "--slice" not in rest else []
        cloud.run(path.removeprefix("tpu/"), verb, name, "--dry-run", *known, *rest)
    assert not cloud.calls


def test_figures_are_the_tables(cloud):
    for name, extra in (
        ("v5e-8", []),
        ("v5e-8", ["--spot"]),
        ("v5e-256", []),
        ("v5e-256", ["--spot"]),
    ):
        done = cloud.run("vm.sh", "cost", "x", "--slice", name, "--zone", "us-west4-a", *extra)
        price = re.search(r"about (\$[\d.]+) an hour", done.stderr)
        assert price
        assert price[1] in TEXT


def test_it_says_what_was_tested():
    assert "never against the cloud" in TEXT
