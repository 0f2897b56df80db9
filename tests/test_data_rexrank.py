"""ReXrank's JSON: three grammars of context, NaN, leading slashes, lists that do not fit, made up here; and the real IU X-Ray files."""

import json
import math
import re

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from PIL import Image

from unirg.core import StudyError, study_root
from unirg.data import rexrank
from unirg.data.words import stated

MIMIC = {
    "50051329": {
        "key_image_path": "/p10/p10000032/s50051329/b.jpg",
        "image_path": ["/p10/p10000032/s50051329/a.jpg", "/p10/p10000032/s50051329/b.jpg"],
        "frontal_lateral": ["lateral", "postero-anterior"],
        "section_findings": " Clear.\n",
        "section_impression": math.nan,
        "subject_id": 10000032,
        "report": "Findings: Clear. Impression: None.",
        "split": "test",
        "context": "Age:20-Oct.Gender:F.Indication: Fever.Comparison: ___.",
    },
    "50051330": {
        "key_image_path": "/p10/p10000032/s50051330/a.jpg",
        "image_path": ["/p10/p10000032/s50051330/a.jpg"],
        "frontal_lateral": ["Erect"],
        "section_findings": "Clear.",
        "section_impression": "Normal.",
        "subject_id": 10000032,
        "split": "test",
        "context": "",
    },
    "50051331": {
        "key_image_path": "/p10/p10000033/s50051331/a.jpg",
        "image_path": ["/p10/p10000033/s50051331/a.jpg"],
        "frontal_lateral": ["left lateral"],
        "section_findings": "Clear.",
        "section_impression": "Normal.",
        "subject_id": 10000033,
        "split": "test",
        "context": "Age:>=90.Gender:M.Comparison: Radiograph of ___.",
    },
}
CHEXPERT = {
    "patient64620_study1": {
        "key_image_path": "valid/patient64620/study1/view1_frontal.png",
        "image_path": ["valid/patient64620/study1/view1_frontal.png"],
        "frontal_lateral": ["Frontal"],
        "ap_pa": ["AP"],
        "age": 77.0,
        "sex": "Female",
        "race": "Black",
        "ethnicity": "Unknown",
        "section_findings": math.nan,
        "section_impression": "1. CLEAR.",
        "section_clinical_history": math.nan,
        "report": "Findings: None. Impression: 1. CLEAR.",
        "context": "Age:77.0.Gender:F.Indication:nanComparison: None.",
    }
}


def put(folder, studies, films=True):
    for entry in studies.values() if films else ():
        for path in entry["image_path"]:
            film = folder / "files" / path.lstrip("/")
            film.parent.mkdir(parents=True, exist_ok=True)
            Image.linear_gradient("L").rotate(90).save(film)
    (folder / "ReXRank_test.json").write_text(json.dumps(studies))
    assert "NaN" in (folder / "ReXRank_test.json").read_text()
    return folder


def rows_of(studies):
    return {row["study_id"]: row for row in studies.table.remove_columns("image")}


def test_mimic_entries(tmp_path):
    studies = rexrank.read(put(tmp_path, MIMIC), size=64)
    rows = rows_of(studies)
    assert studies.counts["rows"] == 3 and studies.table["image"][0].size == (64, 64)
    one, two, three = (rows[key] for key in MIMIC)
    assert (one["view"], one["image_path"]) == ("PA", "files/p10/p10000032/s50051329/b.jpg")
    assert (one["findings"], one["impression"], one["indication"], one["comparison"]) == ("Clear.", None, "Fever.", "___.")
    assert (one["age"], one["sex"]) == (None, "female") and "age_band_10_20" in one["flags"]
    assert two["view"] is None and (two["indication"], two["sex"]) == (None, None)  # 'Erect' is no view
    assert (three["age"], three["view"], three["comparison"]) == (90, "LATERAL", "Radiograph of ___.") and "not_frontal" in three["flags"]
    assert one["patient_id"] == two["patient_id"] == "10000032" and two["prior_study_id"] is None  # ids say nothing of the order


def test_chexpert_entries(tmp_path):
    one = rows_of(rexrank.read(put(tmp_path, CHEXPERT), size=64, source="rexrank_chexpert"))["patient64620_study1"]
    assert [one[name] for name in ("age", "sex", "race", "view", "patient_id", "source")] == [
        77,
        "female",
        "black",
        "AP",
        "patient64620",
        "rexrank_chexpert",
    ]
    assert [one[name] for name in ("findings", "indication", "comparison")] == [None, None, None]  # 'None.' is a filler there


def test_the_key_orders_a_patients_studies_where_it_says_the_number(tmp_path):
    entry = {"image_path": ["x.jpg"], "frontal_lateral": ["Frontal"], "section_findings": "Clear.", "split": "test"}
    keys = ["east00001_study10", "east00001_study2", "east00001_study1", "patient7_study1", "CXR12_IM-3"]
    (tmp_path / "set.json").write_text(json.dumps(dict.fromkeys(keys, entry)))
    rows = rows_of(rexrank.read(tmp_path / "set.json", pixels=False))
    assert [rows[key]["prior_study_id"] for key in keys] == ["east00001_study2", "east00001_study1", None, None, None]
    assert [rows[key]["patient_id"] for key in keys] == ["east00001"] * 3 + ["patient7", "CXR12"]
    numbered = {key: {**entry, "subject_id": "east00001" if "east" in key else 10000032} for key in keys}
    (tmp_path / "set.json").write_text(json.dumps(numbered))
    rows = rows_of(rexrank.read(tmp_path / "set.json", pixels=False))
    assert rows[keys[0]]["prior_study_id"] == keys[1] and rows[keys[3]]["patient_id"] == "10000032"  # the entry's word counts
    assert rows[keys[3]]["study_order"] is None


