"The rule judge, type by type."

import pytest

from unirg.reward.findings import EXTRA_NAMES
from unirg.reward.judge import (
    ERROR_TYPES,
    UNREAD,
    compares,
    count_errors,
    find_errors,
    judged_errors,
    thing_name,
    urgency_term,
    urgent_errors,
)
from unirg.reward.metrics import fact_f1, label_cosine

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
        ("Left pleural effusion has improved.", "Left pleural effusion has worsened.", {"false_comparison": 1, "omitted_comparison": 1}),
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


def errors(prediction: str, reference: str) -> int:
    return judged_errors(count_errors(prediction, reference))


# J1: left and right are compared each with its own
@pytest.mark.parametrize(
    ("reference", "exchanged"),
    [
        ("Small left and large right pleural effusions.", "Large left and small right pleural effusions."),
        ("Mild right and severe left atelectasis.", "Severe right and mild left atelectasis."),
        ("Large right pneumothorax. Small left pneumothorax.", "Small right pneumothorax. Large left pneumothorax."),
        ("Right upper lobe nodule. Left lower lobe nodule.", "Right lower lobe nodule. Left upper lobe nodule."),
        ("4 mm right nodule. 2 cm left nodule.", "2 cm right nodule. 4 mm left nodule."),
        ("Left effusion has increased. Right effusion has decreased.", "Left effusion has decreased. Right effusion has increased."),
    ],
)
def test_what_left_and_right_have_is_not_pooled(reference, exchanged):
    assert errors(reference, reference) == 0 < errors(exchanged, reference)
    assert fact_f1(exchanged, reference) < 0.8


# J2: a device is its kind and its place
@pytest.mark.parametrize(
    ("reference", "other"),
    [
        ("A right PICC is in place.", "An endotracheal tube is in place."),
        ("A nasogastric tube is seen.", "A tracheostomy tube is seen."),
        ("Left chest tube is present.", "Left pacemaker is present."),
        ("A port catheter is in place.", "A dialysis catheter is in place."),
        ("Sternotomy wires are intact.", "A prosthetic valve is seen."),
        ("Endotracheal tube in standard position.", "Endotracheal tube in the right mainstem bronchus."),
    ],
)
def test_one_device_is_not_another(reference, other):
    assert errors(other, reference) > 0 == errors(reference, reference) and fact_f1(other, reference) < 0.9


def test_a_device_of_no_kind_may_be_any():
    assert errors("A tube is in place.", "An endotracheal tube is in place.") == 0
    assert fact_f1("A tube is in place.", "An endotracheal tube is in place.") < 1


# J3: figures
@pytest.mark.parametrize(
    ("prediction", "reference", "wrong"),
    [
        ("5 cm left nodule.", "5 mm left nodule.", True),
        ("1.1 cm left nodule.", "1 cm left nodule.", False),
        ("3 x 4 cm right mass.", "4 cm right mass.", False),
        ("9 mm left nodule.", "Left nodule.", True),
        ("Left nodule.", "9 mm left nodule.", True),
        ("Left nodule of 12 mm.", "Left nodule measuring 1.2 cm.", False),
        ("Endotracheal tube 9 cm above the carina.", "Endotracheal tube 4 cm above the carina.", True),
        ("Endotracheal tube in place.", "Endotracheal tube 4 cm above the carina.", False),
    ],
)
def test_figures_are_compared(prediction, reference, wrong):
    assert (count_errors(prediction, reference)["wrong_severity"] == 1) is wrong
    assert (fact_f1(prediction, reference) < 1) is (wrong or prediction == "Endotracheal tube in place.")


# J4: what is stated and denied
@pytest.mark.parametrize(
    ("reference", "denial"),
    [
        ("Small right apical pneumothorax.", "There is in fact no pneumothorax."),
        ("Cardiomegaly. No effusion.", "The heart is not enlarged."),
        ("Left lower lobe consolidation.", "No consolidation is seen."),
        ("Small left effusion.", "Neither side has a pleural effusion."),
        ("Borderline cardiomegaly.", "There is no cardiomegaly."),
        ("Free air under the diaphragm.", "No free air."),
    ],
)
def test_a_contradiction_is_an_error_and_earns_nothing(reference, denial):
    text = f"{reference} {denial}"
    assert errors(text, reference) >= 1 and errors(text, text) == 0
    assert fact_f1(text, reference) < 0.6 and fact_f1(text, text) == pytest.approx(1)
    assert label_cosine(text, reference) < 1 or "air" in reference


