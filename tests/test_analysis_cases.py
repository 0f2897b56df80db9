"""Marked errors: they are the judge's, all of them, and they stand where the text speaks of them."""

import itertools
import re

import matplotlib
import matplotlib.pyplot as plt
import pytest

from unirg.analysis.cases import LETTERS, error_marks, error_notes, marked, panel_cases, phrases_of
from unirg.reward.findings import facts
from unirg.reward.judge import ERROR_TYPES, count_errors, find_errors

matplotlib.use("Agg")
REPORTS = [
    "Findings: The heart is enlarged. Small left-sided pleural effusion, unchanged. No pneumothorax. Impression: Cardiomegaly.",
    "Findings: Moderate right pleural effusion, increased since the prior study. Possible consolidation at the left base.",
    "Impression: 1. Pulmonary edema, severe. 2. Chest wall pacemaker on the left. 3. No pneumothorax or pleural effusion.",
    "Findings: No focal consolidation, pleural effusion, pneumothorax or acute fracture. The mediastinal silhouette is normal.",
    "Findings: Nodule in the right upper lobe. Rib fracture on the right. Comparison with the previous film: new atelectasis.",
    "Lungs are clear.",
    "?pneumonia **Impression** widened mediastinum; 2.5 cm mass ___ left lung $5",
    "",
]
PAIRS = [(prediction, reference) for prediction in REPORTS for reference in REPORTS]


def test_there_is_a_line_for_every_error_the_judge_counts():
    for prediction, reference in PAIRS:
        counts = dict.fromkeys(ERROR_TYPES, 0)
        for kind, _ in error_notes(prediction, reference):
            counts[kind] += 1
        assert counts == count_errors(prediction, reference), (prediction, reference)


def test_marks_are_of_findings_in_error_and_leave_the_text_as_it_is():
    for prediction, reference in PAIRS:
        for text, omitted in ((prediction, False), (reference, True)):
            marks = error_marks(prediction, reference, omitted)
            assert re.sub(r"\[[A-F]+: ([^\]]*)\]", r"\1", marked(text, marks)) == text
            assert all(one.end <= other.start for one, other in itertools.pairwise(marks))
            errors = find_errors(prediction, reference)
            places = {(start, end): set(findings) for start, end, findings in phrases_of(text)}
            for mark in marks:
                assert all(places[mark.start, mark.end] & set(errors[kind]) for kind in mark.kinds)


def test_every_false_finding_is_marked():
    for prediction, reference in PAIRS:
        false = set(find_errors(prediction, reference)["false_finding"])
        marks = [mark for mark in error_marks(prediction, reference) if "false_finding" in mark.kinds]
        assert bool(marks) == bool(false), (prediction, reference)


def test_a_phrase_is_found_where_the_rules_read_it():
    for text in REPORTS:
        spoken = {thing.partition(":")[0] for _, _, things in phrases_of(text) for thing in things}
        assert {fact.finding for fact in facts(text)} <= spoken


def test_what_was_left_out_is_marked_in_the_reference_and_its_side_is_said():
    reference, prediction = "Moderate left pleural effusion. Nodule in the right upper lobe.", "Moderate left pleural effusion."
    assert (
        marked(reference, error_marks(prediction, reference, True))
        == "Moderate left pleural effusion. [B: Nodule] in the right upper lobe."
    )
    assert error_notes(prediction, reference) == [("omitted_finding", "Lung Lesion: left out (right upper)")]
    ((kind, said),) = error_notes("Small left pleural effusion. Nodule in the right upper lobe.", reference)
    assert kind == "wrong_severity" and said == "Pleural Effusion: mild, reference: moderate"
    notes = dict(error_notes("The heart is borderline in size.", "The heart is moderately enlarged."))
    assert notes["wrong_severity"] == "Cardiomegaly: not stated, reference: moderate", "a side that says nothing is said to"


@pytest.mark.parametrize("film", [True, False])
def test_the_panel_shows_every_case_and_says_what_it_marked(film):
    from PIL import Image

    image = Image.new("L", (64, 64), 90) if film else None
    cases = [
        {
            "title": f"Clinic {i}",
            "study": f"s{i}",
            "image": image,
            "reference": reference,
            "predictions": {"sft": prediction, "rl2": reference},
        }
        for i, (prediction, reference) in enumerate([(REPORTS[0], REPORTS[1]), (REPORTS[6], REPORTS[2]), (REPORTS[7], REPORTS[4])])
    ]
    figure, table = panel_cases(cases)
    figure.draw_without_rendering()
    assert len(table) == 9 and table[table.who == "rl2"].errors.eq(0).all()
    sft = table[table.who == "sft"].set_index("study")
    assert sft.errors["s0"] == sum(count_errors(REPORTS[0], REPORTS[1]).values())
    assert all(letter in set(LETTERS.values()) for said in sft.judged for letter in re.findall(r"(?:^|; )([A-Z]) ", said))
    plt.close(figure)
