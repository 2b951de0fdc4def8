"""``jaxdl report`` from the command line."""

from __future__ import annotations

import sys

import pytest

from jaxdl.cli import main


def test_a_page_of_what_the_folder_holds(run_folder, parse, capsys):
    folder = run_folder()
    assert main(["report", str(folder), "--no-predictions"]) == 0
    assert f"{folder / 'report.html'}:" in capsys.readouterr().out
    page = parse((folder / "report.html").read_text(encoding="utf-8"))
    assert page.text("h1") == "Run run"
    assert "the report was made with --no-predictions" in page.text()
    assert sorted(path.name for path in folder.iterdir()) == [
        *("config.json", "metrics.jsonl", "recipe.py", "report.html", "summary.json")
    ]


def test_two_runs_and_a_file_of_ones_choice(run_folder, parse, tmp_path):
    folders = [str(run_folder(name)) for name in ("a", "b")]
    assert main(["report", *folders, "--no-predictions"]) == 0
    parse((tmp_path / "b" / "comparison.html").read_text())
    out = tmp_path / "mine.html"
    assert main(["report", *folders, "--no-predictions", "--out", str(out)]) == 0
    assert out.read_bytes() == (tmp_path / "b" / "comparison.html").read_bytes()


def test_a_model_that_cannot_be_run_is_said_and_ends_nothing(run_folder, parse, capsys):
    folder = run_folder(recipe="raise ValueError('gone')\n")
    assert main(["report", str(folder)]) == 0
    assert "warning: no predictions" in capsys.readouterr().err
    text = parse((folder / "report.html").read_text()).text()
    assert "The model could not be run over the split" in text
    assert "ValueError: gone" in text


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([], "0 runs"),
        (["a", "b", "c"], "3 runs"),
        (["a", "--mistakes", "-1"], "--mistakes -1"),
        (["a"], "a is no run folder"),
    ],
)
def test_what_cannot_be_reported_says_why(words, said, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(["report", *words]) in (1, 2)
    assert said in capsys.readouterr().err


def test_a_page_that_cannot_be_written(run_folder, capsys):
    folder = run_folder()
    assert main(["report", str(folder), "--no-predictions", "--out", "/proc/none/x.html"]) == 2
    assert "/proc/none/x.html cannot be written" in capsys.readouterr().err


def test_without_jinja_it_says_which_extra(run_folder, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "jinja2", None)
    assert main(["report", str(run_folder()), "--no-predictions"]) == 2
    assert "pip install 'jaxdl[report]'" in capsys.readouterr().err
