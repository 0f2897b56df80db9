"Reports of every shape: nothing lost, the right section for each sentence, targets and prompts by the stated rules."

import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from unirg.core import StudyError, study_root
from unirg.data import iu_xray
from unirg.data.reports import (
    QUALIFIERS,
    SECTION_NAMES,
    SECTION_OF,
    clean,
    pieces,
    prompt_text,
    sections,
    target_text,
    wanted_sections,
    wording_of,
)

LINES = ["\n ______________\n", "\n FINAL REPORT\n", "\n WET READ VERSION #2 ___\n", "\n ADDENDUM  ", "\n PORTABLE CHEST, 2 VIEWS: "]
WORDS = st.sampled_from(
    [*(n.upper() + ":" for n in SECTION_OF), *SECTION_OF, "Findings:", "Impression:", "\n", "\n ", " ", "\n\n", ":", ".", "ſ", "___"]
    + [*LINES, "A:", "and ", "/", "normal.", "lungs", "THE CHEST IS CLEAR. RIBS: INTACT.", "NEW CHEST TUBE. HEART: LARGE."]
)
TYPED = st.lists(WORDS, max_size=30).map("".join)
TEXTS = st.one_of(st.text(max_size=200), TYPED, TYPED.map(str.upper))
GRAMMARS = st.sampled_from(["plain", "mimic_cxr"])
HEADER_WORDS = {word for name in SECTION_OF for word in re.findall(r"[a-z]+", name)} | set(re.findall(r"[a-z]+", QUALIFIERS)) | {"and"}


def letters(text):
    return "".join(text.split())


@settings(max_examples=300, deadline=None)
@given(TEXTS, GRAMMARS)
def test_no_text_is_lost(text, grammar):
    cut = pieces(text, grammar)
    assert "".join(p.header + p.body for p in cut) == text
    assert {p.section for p in cut} <= {*SECTION_NAMES, "last_paragraph"}
    # every character of a body that is not blank is in that body's section, in the report's order, and in no other
    bodies: dict[str, str] = {}
    for piece in pieces(text.replace("\r\n", "\n").replace("\r", "\n"), grammar):
        bodies[piece.section] = bodies.get(piece.section, "") + letters(piece.body)
    assert {name: letters(said) for name, said in sections(text, grammar).items()} == {name: said for name, said in bodies.items() if said}


@settings(max_examples=300, deadline=None)
@given(TEXTS, GRAMMARS)
def test_a_header_is_only_a_header(text, grammar):
    "What is not kept as a section's text is a section's name, a film's name in capitals, or a line of underscores: nobody's words."
    for piece in pieces(text, grammar):
        header = piece.header.strip()
        assert "\n" not in header and ":" not in header[:-1]
        if set(re.findall(r"[a-z]+", header.lower())) - HEADER_WORDS - {"version"}:
            assert header == header.upper() and re.search(r"CHEST|RIBS", header) and ". " not in header and " IS " not in header


def test_real_reports_come_back_from_one_text():
    "Indiana's sections typed under headers, one after the other, are found again, word for word, but where one holds a header of its own."
    archive = study_root().parent / "shared/real_data/iu_xray_text/NLMCXR_reports.tgz"
    if not archive.is_file():
        pytest.skip("the real IU X-Ray reports are not on this machine (../shared/real_data/iu_xray_text)")
    different, holding = set(), set()
    for report in iu_xray.reports(archive):
        said = {name: clean(text) for name, text in report.sections.items() if text}
        typed = "\n \n".join(f" {name.upper()}: {text}" for name, text in said.items())
        for grammar in ("plain", "mimic_cxr"):
            found = {name: clean(text) for name, text in sections(typed, grammar).items() if name != "last_paragraph"}
            different |= {report.uid} if found != said else set()
        holding |= {report.uid} if any(re.search(r"\b(INDICATION|COMPARISON|History) ?:", text) for text in said.values()) else set()
    assert different == holding and 0 < len(holding) < 20


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


def test_wet_reads_without_a_colon_and_addenda_at_either_end():
    text = " WET READ VERSION #1 ___ 9:35 PM\n IMPRESSION: effusion?\n                                 FINAL REPORT\n IMPRESSION: None."
    found = sections(text, "mimic_cxr")
    assert found["impression"] == "None." and found["wet_read"].startswith("___ 9:35 PM") and "effusion?" in found["wet_read"]
    two = f" ADDENDUM  Told by phone.\n {'_' * 40}\n ADDENDUM #2: FINDINGS: a nodule.\n {'_' * 40}\n FINAL REPORT\n FINDINGS: Clear.\n"
    found = sections(two, "mimic_cxr")
    assert found["findings"] == "Clear." and found["addendum"] == "Told by phone.\n\nFINDINGS: a nodule."
    found = sections(" FINAL REPORT\n FINDINGS: Clear.\n IMPRESSION: Normal.\n ADDENDUM: Seen again.\n IMPRESSION: A nodule.", "mimic_cxr")
    assert found["impression"] == "Normal." and found["addendum"] == "Seen again.\n IMPRESSION: A nodule."


def test_joined_headers_and_words_before_them():
    text = " INDICATION/HISTORY: Cough.\n COMPARISON AND TECHNIQUE: None.\n FINDINGS & IMPRESSION: Clear.\n"
    assert sections(text) == {"indication": "Cough.", "comparison": "None.", "impression": "Clear."}
    assert sections(" Pertinent history: Fever.\n ADDITIONAL FINDINGS: A rib.") == {"history": "Fever.", "findings": "A rib."}


def test_wrapped_lines_are_no_headers():
    text = " FINDINGS: There are no other acute\n findings\n of note, nor any change in\n comparison: see above.\n\n impression: normal."
    found = sections(text)
    assert list(found) == ["findings", "impression"] and found["impression"] == "normal." and "see above." in found["findings"]


def test_sentences_in_capitals_are_no_films_name():
    text = (
        "HISTORY: FALL.\nTHE CHEST IS CLEAR. RIBS: INTACT.\nNEW CHEST TUBE. HEART: LARGE.\nCHEST P.A. AND LATERAL: NORMAL HEART SIZE SEEN."
    )
    assert sections(text) == {
        "history": "FALL.\nTHE CHEST IS CLEAR. RIBS: INTACT.\nNEW CHEST TUBE. HEART: LARGE.",
        "findings": "NORMAL HEART SIZE SEEN.",
    }
    assert sections("Impreſſion: none")["preamble"] == "Impreſſion: none"


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
