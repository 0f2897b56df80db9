"""Scores: what a judge by language model adds to them."""

import json

import pandas as pd
import pyarrow.parquet as pq
import pytest

from unirg.analysis.scoring import read_scores, save_scores, score_predictions
from unirg.reward.composite import MEASURES
from unirg.reward.judge import ERROR_TYPES, count_errors
from unirg.reward.metrics import bleu2

STUDIES = [
    {"source": "toy", "study_id": f"s{i}", "patient_id": f"p{i}", "findings": text, "impression": None}
    for i, text in enumerate(["Left pleural effusion.", "No effusion.", "Cardiomegaly."])
]


class Judge:
    "Counts by rule and cannot tell about one text."

    model = "a-model"

    def __call__(self, predictions, references):
        return [None if text == "Cardiomegaly." else count_errors(text, other) for text, other in zip(predictions, references)]


def test_a_judge_has_columns_of_its_own_and_what_it_could_not_tell_is_missing(tmp_path):
    predictions = {"s0": "No effusion.", "s1": "Left pleural effusion. Cardiomegaly.", "s2": "Cardiomegaly."}
    table = score_predictions(predictions, STUDIES, system="toy-s1", judges={"far": Judge()})
    counted = [count_errors(predictions[study["study_id"]], study["findings"]) for study in STUDIES[:2]]
    assert table["errors_far"][:2].tolist() == [sum(errors.values()) for errors in counted]
    assert [table[f"far:{name}"][0] for name in ERROR_TYPES] == list(counted[0].values())
    assert pd.isna(table["errors_far"][2]) and table.loc[2, [f"far:{name}" for name in ERROR_TYPES]].isna().all()
    save_scores(table, tmp_path / "toy-s1" / "toy.parquet")
    said = json.loads(pq.read_schema(tmp_path / "toy-s1" / "toy.parquet").metadata[b"unirg.measures"])
    assert "a-model" in said["errors_far"] and set(said) <= {"errors_far", "findings:bleu2", *MEASURES}
    back = read_scores(tmp_path)
    assert back["errors_far"].dropna().tolist() == table["errors_far"].dropna().tolist()
    assert back["errors_far"].mean() == pytest.approx(table["errors_far"][:2].mean())


@pytest.mark.parametrize(
    ("prediction", "wanted"),
    [
        ("Findings: The lungs are clear.", 1.0),
        ("The lungs are clear.", 1.0),
        ("Findings: The lungs are clear. Impression: Normal.", 1.0),
        ("Findings: Edema", 0.0),
        ("Impression: The lungs are clear.", 0.0),
        ("Findings: The lungs are hazy.", bleu2("The lungs are hazy.", "The lungs are clear.")),
    ],
)
def test_the_header_of_findings_counts_for_nothing_on_the_board(prediction, wanted):
    studies = [{"source": "toy", "study_id": "a", "patient_id": "p", "findings": "The lungs are clear.", "impression": None}]
    table = score_predictions({"a": prediction}, studies, "findings")
    assert table["findings:bleu2"][0] == pytest.approx(wanted) and "findings:rouge_l" not in table


def test_without_a_judge_nothing_is_added():
    table = score_predictions({"s0": "No effusion."}, STUDIES)
    assert not [name for name in table if name.startswith("errors_")]


@pytest.mark.parametrize("silent", ["None.", "N/A", "___", "nan", " . "])
def test_a_study_whose_reference_says_nothing_is_counted_and_not_scored(silent):
    studies = [*STUDIES, {"source": "toy", "study_id": "s9", "patient_id": "p9", "findings": silent, "impression": None}]
    texts = {study["study_id"]: "No effusion." for study in studies}
    table = score_predictions(texts, studies)
    assert list(table.study_id) == ["s0", "s1", "s2"] and table.attrs["without_reference"] == 1
    studies[-1]["impression"] = "No effusion."
    both = score_predictions(texts, studies, "findings_impression").set_index("study_id")
    assert ("s9" in both.index) == (silent != "nan")  # the word of an empty cell spoils the whole
    assert silent == "nan" or both.loc["s9", ["findings:bleu2"]].isna().all()