def test_references_as_the_leaderboard_builds_them(tmp_path):
    references = rexrank.leaderboard_references(put(tmp_path, {**MIMIC, **CHEXPERT}, films=False) / "ReXRank_test.json")
    assert references["50051329"] == "Findings:  Clear.\n Impression: None"
    assert references["patient64620_study1"] == "Findings: None Impression: 1. CLEAR."


@pytest.mark.parametrize(
    "context, parts",
    [
        ("Age:None.Gender:M.Indication: x", {"sex": "M", "indication": "x"}),
        ("Age:77.0.Gender:F.Indication:nanComparison: None.", {"age": "77.0", "sex": "F", "comparison": "None."}),
        ("Indication: INDICATION: Pain. Comparison: XXXX at 23:15.", {"indication": "Pain.", "comparison": "XXXX at 23:15."}),
        (" Comparison: None", {}),
        ("<context>Indication: a\nb Comparison: c</context>", {"indication": "a\nb", "comparison": "c"}),
        ("words of no grammar", {"indication": "words of no grammar"}),
        ("", {}),
    ],
)
def test_contexts(context, parts):
    assert {k: v for k, v in rexrank.parse_context(context).items() if v is not None} == parts


SAID = st.text(st.sampled_from("ab .:\n0-9<>"), max_size=20)


PERSONS = st.sampled_from(["Age:50-60.", "Age:None.Gender:M.", "Gender:F.", ""])


@settings(max_examples=200, deadline=None)
@given(SAID, SAID, PERSONS, st.sampled_from(["Indication: ", "Indication:", ""]))
def test_no_word_of_a_context_is_lost(indication, comparison, person, mark):
    assume(mark or not person)
    for context in (f"{person}{mark}{indication}Comparison: {comparison}", f"<context>{person}{mark}{indication}</context>"):
        parts = rexrank.parse_context(context)
        assert (parts["indication"] or "").split() == (indication.split() if stated(indication) else [])
        assert (parts["comparison"] or "").split() == (comparison.split() if "Comparison" in context and stated(comparison) else [])
        assert parts["sex"] == {"M": "M", "F": "F"}.get(person[-2:-1]) and parts["age"] == ("50-60" if "50" in person else None)


def test_reports_without_section_fields():
    assert rexrank.sections_of({"reports": "Findings:Clear.Impression:None."}) == {"findings": "Clear.", "impression": None}
    assert rexrank.sections_of({"report": "All well."}) == {"findings": "All well.", "impression": None}


def test_which_file_must_be_clear(tmp_path):
    with pytest.raises(StudyError, match="0 files"):
        rexrank.read(tmp_path)
    put(tmp_path, MIMIC)
    (tmp_path / "other.json").write_text(json.dumps(CHEXPERT))
    with pytest.raises(StudyError, match="2 files"):
        rexrank.read(tmp_path)
    assert rexrank.read(tmp_path / "other.json", pixels=False).counts["seen"] == 1
    (tmp_path / "other.json").write_text(json.dumps(CHEXPERT)[:-30])
    with pytest.raises(StudyError, match=r"other\.json"):
        rexrank.read(tmp_path / "other.json", pixels=False)


def test_odd_entries_are_set_aside_not_fatal(tmp_path):
    lone = {"image_path": "x.png", "frontal_lateral": "Frontal"}
    good = {"image_path": "d.png", "frontal_lateral": "Frontal"}
    Image.linear_gradient("L").save(tmp_path / "d.png")
    (tmp_path / "odd.json").write_text(json.dumps({"a": 5, "b": {"image_path": None, "context": math.nan}, "c": lone, "d": good}))
    studies = rexrank.read(tmp_path / "odd.json", size=64)
    assert studies.counts["seen"] == 4 and set(studies.quarantine) == {"a", "b", "c"}
    assert studies.quarantine["c"]["reason"] == "file is missing"


# The real files

REAL = study_root().parent / "shared" / "real_data" / "iu_xray_text"


@pytest.mark.skipif(not REAL.is_dir(), reason="the real ReXrank files are not on this machine (../shared/real_data/iu_xray_text)")
@pytest.mark.parametrize("name, studies, mismatched", [("test", 590, 46), ("valid", 296, 22)])
def test_real_iu_files(name, studies, mismatched):
    file = REAL / f"ReXRank_IUXray_{name}.json"
    read = rexrank.read(file, pixels=False)
    assert read.counts["rows"] == read.counts["seen"] == studies and read.counts["flags"]["view_list_mismatch"] == mismatched
    assert read.counts["sections"]["findings_and_impression"] == studies
    assert sum(view is None for view in read.table["view"]) == mismatched  # flagged, not zipped
    raw = json.loads(file.read_text())
    assert rexrank.leaderboard_references(file) == {key: entry["report"] for key, entry in raw.items()}
    rows = rows_of(read)
    for key, entry in raw.items():  # no word of a context is lost
        said = f"{rows[key]['indication'] or ''} {rows[key]['comparison'] or ''}"
        assert re.sub(r"(?i)\bindication:|Comparison:( None$)?", "", entry["context"]).split() == said.split()
