"Texts that must not pay: that they say what their names promise, and what the composite pays for them."

import json
import re

import pandas
import pytest

from unirg.core import StudyError, study_root
from unirg.phantom.dictation import dictate
from unirg.phantom.patients import INSTITUTIONS, draw_patient
from unirg.reward.findings import facts
from unirg.reward.metrics import default_bertscore, fact_f1, label_cosine, repeated_share
from unirg.reward.probes import (
    DEGREES,
    NORMAL,
    ORDER,
    PROBES,
    RIGHT,
    SIDES,
    swap_words,
    exploitable_probes,
    heat_map,
    hedged,
    negation_flipped,
    paraphrase,
    probe_table,
    probe_texts,
    shares,
    add_mismatched_reports,
)

REPORT = (
    "Findings: The heart is mildly enlarged. There is a small left pleural effusion, unchanged. Cardiomegaly without edema. "
    "2.5 cm right nodule. No pneumothorax or consolidation. The mediastinum is normal. Impression: 1. Small left pleural effusion."
)


def statuses(text: str) -> dict[str, str]:
    return {fact.finding: fact.status for fact in facts(text)}


def test_flipping_turns_every_fact_round():
    flipped = negation_flipped(REPORT)
    assert statuses(flipped) == {name: "absent" if status == "present" else "present" for name, status in statuses(REPORT).items()}
    assert flipped.startswith("Findings: ") and " Impression: 1. " in flipped and "2.5 cm" in flipped


def test_hedging_makes_every_finding_possible_and_nothing_else():
    assert statuses(hedged(REPORT)) == {name: status.replace("present", "uncertain") for name, status in statuses(REPORT).items()}
    assert hedged("The heart is normal.") == "The heart is normal."


def test_swaps_change_one_thing_only():
    other = {"left": "right", "right": "left"}
    assert facts(swap_words(REPORT, SIDES)) == [fact._replace(side=other.get(fact.side, fact.side)) for fact in facts(REPORT)]
    shifted = facts(swap_words(REPORT, DEGREES))
    assert [fact._replace(severity=None) for fact in shifted] == [fact._replace(severity=None) for fact in facts(REPORT)]
    assert all(ours.severity != theirs.severity for ours, theirs in zip(shifted, facts(REPORT)) if theirs.severity)
    assert swap_words("LEFT and Right", SIDES) == "RIGHT and Left"


def test_a_paraphrase_says_the_same_in_other_words():
    assert paraphrase(REPORT) != REPORT and set(facts(paraphrase(REPORT))) == set(facts(REPORT))


def test_probes_that_change_nothing_are_left_out():
    made = probe_texts("The heart is normal. Calcified left granuloma.")
    assert "side swapped" not in made and "severity shifted" not in made and "prior copied" not in made
    assert "constant normal" not in probe_texts(NORMAL.upper())
    report = REPORT + " Small right and large left atelectasis. Endotracheal tube in place."
    assert set(probe_texts(report, prior="Clear lungs.", other="Large right pneumothorax.")) == set(ORDER) == {"reference", *PROBES} | {
        "prior copied",
        "other patient's report",
        "other patient's finding",
    }
    with pytest.raises(StudyError, match="empty"):
        probe_texts(" ")


def phantom_studies() -> list[dict]:
    studies = []
    for institution in INSTITUTIONS:
        for index in range(12):
            patient = draw_patient(institution, index, 17)
            visits = [dictate(patient, visit, 17).sections for visit in range(len(patient.visits))]
            texts = [" ".join(f"{n.title()}: {s[n]}" for n in ("findings", "impression") if s.get(n)) for s in visits]
            studies.append({"study_id": f"{institution} {index}", "reference": texts[-1], "prior": texts[-2] if len(texts) > 1 else None})
    return studies


