"What the phantom's reports promise: grammar of the archive, exact facts, readers as described."

import re

import numpy as np
import pytest

from unirg.core import StudyError
from unirg.phantom.dictation import (
    NOUNS,
    PREDICTABLE,
    SEVERITY_WORDS,
    SHOWN,
    STYLES,
    UNCERTAIN,
    Readership,
    best_thresholds,
    dictate,
    listed,
    speaks,
    tidy,
)
from unirg.phantom.patients import draw_patient

KEYS = list(STYLES)


@pytest.fixture(scope="module")
def reports():
    def all_of(key):
        for index in range(250):
            patient = draw_patient(key, index, seed=4)
            for order in range(len(patient.visits)):
                yield patient, patient.visits[order], dictate(patient, order, seed=4)

    return {key: list(all_of(key)) for key in KEYS}


def test_sections_and_their_order(reports):
    orders = {
        "mimic_cxr": ["examination", "indication", "comparison", "findings", "impression"],
        "chexpert_plus": ["indication", "comparison", "findings", "impression"],
        "rexgradient": ["indication", "comparison", "findings", "impression"],
        "iu_xray": ["comparison", "indication", "findings", "impression"],
        "rexrank": ["indication", "comparison", "findings", "impression"],
    }
    for key in KEYS:
        for _, _, report in reports[key]:
            assert list(report.sections) == [name for name in orders[key] if name in report.sections]
            assert report.sections["impression"] and all(words == words.strip() and words for words in report.sections.values())
    share = np.mean(["findings" in r.sections for _, _, r in reports["chexpert_plus"]])
    assert 0.2 < share < 0.35 and all("findings" in r.sections for _, _, r in reports["mimic_cxr"])


def test_mimic_text_has_the_archive_s_grammar(reports):
    header = re.compile(r"\n ([A-Z ()/,-]+):\s")  # the published section parser's rule
    for _, _, report in reports["mimic_cxr"]:
        assert all(line.startswith(" ") and len(line) <= 79 for line in report.text.splitlines())
        assert [name.lower() for name in header.findall(report.text)] == list(report.sections)
        flat = " ".join(report.text.split())
        assert all(words in flat for words in report.sections.values())


def test_chexpert_text_is_numbered_and_one_reader_shouts(reports):
    capitals = 0
    for _, _, report in reports["chexpert_plus"]:
        assert report.text.endswith("END OF IMPRESSION\n") and report.sections["impression"].startswith("1. ")
        capitals += report.sections["impression"].isupper()
        assert report.sections["impression"].isupper() == (report.reader == "brackwater-3")
    assert 0.05 < capitals / len(reports["chexpert_plus"]) < 0.25


def test_lengths_suit_a_small_policy(reports):
    for key in KEYS:
        findings, impression = (
            np.array([len(r.sections[name].split()) for _, _, r in reports[key] if name in r.sections])
            for name in ("findings", "impression")
        )
        assert 14 <= findings.mean() <= 36 and np.quantile(findings, 0.99) <= 62
        if key == "chexpert_plus":
            short = [len(r.sections["impression"].split()) for _, _, r in reports[key] if "findings" in r.sections]
            assert max(short) <= 19 and impression.mean() < 22  # numbers count as words
        else:
            assert impression.max() <= 19


def _noun(finding):
    return {
        "cardiomegaly": r"cardiomegaly|heart|cardiac", "enlarged_mediastinum": "mediastin",
        "support_devices": "line|catheter|tube|pacemaker|port",
        "lung_lesion": "nodul", "pleural_effusion": "effusion", "lung_opacity": "opacity",
    }.get(finding, finding)  # fmt: skip


def test_facts_say_what_the_text_says(reports):
    for key in KEYS:
        for _, _, report in reports[key]:
            for fact in report.facts:
                text = report.sections[fact["section"]].lower()
                about = [s for s in re.split(r"(?<=[a-z])\.(?:\s|$)", text) if re.search(_noun(fact["finding"]), s)]
                assert about, (fact, text)
                if fact["severity"]:
                    words = {SEVERITY_WORDS[kind][fact["severity"]] for kind in SEVERITY_WORDS}
                    assert any(word in s for s in about for word in words), (fact, text)
                if fact["side"] and fact["side"] != "bilateral":
                    assert any(fact["side"] in s or "lingul" in s for s in about), (fact, text)
                if fact["status"] == "absent" and fact["change"] is None:
                    assert any(re.search(r"\bno\b|normal", s) for s in about), (fact, text)
                if fact["status"] == "uncertain":
                    assert any(re.search("possible|questionable|suspected|may |cannot be|borderline", s) for s in about), (fact, text)


def test_no_report_contradicts_itself(reports):
    for key in KEYS:
        for _, _, report in reports[key]:
            said = {}
            for fact in report.facts:
                if fact["change"] != "resolved":
                    said.setdefault(fact["finding"], set()).add(fact["status"])
            assert all(len(statuses) == 1 for statuses in said.values()), (said, report.text)
            degrees = {}
            for fact in report.facts:
                if fact["severity"]:
                    assert degrees.setdefault((fact["finding"], fact["side"]), fact["severity"]) == fact["severity"]


def test_nothing_is_stated_that_is_not_on_the_film(reports):
    for key in KEYS:
        for _, visit, report in reports[key]:
            shown = {s.finding for s in visit.signs}
            for fact in report.facts:
                assert fact["status"] == "absent" or fact["finding"] in shown | {"lung_opacity"}


