"Reports of every shape: nothing lost, the right section for each sentence, targets and prompts by the stated rules."

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from unirg.core import StudyError
from unirg.data.reports import SECTION_NAMES, SECTION_OF, clean, pieces, prompt_text, sections, target_text, wanted_sections, wording_of

WORDS = st.sampled_from(
    [*(n.upper() + ":" for n in SECTION_OF), "Findings:", "Impression:", "\n", "\n ", " ", "\n\n"]
    + ["\n ______________\n", "normal.", "lungs", "A:"]
)


@settings(max_examples=150, deadline=None)
@given(st.one_of(st.text(max_size=200), st.lists(WORDS, max_size=30).map("".join)), st.sampled_from(["plain", "mimic_cxr"]))
def test_no_text_is_lost(text, grammar):
    cut = pieces(text, grammar)
    assert "".join(p.header + p.body for p in cut) == text
    assert {p.section for p in cut} <= {*SECTION_NAMES, "last_paragraph"}
    found = sections(text, grammar)
    # every character of a body that is not a blank is in exactly one section
    line_ends = text.replace("\r\n", "\n").replace("\r", "\n")
    bodies = "".join("".join(p.body.split()) for p in pieces(line_ends, grammar))
    assert sorted(bodies) == sorted("".join("".join(t.split()) for t in found.values()))


def test_mimic_report():
    found = sections(
        "                                 FINAL REPORT\n EXAMINATION:  CHEST (PA AND LAT)\n \n"
        " INDICATION:  ___F with cough  // pneumonia?\n \n"
        " TECHNIQUE:  Chest PA and lateral\n \n COMPARISON:  ___\n \n FINDINGS: \n \n Lungs are clear.\n There is no effusion.\n \n"
        " IMPRESSION: \n \n No acute process.\n",
        "mimic_cxr",
    )
    assert list(found) == ["examination", "indication", "technique", "comparison", "findings", "impression"]
    assert found["indication"] == "___F with cough  // pneumonia?" and clean(found["findings"]) == "Lungs are clear. There is no effusion."


def test_empty_sections_do_not_swallow_the_next_header():
    assert sections(" TECHNIQUE:\n COMPARISON: none\n IMPRESSION:\n", "mimic_cxr") == {"comparison": "none"}


def test_headers_glued_to_text_and_on_one_line():
    found = sections("INDICATION:cough.COMPARISON: None. FINDINGS: Clear lungs.IMPRESSION:Normal.")
    assert found == {"indication": "cough.", "comparison": "None.", "findings": "Clear lungs.", "impression": "Normal."}
    assert sections("Findings: Clear. Impression: Normal.") == {"findings": "Clear.", "impression": "Normal."}


def test_words_that_look_like_headers():
    text = "FINDINGS: No new findings: none. In comparison: unchanged.\n LUNGS: clear.\n HEART AND MEDIASTINUM: normal."
    assert list(sections(text)) == ["findings"] and "HEART AND MEDIASTINUM: normal." in sections(text)["findings"]


def test_films_name_opens_the_findings_or_says_the_examination():
    assert sections(" PORTABLE CHEST, ONE VIEW:  The lungs are clear.\n IMPRESSION: Normal.") == {
        "findings": "The lungs are clear.",
        "impression": "Normal.",
    }
    assert sections(" CHEST, 2 VIEWS: 1/2/2014\n FINDINGS: Clear.") == {"examination": "1/2/2014", "findings": "Clear."}


def test_addendum_and_wet_read_stay_apart():
    rule = " " + "_" * 60
    added = f" ADDENDUM: Findings were told.\n IMPRESSION: is changed.\n{rule}\n"
    found = sections(f"{added}                FINAL REPORT\n FINDINGS: Clear.\n IMPRESSION: Normal.\n", "mimic_cxr")
    assert found["impression"] == "Normal." and "is changed" in found["addendum"]
    text = f" WET READ: ___ 8:00 PM\n IMPRESSION: effusion\n{rule}\n                 FINAL REPORT\n IMPRESSION: None."
    assert sections(text, "mimic_cxr")["impression"] == "None." and "effusion" in sections(text, "mimic_cxr")["wet_read"]


def test_last_paragraph():
    text = " INDICATION: cough\n \n The lungs are clear.\n"
    assert sections(text, "mimic_cxr") == {"indication": "cough", "last_paragraph": "The lungs are clear."}
    assert sections(text) == {"indication": "cough\n \n The lungs are clear."}


def test_reports_all_in_capitals():
    found = sections("CLINICAL HISTORY: COUGH.\nFINDINGS: NO NEW FINDING: NONE.  IMPRESSION: NORMAL CHEST.")
    assert found == {"history": "COUGH.", "findings": "NO NEW FINDING: NONE.", "impression": "NORMAL CHEST."}


def test_no_report():
    assert sections("") == sections(None) == {} and sections("Clear lungs.") == {"preamble": "Clear lungs."}
    with pytest.raises(StudyError, match="grammar"):
        sections("x", "klingon")


@pytest.mark.parametrize(
    ("have", "want", "target", "asked"),
    [
        ({"findings": "F.", "impression": "I."}, "findings", "Findings: F.", ["findings"]),
        ({"findings": "F.", "impression": "I."}, "findings_impression", "Findings: F. Impression: I.", ["findings", "impression"]),
        ({"findings": None, "impression": "I."}, "findings", "Impression: I.", ["impression"]),
        ({"findings": "F.", "impression": " \n"}, "findings_impression", "Findings: F.", ["findings"]),
        ({"findings": None, "impression": None}, "findings_impression", None, ["findings", "impression"]),
        ({"findings": None, "impression": None}, "findings", None, ["findings"]),
    ],
)
def test_targets(have, want, target, asked):
    assert target_text(have, want) == target and wanted_sections(have, want) == asked


def test_prompts():
    study = {"findings": "F.", "impression": None, "indication": " Cough\n and fever.", "comparison": None}
    assert prompt_text(study, "findings") == "Report this chest X-ray. Indication: Cough and fever. Write findings."
    assert len(prompt_text({}, prior=None).split()) <= 25
    assert "Comparison: None." in prompt_text(study, wording="full")
    assert "Prior report: Impression: Old {}." in prompt_text(study, prior={"impression": "Old {}."})
    assert prompt_text({}, wording='{"task": "Befund."}').startswith("Befund. ")
    for wrong in ("nosuch", '{"tusk": "x"}', "{broken"):
        with pytest.raises(StudyError, match=r"wording|JSON"):
            wording_of(wrong)
    with pytest.raises(StudyError, match="want"):
        prompt_text({}, "haiku")
