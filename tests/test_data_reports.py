"Reports of every shape: nothing lost, the right section for each sentence, targets and prompts by the stated rules."

import base64
import gzip
import re
import textwrap
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from unirg.core import StudyError, study_root
from unirg.data import iu_xray
from unirg.data.reports import (
    CONTEXT,
    EVERY_SECTION,
    QUALIFIERS,
    SECTION_OF,
    clean,
    context_of,
    from_base64,
    no_report,
    normalised,
    pieces,
    place_of,
    prompt_text,
    read_report,
    section_names,
    sections,
    target_text,
    unaccented,
    wanted_sections,
    parse_prompt_template,
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


INSTEAD = {"unplaced": "findings", "headerless": "findings", "narrative": "findings", "summary": "impression"}


def letters(text):
    return "".join(text.split())


@settings(max_examples=300, deadline=None)
@given(TEXTS, GRAMMARS)
def test_no_text_is_lost(text, grammar):
    cut = pieces(text, grammar)
    assert "".join(p.header + p.body for p in cut) == text
    assert {p.section for p in cut} <= set(EVERY_SECTION)
    # every character of a body that is not blank is in that body's section, in the report's order, and in no other
    bodies: dict[str, str] = {}
    for piece in pieces(normalised(text), grammar):
        bodies[piece.section] = bodies.get(piece.section, "") + letters(piece.body)
    found = {name: letters(said) for name, said in sections(text, grammar).items()}
    for stand_in, wanted in INSTEAD.items():  # what has no header may be taken for findings
        if stand_in in bodies and stand_in not in found and bodies[stand_in]:
            assert wanted not in bodies or not bodies[wanted]
            bodies[wanted] = bodies.pop(stand_in)
    assert found == {name: said for name, said in bodies.items() if said}


@settings(max_examples=300, deadline=None)
@given(TEXTS, GRAMMARS)
def test_a_header_is_only_a_header(text, grammar):
    "What is not kept as a section's text is a header's words, a film's name in capitals, or a line of underscores: nobody's words."
    for piece in pieces(text, grammar):
        header = piece.header.strip()
        assert "\n" not in header and ":" not in header.rstrip(":")
        if set(re.findall(r"[a-z]+", unaccented(header.lower()))) - HEADER_WORDS - {"version"}:
            film = header == header.upper() and re.search(r"CHEST|RIBS", header) and ". " not in header and " IS " not in header
            assert film or (header.endswith(":") and place_of(header[:-1]))


def test_real_reports_come_back_from_one_text():
    "Indiana's sections typed under headers, one after the other, are found again, word for word, but where one holds a header of its own."
    archive = study_root().parent / "shared/real_data/iu_xray_text/NLMCXR_reports.tgz"
    if not archive.is_file():
        pytest.skip("the real IU X-Ray reports are not on this machine (../shared/real_data/iu_xray_text)")
    different, known = Counter(), set()
    for report in iu_xray.reports(archive):
        said = {name: clean(text) for name, text in report.sections.items() if text}
        typed = "\n \n".join(f" {name.upper()}: {text}" for name, text in said.items())
        for grammar in ("plain", "mimic_cxr"):
            found = {name: clean(text) for name, text in sections(typed, grammar).items()}
            if found != said and not re.search(r"FINDINGS:", said.get("impression") or ""):  # one holds a whole report
                known.add(report.uid)
                different[grammar] += 1
                # context may have lost something, to a section that no prompt takes; findings and impression change by entities and tags
                assert all((found.get(name) or "") in normalised(said[name]) for name in CONTEXT if name in said)
                again = {name: clean(normalised(text)) for name, text in said.items()}
                assert all(found.get(name) == again[name] for name in ("findings", "impression") if name in said)
    assert 0 < different["plain"] == different["mimic_cxr"] < 30 and len(known) < 30


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
    found = sections(text)
    assert found["history"] == "FALL." and "THE CHEST IS CLEAR." in found["unplaced"]  # it states a reading, and is nobody's context
    assert "NORMAL HEART SIZE SEEN." in found["findings"] and "HEART: LARGE." in found["findings"]
    assert sections("Impreſſion: none") == {"impression": "none"}


def test_a_reading_under_no_header():
    text = " INDICATION: cough\n \n The lungs are clear.\n"
    for grammar in ("plain", "mimic_cxr"):
        assert read_report(text, grammar)[:2] == ({"indication": "cough", "findings": "The lungs are clear."}, ["reading_in_context"])
    text = " FINAL REPORT\n CHEST, PA\n \n As before.\n"  # nothing tells that this is one
    assert sections(text, "mimic_cxr") == {"preamble": "CHEST, PA", "last_paragraph": "As before."}


def test_reports_all_in_capitals():
    found = sections("CLINICAL HISTORY: COUGH.\nFINDINGS: NO NEW FINDING: NONE.  IMPRESSION: NORMAL CHEST.")
    assert found == {"history": "COUGH.", "findings": "NO NEW FINDING: NONE.", "impression": "NORMAL CHEST."}


@pytest.mark.parametrize(
    "text",
    [
        r"INDICATION: Cough.\E\.br\E\FINDINGS: Small effusion.\E\.br\E\IMPRESSION: Effusion.",
        r"INDICATION: Cough.\E\.br\E\\E\.br\E\FINDINGS: Small effusion.\E\.BR\E\IMPRESSION: Effusion.",
        r"INDICATION: Cough.\E\E\E\.br\E\E\E\FINDINGS: Small effusion.\.br\IMPRESSION: Effusion.",  # three times
        r"INDICATION: Cough.\E\.sp 2\E\FINDINGS: Small effusion.\E\X0A\E\IMPRESSION: Effusion.",
        r"INDICATION: Cough.\X5C\.br\X5C\FINDINGS: Small effusion.\E\X0D\E\IMPRESSION: Effusion.",
        r"INDICATION: Cough.\E\.br\E\FINDINGS: Small\E\.br\E\effusion.\E\.br\E\\E\.br\E\IMPRESSION: Effusion.",
    ],
)
def test_escapes_that_were_escaped(text):
    assert {name: clean(body) for name, body in sections(text).items()} == {
        "indication": "Cough.", "findings": "Small effusion.", "impression": "Effusion.",
    }  # fmt: skip


def test_an_escaped_backslash_and_an_escaped_ampersand():
    assert normalised(r"A \E\ B \E\T\E\ C \F\E\F\ D") == r"A \ B & C |E| D"


REPORT = "INDICATION: Cough and fever.\nFINDINGS: Small left effusion. No pneumothorax.\nIMPRESSION: Effusion."


def b64(data):
    return base64.b64encode(data if isinstance(data, bytes) else data.encode()).decode()


@pytest.mark.parametrize(
    "cell",
    [
        b64(REPORT),
        b64(REPORT.replace("\n", "\r\n")),
        "\n".join(textwrap.wrap(b64(REPORT), 76)),
        " ".join(textwrap.wrap(b64(REPORT), 64)),
        "\\r\\n".join(textwrap.wrap(b64(REPORT), 76)),
        f"data:text/plain;charset=utf-8;base64,{b64(REPORT)}",
        f"^TEXT^plain^Base64^{b64(REPORT)}",
        base64.urlsafe_b64encode(REPORT.encode()).decode().rstrip("="),
        b64(REPORT.encode("utf-16")),
        b64(REPORT.encode("utf-16-le")),
        b64(b"\xef\xbb\xbf" + REPORT.encode()),
        b64(b64(REPORT)),
        b64("<p>" + REPORT.replace("\n", "</p><p>") + "</p>"),
    ],
)
def test_a_report_in_base64(cell):
    found = {name: clean(body) for name, body in sections(cell).items()}
    assert found == {"indication": "Cough and fever.", "findings": "Small left effusion. No pneumothorax.", "impression": "Effusion."}


def test_short_base64_and_other_letters():
    assert normalised(b64("Normal.")) == "Normal." and normalised(b64("Clear lungs")) == "Clear lungs"
    words = b64("BEFUND: Regelrechte Größe des Herzens, kein Erguß.".encode("cp1252"))
    assert normalised(words) == "BEFUND: Regelrechte Größe des Herzens, kein Erguß."


@pytest.mark.parametrize(
    ("cell", "said"),
    [
        (b64(bytes(range(256))), "base64"),
        (b64(gzip.compress(REPORT.encode())), "base64"),
        (b64(b"%PDF-1.7\n%\xe2\xe3\xcf\xd3\n1 0 obj" + bytes(200)), "base64"),
        (b64("%PDF-1.4 a document all in plain letters"), "PDF"),
        (b64(r"{\rtf1\ansi FINDINGS: Clear lungs.\par}"), "RTF"),
        (b64(REPORT * 9)[:-3], "base64"),  # cut short
        (b64(REPORT * 400)[:32767], "base64"),  # by a spreadsheet
        ("data:application/pdf;base64,JVBERi0xLjcK4uPP0w==", "PDF"),
    ],
)
def test_base64_that_is_no_text_is_no_reference(cell, said):
    assert no_report(cell) == f"the report is {said}, not text: export it as plain text"
    assert read_report(cell).fault and not {"findings", "impression"} & read_report(cell).sections.keys()


@pytest.mark.parametrize(
    "text",
    [
        *("Unremarkable", "Cardiomegaly", "Pneumothorax", "Consolidation", "Hydropneumothorax", "Pneumomediastinum", "NORMAL", "Normal"),
        *("Cardiomediastinal-silhouette-normal", "Negative", "unchanged", "S12345678", "C0RADS2A", "2020/01/31", "No\neffusion", "T12\nL1"),
        *("Emphysema/bronchiectasis", "Atelectasis/consolidation_left", "Befundunauffällig", "A" * 60, "unremarkable" * 5),
    ],
)
def test_words_are_no_base64(text):
    assert from_base64(text) is None and no_report(text) is None and normalised(text) == text


def test_no_report():
    assert sections("") == sections(None) == {} and sections("Clear lungs.") == {"preamble": "Clear lungs."}
    with pytest.raises(StudyError, match="grammar"):
        sections("x", "klingon")


@pytest.mark.parametrize(
    ("have", "target_sections", "target", "asked"),
    [
        ({"findings": "F.", "impression": "I."}, "findings", "Findings: F.", ["findings"]),
        ({"findings": "F.", "impression": "I."}, "findings_impression", "Findings: F. Impression: I.", ["findings", "impression"]),
        ({"findings": None, "impression": "I."}, "findings", "Impression: I.", ["impression"]),
        ({"findings": "F.", "impression": " \n"}, "findings_impression", "Findings: F.", ["findings"]),
        ({"findings": None, "impression": None}, "findings_impression", None, ["findings", "impression"]),
        ({"findings": None, "impression": None}, "findings", None, ["findings"]),
    ],
)
def test_targets(have, target_sections, target, asked):
    assert target_text(have, target_sections) == target and wanted_sections(have, target_sections) == asked


def test_prompts():
    study = {"findings": "F.", "impression": None, "indication": " Cough\n and fever.", "comparison": None}
    assert prompt_text(study, "findings") == "Report this chest X-ray. Indication: Cough and fever. Write findings."
    assert len(prompt_text({}, prior=None).split()) <= 25
    assert "Comparison: None." in prompt_text(study, prompt_template="full")
    assert "Prior report: Impression: Old {}." in prompt_text(study, prior={"impression": "Old {}."})
    assert prompt_text({}, prompt_template='{"task": "Befund."}').startswith("Befund. ")
    for wrong in ("nosuch", '{"tusk": "x"}', "{broken"):
        with pytest.raises(StudyError, match=r"prompt_template|JSON"):
            parse_prompt_template(wrong)
    with pytest.raises(StudyError, match="target_sections"):
        prompt_text({}, "haiku")


# What a prompt must not hold. Each report says LEAK where its reading stands, and nowhere else.
READINGS = [
    "INDICATION: Cough.\nOUTCOME: LEAK on the right.\nIMPRESSION: Normal.",
    "Indication: Cough.\nOutcome of the film: LEAK on the right.\nImpression: Normal.",
    "INDICATION: Cough.\nLUNGS: LEAK. HEART: Normal.\nIMPRESSION: Normal.",
    "INDICATION: Cough.\nLungs and pleura: LEAK.\nHeart: Normal.\nImpression: Normal.",
    "INDICATION: Cough.\nCHEST: LEAK is seen in the left lung.\nIMPRESSION: Normal.",
    "INDICATION: COUGH. OUTCOME: LEAK ON THE RIGHT. IMPRESSION: NORMAL.",
    "INDICATION: Cough. Outcome: LEAK on the right. Impression: Normal.",
    "HISTORY: Cough.\n\nThe film shows LEAK.\n\nIMPRESSION: Normal.",
    "HISTORY: Cough.\n ______________________\n The film shows LEAK.\n\nIMPRESSION: Normal.",
    "HISTORY: Cough\n-----------\nThe film shows LEAK.\n\nIMPRESSION: Normal.",
    "TECHNIQUE: PA and lateral.\n\nThe film shows LEAK.\n\nIMPRESSION: Normal.",
    "COMPARISON: None. There is a LEAK and effusion.\nIMPRESSION: Normal.",
    "COMPARISON: None\nThere is an effusion, LEAK.\nIMPRESSION: Normal.",
    "COMPARISON: None, small effusion, LEAK.\nIMPRESSION: Normal.",
    "COMPARISON:\n\nSmall effusion, LEAK.\n\nIMPRESSION: Normal.",
    "COMPARISON: 3/4/2010. As compared with the previous film, the effusion LEAK has grown.\nIMPRESSION: Normal.",
    "COMPARISON: 3/4/2010. Effusion, LEAK, on this film.\nIMPRESSION: Normal.",
    "COMPARISON: Film of 2010. Interval growth of the mass, LEAK.\nIMPRESSION: Normal.",
    "INDICATION: Fall. There is a pneumothorax, LEAK.\nIMPRESSION: Normal.",
    "INDICATION: Fall. The heart size is normal. LEAK.\nIMPRESSION: Normal.",
    "INDICATION: Fall. Small effusion, LEAK. Lungs are clear.\nIMPRESSION: Normal.",
    "REASON FOR EXAM: Fall.\n1. Small effusion, LEAK.\n2. Heart normal.",
    "INDICATION: Fall.\nRESIDENT'S INTERPRETATION: LEAK.\nFINDINGS: Normal.",
    "INDICATION: Fall.\nER READ - LEAK.\nFINDINGS: Normal.",
    "INDICATION: Fall.\nOvernight prelim (Dr X): LEAK.\nFINDINGS: Normal.",
    "INDICATION: Fall.\nPROVISIONAL FINDINGS IMPRESSION (PFI): LEAK.\nFINDINGS: Normal.",
    "INDICATION: Fall.\n\n  PFI REPORT\n  LEAK.\nFINDINGS: Normal.",
    "INDICATION: Fall.\nWET READ: LEAK.\nFINDINGS: Normal.",
    "INDICATION: Fall.\nDISCREPANCY: LEAK.\nFINDINGS: Normal.",
    "INDICATION: Fall.\nADDENDUM: LEAK.\nFINDINGS: Normal.",
    "FINDINGS: Normal.\nIMPRESSION: Normal.\n\n   PFI REPORT\n HISTORY: Fall.\n FINDINGS: LEAK.\n",
    "INDIKATION: Sturz.\nBEFUND: LEAK.\nBEURTEILUNG: Normal.",
    "Indicación: tos.\nHallazgos: LEAK.\nImpresión: normal.",
    "INDICATION: toux.\nRÉSULTATS: LEAK.\nCONCLUSION: normale.",
    "indication: cough\nlungs: LEAK\nimpression: normal",
    "INDICATION: Cough.\\n\\nThe film shows LEAK.\\nIMPRESSION: Normal.",
    "<p>INDICATION: Cough.</p><p>The film shows LEAK.</p><p>IMPRESSION: Normal.</p>",
    "INDICATION: Cough.\u2028\u2028The film shows LEAK.\u2028IMPRESSION: Normal.",
    "ＩＮＤＩＣＡＴＩＯＮ：Cough.\nＯＵＴＣＯＭＥ：LEAK on the right.\nIMPRESSION: Normal.",
    "INDICATION: Cough\nLarge right mass with a cavity, LEAK.\nIMPRESSION: Normal.",
    "INDICATION: Cough.\n\nRADIOGRAPHIC OUTCOME\nSmall mass, LEAK.\nIMPRESSION: Normal.",
    "indication: cough\nlarge right mass, leak\nimpression: normal",
    "INDICATION: COUGH\nLARGE RIGHT MASS WITH SHIFT, LEAK\nIMPRESSION: NORMAL",
    "HISTORY: Cough. Frontal and lateral views demonstrate a mass, LEAK.\nIMPRESSION: Normal.",
    "COMPARISON: None. The tube ends above the carina, LEAK.\nIMPRESSION: Normal.",
    "Clinical Information: Cough Findings: Small mass, LEAK Impression: Normal",
    "INDICATION: Cough. RESIDENT'S INTERPRETATION: LEAK. IMPRESSION: Normal.",
    "INDICATION: Cough.\n**Findings** LEAK.\n**Impression** Normal.",
]


@pytest.mark.parametrize("grammar", ["plain", "mimic_cxr"])
@pytest.mark.parametrize("text", READINGS)
def test_no_reading_in_a_prompt(text, grammar):
    parsed = read_report(text, grammar)
    found = parsed.sections
    shown = {"indication": found.get("indication") or found.get("history"), "comparison": found.get("comparison")}
    assert "LEAK" not in prompt_text(shown).upper()
    kept = [name for name, said in found.items() if "LEAK" in said.upper()]
    assert len(kept) == 1 and kept[0] in ("findings", "impression", "wet_read", "addendum")
    assert kept[0] != "impression"
    assert parsed.flags in (["reading_in_context"], [])


CONTEXTS = [
    ("indication", "50-year-old man with cough and fever, please evaluate\nfor pneumonia or effusion in the setting of known CHF."),
    ("indication", "\n\n cough"),
    ("indication", "___F with cough  // pneumonia?"),
    ("indication", "History of right pneumothorax, chest tube in place. Interval change?"),
    ("indication", "Status post CABG. Evaluate for effusion. Patient is febrile."),
    ("indication", "Large right pneumothorax, follow up."),
    ("indication", "Shortness of breath, lungs clear to auscultation."),
    ("indication", "There is concern for pneumonia. CT showed a nodule."),
    ("indication", "1. Cough\n2. Fever"),
    ("indication", "s/p sternotomy, chest tube removed"),
    ("indication", "Patient with scoliosis and CHF\nwith increasing effusion."),
    ("indication", "COUGH AND FEVER, PLEASE EVALUATE FOR PNEUMONIA VERSUS\nPLEURAL EFFUSION OR EDEMA"),
    ("indication", "60F with dyspnea.\nRight effusion known, for follow up."),
    ("indication", "Chest pain, re: fall from a ladder"),
    ("history", "Smoker; COPD. Known emphysema and fibrosis."),
    ("history", "No fever. No known lung disease."),
    ("comparison", "PA and lateral chest radiographs from ___\n at 13:05, and CT of the chest which showed\n a right upper lobe nodule."),
    ("comparison", "Comparison is made to the prior study dated March 3, 2010."),
    ("comparison", "No prior studies are available for comparison."),
    ("comparison", "Outside CT from yesterday demonstrating left effusion"),
    ("comparison", "High-resolution CT of the chest, 2/3/2014."),
    ("technique", "Portable AP view of the chest with the patient rotated to the left."),
    ("examination", "XR CHEST, 2 VIEWS, FOR PNEUMOTHORAX"),
]


@pytest.mark.parametrize(("section", "said"), CONTEXTS)
def test_context_that_is_context_stays_whole(section, said):
    for rest in ("\nFINDINGS: Normal.", "\n\nFINDINGS: Normal.", "\n \n Lungs:\n Clear.\n"):
        found = sections(f"{section.upper()}: {said}{rest}")
        assert found[section] == said.strip() and set(found) == {section, "findings"}
    if section in ("indication", "comparison"):
        assert context_of({section: said}, section) == " ".join(said.split())


def test_stored_contexts_are_looked_into_at_prompt_time():
    study = {"indication": "Cough. FINDINGS: Effusion.", "comparison": "Film of 2010. Both lungs are clear.", "findings": "F."}
    assert prompt_text(study) == "Report this chest X-ray. Indication: Cough. Comparison: Film of 2010. Write findings."


STORED = [  # FINDINGS: Clear. IMPRESSION: Normal., as other systems store it
    r"FINDINGS: Clear.\nIMPRESSION: Normal.",
    r"FINDINGS: Clear.\r\n\r\nIMPRESSION: Normal.\r\n",
    r"FINDINGS:\tClear.\\nIMPRESSION:\tNormal.",
    "FINDINGS: Clear.\\.br\\\\.br\\IMPRESSION: Normal.",
    "FINDINGS: Clear.\\X0D\\\\X0A\\IMPRESSION: Normal.",
    "FINDINGS: Clear.~~IMPRESSION: Normal.~",
    "FINDINGS: Clear.|IMPRESSION: Normal.",
    "FINDINGS: Clear._x000D_\nIMPRESSION: Normal._x000D_",
    "FINDINGS: Clear.%0D%0AIMPRESSION: Normal.",
    "FINDINGS:&nbsp;Clear.&#13;&#10;IMPRESSION:&#160;Normal.",
    "&lt;b&gt;FINDINGS:&lt;/b&gt; Clear.&lt;br&gt;IMPRESSION: Normal.",
    "<p><strong>Findings</strong></p><p>Clear.</p><p><strong>Impression</strong></p><p>Normal.</p>",
    "<html><head><style>p {x: y}</style></head><body><b>FINDINGS:</b> Clear.<br/><b>IMPRESSION:</b> Normal.</body></html>",
    "<report><findings>Clear.</findings><impression>Normal.</impression></report>",
    '<text label="Findings">Clear.</text><text label="Impression">Normal.</text>',
    "<table><tr><th>Findings</th><td>Clear.</td></tr><tr><th>Impression</th><td>Normal.</td></tr></table>",
    '{"findings": "Clear.", "impression": "Normal."}',
    "**FINDINGS**: Clear.\n**IMPRESSION**: Normal.",
    "## Findings\nClear.\n\n## Impression\nNormal.",
    "__Findings__ Clear.\n*Impression:* Normal.",
    "Findings\n--------\nClear.\n\nImpression\n----------\nNormal.",
    "ＦＩＮＤＩＮＧＳ：Clear.\n\u3000ＩＭＰＲＥＳＳＩＯＮ：Normal.",
    "\ufeffFIN\u200bDINGS:\xa0Clear.\nIMPRES\u00adSION:\u202fNormal.",
    "F\0INDINGS: Clear.\x0cIMPRESSION: Normal.\0",
    "FINDINGS: Clear.\x0bIMPRESSION: Normal.",
    "FINDINGS: Clear.\r\r\nIMPRESSION: Normal.\r\r\n",
    "FINDINGS: Clear.\x85IMPRESSION: Normal.",
    "• FINDINGS: Clear.\n\uf0b7 IMPRESSION: Normal.",
    "FINDINGS - Clear.\nIMPRESSION -- Normal.",
    "[FINDINGS] Clear.\n>>IMPRESSION<< Normal.",
    "Findings = Clear.\nImpression; Normal.",
    "1. FINDINGS: Clear.\n2. IMPRESSION: Normal.",
    "FINDINGS Clear.\nIMPRESSION Normal.",
    "FINDINGS\nClear.\nIMPRESSION\nNormal.",
    "F I N D I N G S: Clear.\nI M P R E S S I O N: Normal.",
    "RESULT: Clear.\nINTERPRETATION: Normal.",
    "FINDINGS: Clear.\nDIAGNOSIS: Normal.",
    "X-RAY FINDINGS: Clear.\nIMPRESSION (FINAL): Normal.",
    "Lungs are clear.\n\nIMPRESSION: Normal.".replace("Lungs are clear", "Clear"),
]


@pytest.mark.parametrize("text", STORED)
def test_text_is_normalised_before_it_is_cut(text):
    found = sections(text)
    assert (found.get("findings", found.get("preamble")), found["impression"]) == ("Clear.", "Normal.")
    assert sections(normalised(text)) == found


def test_what_people_type_is_no_mark():
    text = "Nodule of <5 mm, a < b and c > d, ~3 cm, 2 cm², 5 µm, ±1, ½, P&L, l\\r, w\\o, ___ M, *see* note, #3 rib, <PICC>, ≥1, T~38"
    assert normalised(text) == text
    found = sections(f"FINDINGS: {text}\nIMPRESSION: {text}")
    assert found == {"findings": text, "impression": text}


def test_files_of_another_kind_are_refused_by_name():
    for text, kind in ((r"{\rtf1\ansi FINDINGS: Clear.\par}", "RTF"), ("%PDF-1.4 ...", "PDF"), ("MSH|^~\\&|A\rOBX|1|TX||Clear.", "HL7")):
        parsed = read_report(text)
        assert kind in parsed.fault and parsed.flags == ["not_read"] and parsed.sections == {"unplaced": text}
    assert read_report("FINDINGS: Clear.").fault is None


def test_header_names_of_a_hospitals_own():
    names = {"findings_headers": "Sichtung,  所見", "impression": "Deutung, Fazit:", "indication_headers": ""}
    text = "Sichtung: Clear.\nFAZIT - Normal."
    assert sections(text, names=names) == {"findings": "Clear.", "impression": "Normal."}
    assert sections("所見：Clear.\nDeutung\nNormal.", names=names) == {"findings": "Clear.", "impression": "Normal."}
    assert "Deutung" in read_report("FINDINGS: Clear.\nDeutung: Normal.").unlisted
    assert read_report("FINDINGS: Clear.\nDeutung: Normal.", names=names).unlisted == []
    assert sections("REPORT: Normal.", names={"impression": "report"}) == {"impression": "Normal."}  # a name of one's own goes first
    for wrong in ({"opinion": "x"}, {"findings": "x", "impression": "X"}):
        with pytest.raises(StudyError, match=r"opinion|two sections"):
            section_names(wrong)


def test_headers_that_no_list_knows_are_told():
    text = "INDICATION: Cough.\nWard: 5B\nFINDINGS: Clear.\nLUNGS: Clear.\nSONOGRAPHY: None.\nIMPRESSION: Normal."
    assert read_report(text).unlisted == ["Ward", "SONOGRAPHY"]
    assert read_report("PORTABLE CHEST, 2 VIEWS: Lungs are clear.\nHeart: normal.").unlisted == []


def test_provisional_readings_alone_are_no_reference():
    parsed = read_report("INDICATION: Cough.\nPRELIMINARY READ: Effusion.")
    assert parsed.flags == ["provisional_only"] and not parsed.sections.keys() & {"findings", "impression"}
    assert "provisional_only" not in read_report("PRELIMINARY READ: Effusion.\nIMPRESSION: None.").flags


def test_a_reading_before_the_first_header():
    parsed = read_report("X-RAY CHEST PA\n\nBoth lungs are clear.\nNo effusion.\n\nIMPRESSION: Normal.")
    assert parsed.flags == ["reading_without_header"] and parsed.sections["findings"] == "Both lungs are clear.\nNo effusion."
    assert "findings" not in sections("X-RAY CHEST PA\nName: A B\n\nIMPRESSION: Normal.")


LINES_KEPT = [
    "No pneumothorax\nSmall left effusion\nCardiomegaly",
    "no pneumothorax\nsmall left effusion\ncardiomegaly",
    "NO PNEUMOTHORAX\nSMALL LEFT EFFUSION",
    "No pneumothorax\nsmall left effusion",
    "- No pneumothorax\n- Small left effusion",
    "1. No pneumothorax.\n2. Small effusion.",
    "(1) No pneumothorax\n(2) Small effusion",
    "a) No pneumothorax\nb) Small effusion",
    "Lungs: clear\nHeart: normal",
    "ET tube in place\nPICC in the SVC",
    "Findings: none\nCT is better",
    "-No pneumothorax\n-Effusion",
    "1 No pneumothorax\n2 Effusion",
    "I. No pneumothorax.\nII. Effusion.",
]
LINES_JOINED = [
    "The  lungs\n are clear. ",
    "There is a small\npleural effusion, and the heart\nis normal.",
    "The lungs are clear.\n\nThe heart is normal.",
    "There is a left lower lobe opacity which is unchanged, and the right\nPICC ends in the SVC.",
    "Lungs clear;\nheart normal",
    "The tube was placed on\nMarch 3 with\nDr. X.",
    "A nodule of\n2 cm",
    "Device of ___\n___ is seen.",
    "NO EVIDENCE OF PNEUMOTHORAX, OF A PLEURAL EFFUSION, OF EDEMA, OR\nPNEUMONIA.",
]


@pytest.mark.parametrize("text", LINES_KEPT)
def test_line_ends_that_end_statements_are_kept(text):
    assert clean(text) == clean(clean(text)) == clean(f"\n {text} \n") == text
    assert target_text({"findings": text}) == f"Findings: {text}"
    assert "\n" not in prompt_text({"indication": text}, prior={"findings": text})


@pytest.mark.parametrize("text", LINES_JOINED)
def test_wrapped_lines_are_joined(text):
    assert clean(text) == " ".join(text.split())


@settings(max_examples=200, deadline=None)
@given(st.lists(st.sampled_from([*"abAB.:- ", "\n", "1. ", "- ", "No effusion", "right", "PICC", "THE", "\n\n", "the"]), max_size=40))
def test_cleaning_twice_changes_nothing(parts):
    text = "".join(parts)
    text = "".join(parts)
    said = clean(text)
    assert clean(said) == said and letters(said or "") == letters(text)


UNITS = [" ", "\t", "\n", "_", "-", "*", "#", "\\", "<a ", "&", "A:", "a~", "no ", "there is ", "lungs is a ", "1. ", "[(", "Aa and "]


@pytest.mark.parametrize("unit", UNITS)
def test_long_monotony_is_read(unit):
    for start in ("", "INDICATION: ", "COMPARISON: "):
        text = start + unit * (6000 // len(unit))
        assert letters("".join(p.header + p.body for p in pieces(normalised(text)))) == letters(normalised(text)) and clean(text) != ""