def statements_by_severity(readership):
    plain, faint, doubtful, sure = [], [], [], []
    for key in KEYS:
        for index in range(150):
            patient = draw_patient(key, index, seed=4)
            for order, visit in enumerate(patient.visits):
                report = dictate(patient, order, 4, readership)
                for sign in visit.signs:
                    stated = report.status_of(sign.finding, sign.side) in ("present", "uncertain")
                    if sign.severity > 2 / 3:
                        plain.append(stated)
                        sure.append(report.status_of(sign.finding, sign.side) != "uncertain")
                    if sign.severity < 0.15 and sign.finding != "support_devices":
                        faint.append(stated)
                    if abs(sign.severity - readership.threshold) < 0.08 and stated and sign.finding != "support_devices":
                        doubtful.append(report.status_of(sign.finding, sign.side) == "uncertain")
    return map(np.mean, (plain, faint, doubtful, sure))


def test_predictable_readers_state_what_is_plain_and_little_else():
    plain, faint, doubtful, sure = statements_by_severity(PREDICTABLE)
    assert plain > 0.97 and faint < 0.08 and 0.5 < doubtful < 0.85 and sure > 0.97


def test_uncertain_readers_miss_plain_signs_now_and_then():
    plain, faint, doubtful, sure = statements_by_severity(UNCERTAIN)
    assert 0.82 < plain < 0.93 and faint < 0.15 and 0.5 < doubtful < 0.85 and sure > 0.85


def test_changes_need_a_prior(reports):
    for key in KEYS:
        for _, visit, report in reports[key]:
            if visit.order == 0:
                assert all(fact["change"] is None for fact in report.facts)
    stated = {f["change"] for _, _, r in reports["mimic_cxr"] for f in r.facts} - {None}
    assert stated == {"new", "unchanged", "improved", "worsened", "resolved"}


def test_the_unseen_institution_uses_known_words(reports):
    told = {key: " ".join(r.sections.get(s, "") for _, _, r in reports[key] for s in ("findings", "impression")) for key in KEYS}
    words = {key: set(re.findall(r"[a-z]+", told[key].lower())) for key in KEYS}
    known = set().union(*(words[key] for key in KEYS if key != "rexrank"))
    assert not words["rexrank"] - known
    assert len(known) < 200  # a small vocabulary for a small policy


def test_presence_is_worded_in_several_ways_and_absence_in_one():
    for style in STYLES.values():
        for wording, fewest, beginnings in (("plain", 2, 1), ("varied", 4, 4)):
            ways = style.phrases[wording]
            assert set(NOUNS) == set(ways)
            for key, words in ways.items():
                assert len(words) >= fewest
                assert len({tidy(re.sub(r"[{].*?[}]", "", way)).split()[0] for way in words}) >= beginnings, (key, words)


@pytest.mark.parametrize(
    ("given", "named"),
    [
        ({"threshold": 1.2}, "reader_threshold is 1.2"),
        ({"threshold": -0.1}, "reader_threshold is -0.1"),
        ({"unevenness": 0}, "reader_unevenness is 0"),
        ({"boilerplate": 9}, "reader_boilerplate is 9"),
        ({"wording": "rich"}, "reader_wording is 'rich'"),
    ],
)
def test_a_world_of_readers_that_cannot_be_is_refused(given, named):
    with pytest.raises(StudyError, match=re.escape(named)):
        Readership(**given)


def test_each_setting_of_the_readers_does_what_it_says():
    def reports_of(readership):
        return [dictate(draw_patient("iu_xray", i, 8), 0, 8, readership) for i in range(300)]

    def stated(reports):
        return sum(fact["status"] != "absent" for r in reports for fact in r.facts if fact["section"] == "findings")

    usual, padding = reports_of(PREDICTABLE), ("XXXX are unremarkable", "granuloma", "degenerative")
    assert usual == reports_of(PREDICTABLE)
    quiet = reports_of(Readership(0.7, 0.09, "plain", 1.0))
    uneven = reports_of(Readership(0.38, 0.3, "plain", 1.0))
    varied = reports_of(Readership(0.38, 0.09, "varied", 1.0))
    padded = reports_of(Readership(0.38, 0.09, "plain", 3.0))
    assert stated(quiet) < 0.75 * stated(usual)
    assert stated(uneven) != stated(usual)
    assert [r.facts for r in varied] == [r.facts for r in usual]
    assert len({r.sections["findings"] for r in varied}) > len({r.sections["findings"] for r in usual})
    counts = [sum(any(words in r.sections["findings"] for words in padding) for r in some) for some in (usual, padded)]
    assert counts[1] > 2 * counts[0]


def test_the_same_seed_gives_the_same_report_and_another_differs():
    patient = draw_patient("rexgradient", 5, seed=4)
    assert dictate(patient, 0, seed=4) == dictate(patient, 0, seed=4)
    assert any(dictate(draw_patient("rexgradient", i, 4), 0, 4) != dictate(draw_patient("rexgradient", i, 4), 0, 5) for i in range(5))
    with pytest.raises(StudyError, match="no visit 9"):
        dictate(patient, 9, seed=4)


def test_small_parts():
    assert tidy("a  airspace  consolidation ") == "An airspace consolidation."
    assert listed(["a"]) == "a" and listed(["a", "b", "c"]) == "a, b or c"
    assert speaks(0.38, 0.38) == 0.5


def test_the_oracle_beats_any_other_threshold():
    rng = np.random.default_rng(0)
    severity = rng.random((400, len(SHOWN))) * (rng.random((400, len(SHOWN))) < 0.3)
    stated = (severity > 0) & (rng.random(severity.shape) < 1 / (1 + np.exp(-(severity - 0.4) / 0.1)))
    _, best = best_thresholds(severity, stated)
    for cut in np.linspace(0.05, 0.95, 19):
        called = severity > cut
        assert best >= 2 * (called & stated).sum() / (called.sum() + stated.sum()) - 1e-9
