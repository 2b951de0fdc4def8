"""Tables of a classifier, from scores and labels of every form that objectives give."""

from __future__ import annotations

import numpy as np
import pytest

from jaxdl.reporting.blocks import Facts, Figure, Table
from jaxdl.reporting.classes import by_class, calibration, classify, confused

LABEL = np.array([0, 1, 2, 2, 1, 0])
SCORES = np.eye(3)[[0, 1, 2, 1, 1, 2]] * 4.0


def tables(section):
    return [block for block in section.blocks if isinstance(block, Table)]


def facts(section):
    (found,) = [block for block in section.blocks if isinstance(block, Facts)]
    return {name: value.replace("\xa0", " ") for name, value in found.rows}


def test_scores_become_probabilities_and_classes():
    found = classify(SCORES, {"label": LABEL}, ("a", "b", "c"))
    np.testing.assert_allclose(found.probabilities.sum(axis=1), 1)
    e = np.exp(4)
    np.testing.assert_allclose(found.probabilities.max(axis=1), e / (e + 2))
    assert found.predicted.tolist() == [0, 1, 2, 1, 1, 2]
    assert found.names == ("a", "b", "c")


def test_probabilities_are_taken_as_they_are():
    given = np.array([[0.2, 0.8], [0.5, 0.5]])
    found = classify(given, {"label": np.array([1, 0])})
    np.testing.assert_allclose(found.probabilities, given)


@pytest.mark.parametrize("shape", [(4,), (4, 1)])
def test_one_logit_is_of_class_one(shape):
    logits = np.array([-2.0, 0.0, 1e-3, 800.0], np.float32).reshape(shape)
    found = classify(logits, {"label": np.array([0, 1, 1, 1])})
    # As metrics.accuracy: above 0 is class 1.
    assert found.predicted.tolist() == [0, 0, 1, 1]
    assert found.probabilities[0, 1] == pytest.approx(1 / (1 + np.exp(2)))
    assert found.probabilities[3, 1] == 1.0


def test_masked_places_and_labels_of_no_class_do_not_count():
    scores = np.zeros((2, 3, 2))
    label = np.array([[0, 1, 1], [0, -1, 1]])
    mask = np.array([[1, 1, 0], [1, 1, 1]])
    found = classify(scores, {"label": label, "mask": mask})
    assert found.places
    assert found.rows.tolist() == [0, 0, 1, 1]
    assert found.left_out == 1


def test_rows_of_weight_zero_and_masks_of_rows_do_not_count():
    batch = {"label": LABEL, "mask": np.array([1, 1, 1, 0, 1, 1])}
    found = classify(SCORES, batch, weight=np.array([1, 0, 1, 1, 1, 1]))
    assert found.rows.tolist() == [0, 2, 4, 5]
    # A mask of something else, such as of tokens of a text, is no mask of the labels.
    assert len(classify(SCORES, {"label": LABEL, "mask": np.zeros((6, 9))}).rows) == 6


def test_outputs_that_are_not_finite_are_counted_and_left_out():
    scores = SCORES.copy()
    scores[2, 1], scores[3, 0] = np.nan, np.inf
    found = classify(scores, {"label": LABEL})
    assert found.left_out == 2
    assert found.rows.tolist() == [0, 1, 4, 5]
    assert "2 entries left out" in str(by_class(found, "test", {}).blocks)
    assert "no output is finite" in classify(np.full((6, 3), np.nan), {"label": LABEL})


@pytest.mark.parametrize(
    ("outputs", "batch", "said"),
    [
        (SCORES, {}, "no field 'label'"),
        (SCORES, {"label": LABEL * 1.5}, "quantities"),
        ((SCORES, SCORES), {"label": LABEL}, "no single array"),
        (None, {"label": LABEL}, "no single array"),
        (SCORES[:, 0], {"label": LABEL}, "single numbers"),
        (SCORES, {"label": LABEL.reshape(3, 2)}, "[6, 3] do not go with"),
    ],
)
def test_what_is_no_classifier_says_why(outputs, batch, said):
    assert said in classify(outputs, batch)


