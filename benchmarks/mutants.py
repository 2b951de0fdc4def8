"""Mutants of the step, the gradients, placement and metrics: how many do the default tests catch?

Each mutant is one small change to the source: a sign, a bound, a constant, a call left out, a
branch turned round. Which ones are tried follows from the seed. A mutant is caught when a default
test fails, hangs or dies, and survives otherwise. Only the tests of ``STAGES`` are run, nearest
first, so the share is a lower bound of that of the whole suite. Docstrings, annotations and the
texts of errors are not mutated.

    python benchmarks/mutants.py --count 96 --seed 0 --jobs 2
    python benchmarks/mutants.py --only metrics --list

Everything runs in temporary copies of the tree; the tree itself is only read.
"""

from __future__ import annotations

import argparse
import json
import os
import queue
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path

from mutations import Mutant, mutants_of

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("step", "gradients", "placement", "metrics")
DOCTESTS = "architecture/test_doctests.py"
PLACED = ("placement/test_jit.py", "placement/test_pmap.py", "placement/test_equivalence.py")
STAGES = {
    "step": (
        ("step",),
        ("gradients", "evaluation", "objectives/test_supervised.py", *PLACED, DOCTESTS),
    ),
    "gradients": (("gradients",), ("step", "objectives/test_precision.py", *PLACED, DOCTESTS)),
    "placement": (("placement",), ("step", "evaluation", "loop")),
    "metrics": (
        ("metrics",),
        ("objectives/test_ctc.py", "evaluation", "losses", "step", "hooks", DOCTESTS),
    ),
}
"""Below ``tests``: what is run for a mutant of a package, until a test fails."""

LONG = ("test_collectives", "test_equivalence", "test_layouts_equivalence", "test_reproducible")
"""The last of their stage."""

LEFT_OUT = (".git", ".venv", "__pycache__", "site", "runs", ".hypothesis", ".*_cache", "dist")

EQUIVALENT = {
    "jaxdl/step/train.py::_check_options: wrong and expected -> wrong or expected": (
        "both are set together or neither is"
    ),
    "jaxdl/gradients/scaled.py::_Bounds: 2.0 ** 24 -> 2.0 ** 25": (
        "a default that is never used: scaled() passes every bound"
    ),
    "jaxdl/placement/exporting.py::export_program: "
    "json.dumps(manifest, indent=1) -> json.dumps(manifest, indent=0)": (
        "white space between the tokens of JSON"
    ),
    "jaxdl/placement/exporting.py::_described: "
    "zip(leaf_paths(tree), jax.tree.leaves(tree), strict=True) -> "
    "zip(leaf_paths(tree), jax.tree.leaves(tree), strict=False)": (
        "a tree has as many paths as leaves"
    ),
}
"""Mutants that nobody could tell from the original, with the reason. They count neither way."""


CACHE = """

@pytest.fixture(scope="session", autouse=True)
def compile_cache() -> None:
    jax.config.update("jax_compilation_cache_dir", {folder!r})
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.1)
"""
FLAGS = ("-x", "-q", "-n", "0", "--no-header", "-p", "no:cacheprovider", "--timeout", "300")
TOO_LONG = 1000
ENDS = {TOO_LONG: "the limit of time", 2: "collection", 3: "collection", 4: "the import of jaxdl"}


@dataclass
class Outcome:
    """What became of a mutant."""

    mutant: str
    package: str
    place: str
    change: str
    kind: str
    caught: bool
    by: str
    seconds: float


class Tree:
    """A copy of the repository to mutate, with a compile cache that outlives its runs."""

    def __init__(self, folder: Path, limit: float):
        self.path, self.limit = folder / "tree", limit
        self.cache = folder / "compiled"
        shutil.copytree(ROOT, self.path, ignore=shutil.ignore_patterns(*LEFT_OUT), symlinks=True)
        # One cache for all mutants: most of their programs are the original's.
        with (self.path / "tests/conftest.py").open("a") as file:
            file.write(CACHE.format(folder=str(self.cache)))
        self._clock = int(time.time())
        self._environment = {
            **os.environ,
            "PYTHONPATH": str(self.path),
            "PYTHONDONTWRITEBYTECODE": "",
        }
        done = self._run("-c", "import jaxdl; print(jaxdl.__file__)")
        if not done[1].startswith(str(self.path)):
            raise SystemExit(f"tests would not import the copy, but {done[1]}")

    def stages(self, package: str, stem: str) -> list[list[str]]:
        """Files of tests in the order they are run; those named after the module come first."""
        seen: set[str] = set()
        stages: list[list[str]] = []
        for stage in STAGES[package]:
            found: list[Path] = []
            for name in stage:
                place = self.path / "tests" / name
                files = [place] if place.is_file() else sorted(place.rglob("test_*.py"))
                found += sorted(files, key=lambda path: (stem not in path.stem, path.stem in LONG))
            names = [str(path.relative_to(self.path)) for path in found]
            stages.append([name for name in names if name not in seen])
            seen.update(names)
        return stages

    def killer(self, package: str, stem: str) -> str | None:
        """The first test that fails, or how the run died; ``None`` when all pass."""
        stages = self.stages(package, stem)
        return next((by for files in stages if files and (by := self.failing(files))), None)

    def failing(self, tests: list[str]) -> str | None:
        """The first of these tests that fails."""
        code, text = self._run("-m", "pytest", *FLAGS, *tests)
        failed = re.search(r"^(?:FAILED|ERROR) (.+?)(?: - .*)?$", text, flags=re.MULTILINE)
        if not code:
            return None
        return failed[1] if failed and code > 0 else ENDS.get(code, f"exit {code}")

    def try_one(self, mutant: Mutant) -> Outcome:
        """Runs the tests with the mutant in place of the original, which is put back."""
        file = self.path / mutant.file
        original = file.read_bytes()
        start = time.monotonic()
        try:
            self._write(file, mutant.applied(original))
            by = self.killer(mutant.package, file.stem)
        finally:
            self._write(file, original)
        return Outcome(
            mutant.id, mutant.package, f"{mutant.file}:{mutant.line}",
            f"{mutant.before} -> {mutant.after}", mutant.kind,
            by is not None, by or "SURVIVED", round(time.monotonic() - start, 1),
        )  # fmt: skip

    def _write(self, file: Path, content: bytes) -> None:
        file.write_bytes(content)
        # Bytecode is kept by size and second: each version gets a second of its own.
        self._clock += 1
        os.utime(file, (self._clock, self._clock))

    def _run(self, *args: str) -> tuple[int, str]:
        command = [sys.executable, *args]
        process = subprocess.Popen(
            command, cwd=self.path, env=self._environment, text=True, start_new_session=True,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        )  # fmt: skip
        try:
            text, _ = process.communicate(timeout=self.limit)
        except subprocess.TimeoutExpired:
            return TOO_LONG, ""
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
                process.communicate()
        return process.returncode, text