@pytest.mark.parametrize(
    "text",
    [
        "Small right effusion. No left effusion.",
        "The effusion has resolved. No residual effusion.",
        "No pneumothorax. Small left pleural effusion. No edema.",
        "Left chest tube in place. No endotracheal tube.",
        "Right upper lobe nodule. No left nodule.",
    ],
)
def test_what_does_not_contradict_itself(text):
    assert not count_errors(text, text)["omitted_finding"] and fact_f1(text, text) == pytest.approx(1)
    reference = text.split(". ")[0] + "."
    assert not count_errors(text, reference)["omitted_finding"]


# J5: findings outside the thirteen
@pytest.mark.parametrize(
    ("stated", "denied"),
    [
        ("There is free air beneath the diaphragm.", "There is no free air."),
        ("Pneumomediastinum is seen.", "No pneumomediastinum."),
        ("Emphysema of both lungs.", "No emphysema."),
        ("Hiatal hernia.", "No hiatal hernia."),
        ("The mediastinum is shifted to the right.", "No mediastinal shift."),
        ("Subcutaneous emphysema of the left chest wall.", "No subcutaneous emphysema."),
    ],
)
def test_what_stands_outside_the_thirteen_is_judged(stated, denied):
    normal = "No effusion. No pneumothorax. "
    assert errors(normal + denied, normal + stated) >= 1 and errors(normal + stated, normal + denied) >= 1
    assert fact_f1(normal + denied, normal + stated) < 0.6
    assert errors(normal + stated, normal + stated) == 0


# J6: urgency
def test_errors_can_be_weighed_by_urgency():
    normal = "The heart is normal. The lungs are clear. No effusion or pneumothorax."
    worst = urgent_errors("Large left pneumothorax.", normal)
    for slight in ("Possible tiny left effusion.", "Mild cardiomegaly.", "Mild left atelectasis.", "Hiatal hernia.", "Possible edema."):
        assert 0 < urgent_errors(slight, normal) <= worst / 2
        assert urgency_term(slight, normal) > urgency_term("Large left pneumothorax.", normal)
    assert urgency_term(normal, normal) == 1 and urgent_errors("Edema.", normal, {"edema": 3.0}) == 3.0


# J7: a change the other way round is worse than none
@pytest.mark.parametrize("thing", ["Left effusion", "Pulmonary edema", "Right pneumothorax", "The consolidation", "Left atelectasis"])
@pytest.mark.parametrize(("true", "opposite"), [("increased", "decreased"), ("improved", "worsened"), ("worsened", "resolved")])
def test_silence_about_a_change_never_costs_more_than_its_opposite(thing, true, opposite):
    reference, silent, wrong = f"{thing} has {true}.", f"{thing} is seen.", f"{thing} has {opposite}."
    assert errors(wrong, reference) > errors(silent, reference) > 0
    assert fact_f1(wrong, reference) < fact_f1(silent, reference) < 1


# what no rule reads
@pytest.mark.parametrize(
    "lie",
    [
        "The left lung has come away from the chest wall.",
        "A good deal of water has gathered below the right lung.",
        "Both lungs are crowded with pus and germs.",
        "The bellows on the right side have gone flat.",
        "The lung has fallen together and lies at the root like a fist.",
    ],
)
def test_what_no_rule_reads_costs_like_a_false_finding(lie):
    reference = "Small left pleural effusion. Mild cardiomegaly. No pneumothorax."
    text = f"{reference} {lie}"
    assert count_errors(text, reference)["false_finding"] == 1 and UNREAD in find_errors(text, reference)["false_finding"]
    assert fact_f1(text, reference) < 0.9 and errors(text, text) == 0
    assert errors(f"{reference} {lie}", f"{lie} {reference}") == 0  # the reference's own words


def test_things_have_names_a_person_knows():
    assert thing_name("support_devices:endotracheal_tube") == "Support Devices (endotracheal tube)"
    assert thing_name("free_air") == EXTRA_NAMES["free_air"] and "no rule" in thing_name(UNREAD) and thing_name("report") == "The report"
