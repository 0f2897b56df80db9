"The paper's prompts, word for word as its supplement has them, and what decides which one is asked."

import json

import pytest

from unirg.core import StudyError
from unirg.data.reports import PROMPT_TEMPLATES, asked_for, context_of, context_text, prompt_parts, prompt_text

STUDY = {
    "findings": "The lungs are clear.",
    "impression": "Normal.",
    "indication": "Cough  and\nfever.",
    "comparison": "Radiograph of the day before.",
    "age": 67,
    "sex": "F",
}
BOTH = (
    "This is a radiology report generation task. Here is the context: {input} Given the image and the context, provide the report in the "
    "following format: Findings: [write the findings] Impression: [write the impression] Now write the report in the format above."
)
FINDINGS = (
    "This is a radiology report generation task. Here is the context: {input} Given the image and the context, provide the findings in the "
    "following format: Findings: [write the findings] Now write the report in the format above."
)
IMPRESSION = FINDINGS.replace("findings", "impression").replace("Findings", "Impression")
CONTEXT = "Indication: Cough and fever. Comparison: Radiograph of the day before."


@pytest.mark.parametrize(
    "study, target_sections, words",
    [
        (STUDY, "findings_impression", BOTH),
        (STUDY, "findings", FINDINGS),
        (STUDY, "impression", IMPRESSION),
        (STUDY | {"impression": None}, "findings_impression", FINDINGS),
        (STUDY | {"impression": "  "}, "findings_impression", FINDINGS),
        (STUDY | {"findings": None}, "findings_impression", IMPRESSION),
        (STUDY | {"findings": None}, "findings", IMPRESSION),
        (STUDY | {"findings": None, "impression": None}, "findings_impression", BOTH),  # no reference: all that is wanted
        (STUDY | {"findings": None, "impression": None}, "findings", FINDINGS),
    ],
)
def test_the_prompt_follows_the_sections_of_the_reference(study, target_sections, words):
    assert prompt_text(study, target_sections, prompt_template="paper") == words.replace("{input}", CONTEXT)


@pytest.mark.parametrize(
    "study, context",
    [
        (STUDY, f"Age:60-70. Gender:F. {CONTEXT}"),
        (STUDY | {"age": None}, f"Gender:F. {CONTEXT}"),
        (STUDY | {"sex": None}, f"Age:60-70. {CONTEXT}"),
        (STUDY | {"age": 0, "sex": "M"}, f"Age:0-10. Gender:M. {CONTEXT}"),
        (STUDY | {"age": 91}, f"Age:90-100. Gender:F. {CONTEXT}"),
        ({"findings": "Clear.", "impression": "Normal."}, "Indication: None. Comparison: None."),
        (STUDY | {"comparison": None}, "Age:60-70. Gender:F. Indication: Cough and fever. Comparison: None."),
    ],
)
def test_age_band_and_sex_stand_in_front_where_the_wording_has_them_and_they_are_known(study, context):
    assert prompt_text(study, prompt_template="paper_rexrank") == BOTH.replace("{input}", context)


@pytest.mark.parametrize("prompt_template", ["brief", "short", "full", "paper"])
def test_no_other_wording_tells_age_or_sex(prompt_template):
    other = STUDY | {"age": 21, "sex": "M"}
    assert prompt_text(STUDY, prompt_template=prompt_template) == prompt_text(other, prompt_template=prompt_template)


def test_a_prior_is_told_within_the_context_and_its_film_comes_second():
    parts = prompt_parts(STUDY, prior={"impression": "Small effusion."}, prompt_template="paper")
    assert [said for kind, said in parts if kind == "image"] == ["current", "prior"]
    words = parts[-1][1]
    assert words.index(CONTEXT) < words.index("Its report: Impression: Small effusion.") < words.index("Given the image")
    assert "No earlier study of this patient is available." in prompt_text(STUDY, prior=None, prompt_template="paper")


@pytest.mark.parametrize(
    "said", ["a cough {what} {form} {}", "[write the impression] {input}", "50 % {", "} {indication}", "after {form}, {what}"]
)
def test_braces_in_a_study_are_its_own(said):
    assert f"Indication: {said} Comparison" in prompt_text(STUDY | {"indication": said}, prompt_template="paper")


def test_a_wording_of_ones_own_can_have_every_part_of_the_papers():
    own = json.dumps({"inherits": "paper", "age": "Alter {}:", "join": "\n", "ask": "{what}|{form}|{}"})
    assert prompt_text(STUDY, prompt_template=own).splitlines()[1] == "Alter 60-70:"
    assert prompt_text(STUDY, prompt_template=own).endswith(
        "report|Findings: [write the findings] Impression: [write the impression]|findings and impression"
    )
    with pytest.raises(StudyError, match="no part 'gender'"):
        prompt_text(STUDY, prompt_template=json.dumps({"inherits": "paper", "gender": "{}"}))
    assert all(set(words) == set(PROMPT_TEMPLATES["brief"]) for words in PROMPT_TEMPLATES.values()), "every wording has every part"


def test_what_a_person_would_check_by_eye():
    assert asked_for({"ask": "Write {}."}, ["findings"]) == "Write findings."
    assert context_of(STUDY, "indication") == "Cough and fever." and context_text({}, "sex") is None