def sample(count: int, seed: int, packages: tuple[str, ...]) -> list[Mutant]:
    """As many mutants of each package, of each kind in turn; no mutant twice."""
    chosen: list[Mutant] = []
    for place, package in enumerate(PACKAGES):
        if package not in packages:
            continue
        rng = random.Random(f"{seed} {package}")
        kinds: dict[str, list[Mutant]] = {}
        for file in sorted((ROOT / "jaxdl" / package).rglob("*.py")):
            for mutant in mutants_of(file, ROOT):
                kinds.setdefault(mutant.kind, []).append(mutant)
        wanted = count // len(PACKAGES) + (place < count % len(PACKAGES))
        for each in kinds.values():
            rng.shuffle(each)
        while wanted and any(kinds.values()):
            for each in [kinds[kind] for kind in sorted(kinds) if kinds[kind]][:wanted]:
                chosen.append(each.pop())
                wanted -= 1
    return chosen


def run(mutants: list[Mutant], jobs: int, limit: float, log: Path | None) -> list[Outcome]:
    """Tries all that the log does not know. The tests that failed must pass on the original."""
    lines = log.read_text().splitlines() if log is not None and log.exists() else []
    done = [Outcome(**json.loads(line)) for line in lines]
    known = [outcome for outcome in done if outcome.mutant in {each.id for each in mutants}]
    mutants = [each for each in mutants if each.id not in {outcome.mutant for outcome in known}]
    with tempfile.TemporaryDirectory(prefix="mutants-") as folder:
        trees: queue.Queue[Tree] = queue.Queue()
        for index in range(jobs):
            trees.put(Tree(Path(folder) / str(index), limit))

        def try_one(mutant: Mutant) -> Outcome:
            tree = trees.get()
            try:
                outcome = tree.try_one(mutant)
            finally:
                trees.put(tree)
            print(row(outcome), flush=True)
            if log is not None:
                with log.open("a") as file:
                    file.write(json.dumps(asdict(outcome)) + "\n")
            return outcome

        with ThreadPoolExecutor(jobs) as pool:
            outcomes = known + list(pool.map(try_one, mutants))
        tests = sorted({outcome.by for outcome in outcomes if "::" in outcome.by})
        if tests and (failed := trees.get().failing(tests)):
            raise SystemExit(f"the original fails too: {failed}")
        return outcomes


def row(outcome: Outcome) -> str:
    """One line of the table."""
    return f"{outcome.seconds:6.1f} s  {outcome.place}  {outcome.change}\n{'':10}{outcome.by}"


def summary(outcomes: list[Outcome], equivalent: int) -> str:
    """Shares by package."""
    lines = []
    caught = Counter(outcome.package for outcome in outcomes if outcome.caught)
    total = Counter(outcome.package for outcome in outcomes)
    for package in PACKAGES:
        if total[package]:
            share = caught[package] / total[package]
            lines.append(f"{package:10} {caught[package]:3} of {total[package]:3}  {share:5.0%}")
    share = caught.total() / max(total.total(), 1)
    lines.append(f"{'all':10} {caught.total():3} of {total.total():3}  {share:5.0%}")
    return "\n".join([*lines, f"left out as equivalent: {equivalent}"])


def main() -> None:
    """Prints the table and the shares."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--count", type=int, default=96)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", choices=PACKAGES, default=None, help="mutants of one package")
    parser.add_argument("--match", default="", help="of these, those whose name has this text")
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--limit", type=float, default=1200.0, help="seconds for a stage of tests")
    parser.add_argument(
        "--json", type=Path, default=None, help="one line a mutant; what it knows is not run"
    )
    parser.add_argument("--list", action="store_true", help="print the mutants and run nothing")
    options = parser.parse_args()
    packages = (options.only,) if options.only else PACKAGES
    found = sample(options.count, options.seed, packages)
    found = [mutant for mutant in found if options.match in mutant.id]
    kept = [mutant for mutant in found if mutant.id not in EQUIVALENT]
    if options.list:
        for mutant in found:
            print(f"{mutant.line:4} {mutant.kind:10} {mutant.id}")
            if mutant.id in EQUIVALENT:
                print(f"{'':16}equivalent: {EQUIVALENT[mutant.id]}")
        return
    outcomes = run(kept, options.jobs, options.limit, options.json)
    print("\n" + summary(outcomes, len(found) - len(kept)))


if __name__ == "__main__":
    main()