def test_a_dict_of_outputs_may_hold_logits():
    assert classify({"logits": SCORES, "other": 1}, {"label": LABEL}).predicted[0] == 0


def test_accuracy_classes_and_slices():
    found = classify(SCORES, {"label": LABEL}, ("a", "b", "c"))
    fields = {"label": LABEL, "night": np.array([1, 1, 1, 0, 0, 0]), "id": np.arange(6) * 1.5}
    section = by_class(found, "test", fields)
    assert facts(section)["Accuracy"] == "66.7 %"
    assert facts(section)["Wrong"] == "2"
    by_name, night = tables(section)
    assert [cell.replace("\xa0", " ") for cell in by_name.rows[1]] == [
        *("b", "66.7 %", "100.0 %", "80.0 %", "2", "3")
    ]
    assert [[c.replace("\xa0", " ") for c in row] for row in night.rows] == [
        ["0", "3", "33.3 %"],
        ["1", "3", "100.0 %"],
    ]


def test_the_matrix_counts_and_heats_by_row():
    matrix, pairs = tables(confused(classify(SCORES, {"label": LABEL}, ("a", "b", "c"))))
    assert [list(row) for row in matrix.rows] == [
        ["a", "1", "", "1"],
        ["b", "", "2", ""],
        ["c", "", "1", "1"],
    ]
    assert matrix.heat == [[5, 0, 5], [0, 10, 0], [0, 5, 5]]
    assert [row[0] for row in pairs.rows] == ["a taken for c", "c taken for b"]
    assert [row[1] for row in pairs.rows] == ["1", "1"]


def test_many_classes_are_told_by_their_worst():
    rng = np.random.default_rng(0)
    label = rng.integers(0, 1000, 4000)
    said = np.where(rng.random(4000) < 0.5, label, (label + 1) % 1000)
    scores = np.zeros((4000, 1000), np.float32)
    scores[np.arange(4000), said] = 9
    found = classify(scores, {"label": label})
    (classes,) = tables(by_class(found, "test", {}))
    assert len(classes.rows) == 40
    assert "The 40 classes of the lowest F1" in classes.caption
    (pairs,) = tables(confused(found))
    assert len(pairs.rows) == 30
    counts = [int(row[1]) for row in pairs.rows]
    assert counts == sorted(counts, reverse=True)
    off = np.bincount(label[said != label], minlength=1000)
    assert counts[0] == off.max()


def test_a_vocabulary_of_classes_needs_no_table_of_their_squares():
    rng = np.random.default_rng(0)
    label = rng.integers(0, 60_000, 20)
    scores = np.zeros((20, 60_000), np.float32)
    scores[np.arange(20), np.where(np.arange(20) < 5, 7, label)] = 20
    found = classify(scores, {"label": label})
    assert "no table" in str(by_class(found, "test", {}).blocks)
    (pairs,) = tables(confused(found))
    assert len(pairs.rows) == 5
    assert pairs.rows[0][0].endswith("taken for 7")
    assert "Brier score" not in facts(calibration(found))


def test_calibration_says_on_which_side_it_errs():
    # Always 88 % sure, and right in 3 of 4.
    scores = np.tile([[2.0, 0.0]], (4, 1))
    section = calibration(classify(scores, {"label": np.array([0, 0, 0, 1])}))
    chance = 1 / (1 + np.exp(-2))
    assert facts(section)["Calibration error"] == f"{100 * (chance - 0.75):.1f} %"
    (figure,) = [block for block in section.blocks if isinstance(block, Figure)]
    alt = figure.alt.replace("\xa0", " ")
    assert "more sure than right" in alt
    assert "of 4 with confidence 88.1 %, 75.0 % are right" in alt


def test_one_row_has_no_interval():
    found = classify(SCORES[:1], {"label": LABEL[:1]})
    assert "95 % interval" not in facts(by_class(found, "test", {}))