def real_studies() -> list[dict]:
    path = study_root().parent / "shared" / "real_data" / "iu_xray_text" / "ReXRank_IUXray_valid.json"
    if not path.exists():
        pytest.skip("needs ../shared/real_data/iu_xray_text")
    rows = {name: row for name, row in json.loads(path.read_text()).items() if int(re.match(r"CXR(\d+)", name)[1]) % 2}
    form = "Findings: {section_findings} Impression: {section_impression}"
    return [{"study_id": name, "reference": form.format_map(row)} for name, row in list(rows.items())[:100]]


@pytest.mark.parametrize("studies", [phantom_studies, real_studies])
def test_the_composite_cannot_be_gamed_by_any_probe(studies):
    "Over the abnormal studies of a source; the real ones are of odd uids, which nothing was developed on."
    paid = shares(probe_table(add_mismatched_reports(studies())), ["composite_step1", "composite_step2"])
    assert (paid[(paid.probe != "reference") & paid.abnormal][["composite_step1", "composite_step2"]] <= 1 + 1e-6).all(axis=None)
    means = paid[paid.abnormal].groupby("probe")[["composite_step1", "composite_step2"]].mean()
    assert set(ORDER) - set(means.index) <= {"prior copied", "figures changed", "degrees exchanged"} and not exploitable_probes(means).any(
        axis=None
    )
    assert (means.loc[["negation flipped", "side swapped", "constant normal"]] < 2 / 3).all(axis=None)
    assert (means.drop(index="reference") < 1 - 1e-6).all(axis=None)


def test_a_measure_that_can_be_gamed_is_shown_as_such():
    "A measure of one's own that counts words of the reference, however often they are said."

    def words(hypotheses, references):
        hits = [sum(word in set(r.split()) for word in h.split()) for h, r in zip(hypotheses, references)]
        return pandas.DataFrame({"hits": hits})

    table = probe_table([{"reference": REPORT, "other": "Clear lungs."}], words)
    means = shares(table, ["hits"]).groupby("probe")[["hits"]].mean()
    assert means.hits["reference twice"] == 2 and set(exploitable_probes(means).index[exploitable_probes(means).hits]) >= {
        "reference twice", "side swapped",
    }
    assert not exploitable_probes(means).hits[["reference", "paraphrase", "empty"]].any() and "empty" not in RIGHT
    exact = pandas.DataFrame({"facts": {name: 1.0 if name in RIGHT[:2] else 0.5 for name in means.index}})
    assert not exploitable_probes(exact).any(axis=None)  # a paraphrase worth as much as the reference is no fault
    frames = sum(patch.get_linewidth() > 1 for patch in heat_map(table, ["hits"]).axes[0].patches)
    assert frames == exploitable_probes(means).sum(axis=None)


def test_what_is_missing_is_named():
    with pytest.raises(StudyError, match="no study"):
        probe_table([])
    with pytest.raises(StudyError, match="abnormal"):
        heat_map(probe_table([{"reference": "The heart is normal."}], lambda h, r: pandas.DataFrame({"hits": [1.0] * len(h)})))


def test_a_wrong_side_is_worse_than_a_missing_finding_and_half_a_bilateral_one_is_not_wrong():
    reference = "Small left pleural effusion. Mild cardiomegaly. Pulmonary edema."
    missing, wrong = reference.replace("Small left pleural effusion. ", ""), reference.replace("left", "right")
    assert fact_f1(wrong, reference) < fact_f1(missing, reference)
    both = reference.replace("left pleural effusion", "bilateral pleural effusions")
    assert fact_f1(reference, both) == pytest.approx(fact_f1(both, reference)) and fact_f1(both, reference) > fact_f1(wrong, reference)
    assert label_cosine(wrong, reference) < label_cosine(reference.replace("left ", ""), reference) < 1


def test_repetition_is_unmatched_as_far_as_it_makes_a_report_longer():
    text = "No edema. Small left effusion. "
    assert repeated_share(text * 2, text) == 0.5 and repeated_share(text * 2, text * 2) == 0 == repeated_share("", text)
    assert repeated_share("No edema. No edema.", "No edema. There is no pneumothorax.") == 0  # no longer than the reference
    once, twice = default_bertscore().score([text, text * 2], [text, text])
    assert once > 0.999 and twice < 0.5
