"The rule judge, type by type."

import pytest

from unirg.reward.judge import ERROR_TYPES, compares, count_errors, judged_errors

REFERENCE = "Small left pleural effusion. Mild cardiomegaly. No pneumothorax."


@pytest.mark.parametrize(
    ("prediction", "reference", "expected"),
    [
        (REFERENCE, REFERENCE, {}),
        (REFERENCE + " Left lower lobe consolidation.", REFERENCE, {"false_finding": 1}),
        (REFERENCE.replace("No", "Possible"), REFERENCE, {"false_finding": 1}),
        ("Small left pleural effusion. No pneumothorax.", REFERENCE, {"omitted_finding": 1}),
        ("No pleural effusion. Mild cardiomegaly. No pneumothorax.", REFERENCE, {"omitted_finding": 1}),
        (REFERENCE.replace("left", "right"), REFERENCE, {"wrong_location": 1}),
        (REFERENCE.replace("left", "bilateral"), REFERENCE, {"wrong_location": 1}),
        (REFERENCE.replace("left ", ""), REFERENCE, {}),
        ("Right upper lobe consolidation.", "Right lower lobe consolidation.", {"wrong_location": 1}),
        (REFERENCE.replace("Small", "Large"), REFERENCE, {"wrong_severity": 1}),
        (REFERENCE.replace("Small left", "Left"), REFERENCE, {"wrong_severity": 1}),
        (REFERENCE, REFERENCE.replace("Small left", "Left"), {}),
        (REFERENCE.replace("Small", "Unchanged small"), REFERENCE, {"false_comparison": 1}),
        (REFERENCE, REFERENCE.replace("Small", "Unchanged small"), {"omitted_comparison": 1}),
        ("Left pleural effusion has improved.", "Left pleural effusion has worsened.", {"false_comparison": 1}),
        ("Compared with the prior study, no effusion.", "No effusion.", {"false_comparison": 1}),
        ("No effusion.", "Compared with the prior study, no effusion.", {"omitted_comparison": 1}),
        ("No prior study for comparison. No effusion.", "No effusion.", {}),
        ("Small left pleural effusion. Impression: Left pleural effusion. Mild cardiomegaly.", REFERENCE, {}),
        ("", REFERENCE, {"omitted_finding": 2}),
        ("", "No effusion.", {"omitted_finding": 1}),
        ("", "", {}),
    ],
)
def test_one_change_one_error(prediction, reference, expected):
    errors = count_errors(prediction, reference)
    assert {kind: n for kind, n in errors.items() if n} == expected
    assert judged_errors(errors) == sum(expected.values())


def test_every_type_is_always_counted():
    assert list(count_errors("", "")) == list(ERROR_TYPES)
    with pytest.raises(KeyError):
        judged_errors({"false_finding": 1})


def test_a_false_or_omitted_finding_is_not_counted_again_for_its_change():
    assert judged_errors(count_errors("New cardiomegaly.", "Stable left pleural effusion.")) == 2


def test_what_is_a_comparison():
    assert compares("There has been no significant change.") and compares("Interval removal of the tube.")
    assert not compares("Increased interstitial markings. Comparison: None.") and not compares("")
