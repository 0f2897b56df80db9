"""Repeated visits: priors, encounters, categories of change, and talk of change against other ways of counting it."""

import random

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import recall_score

from unirg.analysis import longitudinal
from unirg.analysis.longitudinal import REFERENCE
from unirg.analysis.statistics import holm, paired_difference, summarise
from unirg.core import StudyError
from unirg.data.studies import Record
from unirg.reward.judge import temporal_scores

SENTENCES = [
    "Left pleural effusion, worsened.", "Left pleural effusion, unchanged.", "Edema has improved.", "New right pneumothorax.",
    "Stable consolidation.", "No pleural effusion.", "Cardiomegaly.", "Edema.", "Consolidation has increased.",
]  # fmt: skip


def courses(patients=40, seed=0):
    "Patients with one to four studies, each the prior of the next, with made-up reports."
    dice, rows = random.Random(seed), []
    for p in range(patients):
        for i in range(dice.randint(1, 4)):
            said = " ".join(dice.sample(SENTENCES, 2))
            prior = f"p{p}v{i - 1}" if i else None
            rows.append(
                {
                    "source": "toy",
                    "study_id": f"p{p}v{i}",
                    "patient_id": f"p{p}",
                    "prior_study_id": prior,
                    "findings": said,
                    "impression": None,
                }
            )
    return pd.DataFrame(rows)


def reports(studies, seed):
    "What a system with that seed writes."
    dice = random.Random(seed)
    return {study: f"Findings: {' '.join(dice.sample(SENTENCES, 2))}" for study in studies.study_id}


@pytest.mark.parametrize("seed", range(5))
def test_a_shuffled_prior_is_another_patients_and_each_is_used_once(seed):
    studies = courses(seed=seed)
    right, wrong = longitudinal.priors_of(studies), longitudinal.shuffled_priors(studies, seed)
    assert set(right) == set(wrong) and sorted(right.values()) == sorted(wrong.values())
    assert all(study.split("v")[0] != prior.split("v")[0] for study, prior in wrong.items())
    assert longitudinal.shuffled_priors(studies.sample(frac=1, random_state=1), seed) == wrong


def test_a_run_given_another_patients_prior_is_compared_with_the_run_given_its_own():
    studies = courses()
    said = {"sft-s1": reports(studies, 1), "twin-s1": reports(studies, 2), "twin_other-s1": reports(studies, 3)}
    arms = {"twin_other": "twin"}
    scores = longitudinal.score_conditions(said, studies, "findings")
    figure, table = longitudinal.panel_3a(scores, ["sft", "twin", "twin_other"], ["fact_f1"], 200, arms=arms)
    rows = table.dropna(subset=["against"]).set_index(["run", "against"])
    means = scores.groupby("system").fact_f1.mean()
    assert sorted(rows.index) == [("twin", "sft"), ("twin_other", "sft"), ("twin_other", "twin")]
    assert rows.difference["twin_other", "twin"] == pytest.approx(means["twin_other-s1"] - means["twin-s1"])
    assert rows.p_holm.to_numpy() == pytest.approx(holm(rows.p)), "one correction over the panel"
    talk = longitudinal.temporal_table(said, studies, "findings", against="sft", resamples=200, arms=arms)
    own = talk[talk.measure == "change_f1"].dropna(subset=["against"]).set_index(["run", "against"])
    levels = talk[talk.measure == "change_f1"].drop_duplicates("run").set_index("run").estimate
    assert own.difference["twin_other", "twin"] == pytest.approx(levels["twin_other"] - levels["twin"]) and len(own) == 3
    drawn, _ = longitudinal.panel_temporal(talk, [REFERENCE, "sft", "twin", "twin_other"])
    assert len(figure.axes) and len(drawn.axes)


def test_one_patient_alone_cannot_be_shuffled():
    studies = courses()
    with pytest.raises(StudyError, match="one patient has"):
        longitudinal.shuffled_priors(studies[studies.patient_id == studies.patient_id[studies.prior_study_id.notna().idxmax()]])


def test_priors_outside_the_table_or_without_a_report_are_not_copied():
    studies = courses()
    first = studies[studies.prior_study_id.notna()].iloc[0]
    silent = studies.assign(findings=studies.findings.where(studies.study_id != first.prior_study_id))
    assert first.study_id in longitudinal.copied(longitudinal.priors_of(studies), studies)
    assert first.study_id not in longitudinal.copied(longitudinal.priors_of(silent), silent)
    gone = studies[studies.study_id != first.prior_study_id]
    assert first.study_id not in longitudinal.priors_of(gone)


def test_encounters_by_three_groupings_and_those_an_archive_cannot_tell():
    when = [(1, 0.0, "x"), (1, 2.0, "x"), (1, 20.0, "y"), (1, 70.0, "z"), (2, 0.0, "w")]
    records = [Record("toy", f"s{i}", f"p{p}", order_key=day, admission=stay, split="test") for i, (p, day, stay) in enumerate(when)]
    found = longitudinal.encounter_numbers(records)
    assert found["patient"].tolist() == [1, 2, 3, 4, 1]
    assert found["admission"].tolist() == [1, 2, 1, 1, 1]
    assert found["gap 30"].tolist() == [1, 2, 3, 1, 1]
    plain = [Record("toy", f"s{i}", "p", order_key=i, split="test") for i in range(3)]
    plain += [Record("toy", f"u{i}", "q", order_key=i or None, split="test") for i in range(2)]  # the order of q's studies is not known
    found = longitudinal.encounter_numbers(plain)
    assert list(found) == ["patient"] and found["patient"].notna().tolist() == [True, True, True, False, False]


def test_an_archives_own_lists_are_read_without_films_or_reports(tmp_path):
    from unirg.data.sources import read_source
    from unirg.phantom.archives import write_archive

    write_archive("mimic_cxr", tmp_path, 30, 3)
    root = tmp_path / "mimic_cxr"
    prepared = read_source("mimic_cxr", root, pixels=False, encounters="gap 30").table.to_pandas().set_index("study_id")
    for report in root.rglob("*.txt"):
        report.unlink()
    found = longitudinal.encounter_numbers(longitudinal.archive_records("mimic_cxr", root, {"when_missing": "skip"}))
    assert list(found) == list(longitudinal.GROUPINGS)
    both = found["gap 30"].reindex(prepared.index)
    assert both.notna().any() and (both.dropna() == prepared.encounter[both.notna()]).all()


@pytest.mark.parametrize(
    "text, category",
    [
        ("New right pneumothorax. Edema has improved.", "new"),
        ("Edema has worsened. Effusion is unchanged.", "progression"),
        ("The left effusion has resolved. Stable cardiomegaly.", "regression"),
        ("Unchanged cardiomegaly.", "no change"),
        ("Cardiomegaly.", "not stated"),
    ],
)
def test_a_reference_falls_into_the_first_category_it_states(text, category):
    assert longitudinal.change_category(text, True) == category and longitudinal.change_category(text, False) == "first study"


def test_rates_of_talk_of_change_are_those_of_the_reward_rooms_own_count():
    studies = courses()
    systems = {"sft-s1": reports(studies, 1), "rl2-s1": reports(studies, 2)}
    table = longitudinal.temporal_table(systems, studies, against="sft", resamples=200).set_index(["run", "measure"])
    references, has_prior = [f"Findings: {text}" for text in studies.findings], studies.prior_study_id.notna().tolist()
    for system, said in systems.items():
        theirs = temporal_scores([said[i] for i in studies.study_id], references, has_prior)
        run = system.split("-")[0]
        assert table.estimate[run, "change_f1"] == pytest.approx(theirs["change_f1"])
        assert table.estimate[run, "prior_language_without_prior"] == pytest.approx(theirs["hallucinated_prior"])
        assert table.estimate[REFERENCE, "prior_language_without_prior"] == pytest.approx(theirs["reference_hallucinated_prior"])
    assert table.estimate[REFERENCE, "change_f1"] == table.estimate[REFERENCE, "progression_accuracy"] == 1
    assert table.cases["sft", "prior_language_without_prior"] == has_prior.count(False)
    gap = table.loc[("rl2", "change_f1")]
    assert gap.difference == pytest.approx(table.estimate["rl2", "change_f1"] - table.estimate["sft", "change_f1"])
    assert gap.difference_low < gap.difference < gap.difference_high and gap.p <= gap.p_holm


def test_progression_accuracy_is_mean_recall_of_the_classes_then_of_the_findings():
    studies = courses(80)
    said = reports(studies, 4)
    labels = {i: longitudinal.progression_of(text) for i, text in zip(studies.study_id, studies.findings)}
    table = longitudinal.temporal_table({"sft-s1": said}, studies, labels=labels, resamples=10).set_index(["run", "measure"])
    recalls = []
    for finding in longitudinal.PROGRESSION_FINDINGS:
        rows = [i for i in studies.study_id if finding in labels[i]]
        if rows:
            real = [labels[i][finding] for i in rows]
            read = [longitudinal.progression_of(said[i]).get(finding, "unsaid") for i in rows]
            recalls.append(recall_score(real, read, labels=sorted(set(real)), average="macro", zero_division=0))
    assert table.estimate["sft", "progression_accuracy"] == pytest.approx(np.mean(recalls)) and len(recalls) > 2


def test_seeds_are_pooled_in_the_table_and_studies_may_not_differ():
    studies = courses()
    said = {f"sft-s{s}": reports(studies, s) for s in (1, 2)}
    table = longitudinal.temporal_table(said, studies, resamples=50).set_index(["run", "measure"])
    each = [float(v) for v in table.by_seed["sft", "keyword_f1"].split()]
    assert table.seeds["sft", "keyword_f1"] == 2 and table.estimate["sft", "keyword_f1"] == pytest.approx(np.mean(each), abs=1e-3)
    del said["sft-s2"]["p0v0"]
    with pytest.raises(StudyError, match=r"sft-s2 has no report for 1 of .* 'p0v0'"):
        longitudinal.temporal_table(said, studies)


def test_a_copier_is_nearer_to_the_prior_than_to_the_reference():
    studies = courses()
    copies = longitudinal.copied(longitudinal.priors_of(studies), studies)
    said = {i: copies.get(i, "Findings: Clear.") for i in studies.study_id}
    table = longitudinal.temporal_table({"copier-s1": said}, studies, resamples=50).set_index(["run", "measure"])
    assert table.estimate["copier", "similarity_to_prior"] == 1 > table.estimate["copier", "similarity_to_reference"]
    own = table.estimate[REFERENCE]
    assert own["similarity_to_reference"] == 1 and own["similarity_to_prior"] == pytest.approx(
        table.estimate["copier", "similarity_to_reference"]
    )


def test_keywords_are_sets_of_whole_words():
    assert longitudinal.keyword_f1("Unfolded aorta. No change.", "unchanged") == 0
    assert longitudinal.keyword_f1("Larger, larger effusion.", "Larger new effusion") == pytest.approx(2 / 3)
    assert longitudinal.keyword_f1("Clear.", "Effusion.") == 1 and longitudinal.keyword_f1("Stable.", "Clear.") == 0
    assert len(longitudinal.KEYWORDS) == 44


def test_ms_cxr_t_labels_without_those_disagreed_on(tmp_path):
    names = [f"{f}_{kind}" for f in longitudinal.PROGRESSION_FINDINGS for kind in ("progression", "label_quality")]
    table = pd.DataFrame([{"study_id": "s50000001"}, {"study_id": "files/p10/p10000001/s50000002"}], columns=["study_id", *names])
    table["edema_progression"], table["edema_label_quality"] = ["improving", "stable"], ["one_expert", "disagreement"]
    table["pneumonia_progression"], table["pneumonia_label_quality"] = ["worsening", "worsening"], "multiple_experts"
    table.to_csv(tmp_path / "t.csv", index=False)
    found = longitudinal.ms_cxr_t(tmp_path / "t.csv")
    assert found == {"50000001": {"edema": "improving", "pneumonia": "worsening"}, "50000002": {"pneumonia": "worsening"}}
    table.drop(columns="edema_progression").to_csv(tmp_path / "t.csv", index=False)
    with pytest.raises(StudyError, match="edema_progression"):
        longitudinal.ms_cxr_t(tmp_path / "t.csv")


def score_table(studies, shift=0.0, seed=0, run="sft"):
    rng = np.random.default_rng(seed)
    table = studies[["study_id", "patient_id"]].assign(system=f"{run}-s1", dataset="toy")
    return table.assign(composite_step1=0.5 + shift + rng.normal(0, 0.1, len(studies)))


def test_strata_are_summarised_and_compared_as_sets_of_their_own():
    studies = courses(60)
    scores = pd.concat([score_table(studies), score_table(studies, 0.1, 1, "rl2")], ignore_index=True)
    strata = {i: "first" if i.endswith("v0") else "later" for i in studies.study_id if not i.endswith("v3")}
    found = longitudinal.by_stratum(scores, strata, ["sft", "rl2"], "composite_step1", 500).set_index(["run", "stratum"])
    part = scores[scores.study_id.map(strata) == "first"]
    alone = summarise(part, ["composite_step1"], 500).set_index("run")
    assert found.estimate["rl2", "first"] == pytest.approx(alone.estimate["rl2"]) and found.low["rl2", "first"] == pytest.approx(
        alone.low["rl2"]
    )
    sides = [part[part.system == f"{run}-s1"].sort_values("study_id") for run in ("rl2", "sft")]
    tested = paired_difference(*(side.composite_step1 for side in sides), sides[0].patient_id, 500)
    assert found.p["rl2", "first"] == tested["p"] and found.difference["rl2", "first"] == pytest.approx(tested["estimate"])
    assert found.studies.groupby("run").sum().tolist() == [len(strata)] * 2


def test_a_stratum_of_few_patients_is_in_the_table_only():
    studies = courses(60)
    scores = pd.concat([score_table(studies), score_table(studies, 0.1, 1, "rl2")], ignore_index=True)
    few = set(studies.patient_id.unique()[:4])
    strata = {i: "few" if p in few else "many" for i, p in zip(studies.study_id, studies.patient_id)}
    table = longitudinal.by_stratum(scores, strata, ["sft", "rl2"], "composite_step1", 500).assign(grouping="encounter")
    figure, table = longitudinal.panel_strata(table, ["sft", "rl2"], ["few", "many"], {"encounter": "Encounter"})
    (ax,) = figure.axes
    assert [text.get_text() for text in ax.texts] == ["**"] and set(table.stratum) == {"few", "many"}  # a star, over what is drawn
    assert len(ax.collections) == 2 and all(round(line.get_segments()[0][0][0]) == 1 for line in ax.collections)


def test_drift_is_later_less_first():
    studies = courses(60)
    scores, numbers = score_table(studies), pd.Series([int(i[-1]) + 1.0 for i in studies.study_id], studies.study_id)
    later = (numbers > 1).to_numpy()
    scores["composite_step1"] -= 0.2 * later
    found = longitudinal.drift(scores, numbers, "composite_step1").iloc[0]
    assert found.estimate == pytest.approx(scores.composite_step1[later].mean() - scores.composite_step1[~later].mean())
    assert found.high < 0 and found.p < 0.01


def test_conditions_are_scored_on_the_studies_they_share():
    studies = courses(12)
    copies = longitudinal.copied(longitudinal.priors_of(studies), studies)
    one = longitudinal.score_conditions({"sft-s1": reports(studies, 1)}, studies)
    both = longitudinal.score_conditions({longitudinal.COPIED: copies}, studies, scores=one)
    assert both.groupby("system").study_id.apply(set).tolist() == [set(copies)] * 2
    with pytest.raises(StudyError, match="no study has a prediction of each"):
        longitudinal.score_conditions({"a": {"x": "Clear."}, "b": {"y": "Clear."}}, studies)


def test_3a_says_which_conditions_could_not_be_had():
    studies = courses(12)
    scores = longitudinal.score_conditions({"sft-s1": reports(studies, 1)}, studies)
    figure, _ = longitudinal.panel_3a(scores, ["sft"], ["bleu2"], 50, missing=["sft_prior", longitudinal.SHUFFLED])
    assert "Not to be had: SFT with priors, Another patient's." in " ".join(figure.get_supxlabel().split())


def test_what_a_figure_hides_for_few_patients_is_not_told_and_does_not_count_as_a_test():
    from unirg.analysis.report import TOO_FEW, Sets, small_table

    studies = courses(60)
    scores = pd.concat([score_table(studies), score_table(studies, 0.1, 1, "rl2")], ignore_index=True)
    rare = set(studies.study_id[studies.study_id.str.endswith("v3")][:5])
    strata = {i: "5th +" if i in rare else "1st" if i.endswith("v0") else "2nd" for i in studies.study_id}
    table = longitudinal.by_stratum(scores, strata, ["sft", "rl2"], "composite_step1", 500)
    few = table[(table.stratum == "5th +") & (table.run == "rl2")].iloc[0]
    assert few.patients < longitudinal.MIN_PATIENTS and np.isnan([few.difference, few.difference_low, few.p, few.p_holm]).all()
    tested = table.dropna(subset=["p"])
    assert tested.p_holm.min() == pytest.approx(2 * tested.p.min()), "two strata were tested, not three"
    lines = {line[0]: line[1:] for line in small_table(table, {"rows": ["stratum"], "columns": "run"}, Sets({}))}
    assert lines["5th +"][:2] == [TOO_FEW] * 2


def test_a_plain_difference_stands_holm_however_many_tests_the_panel_has():
    row = {"source": "a", "prior_study_id": None, "findings": "The lungs are clear."}
    studies = pd.DataFrame([row | {"study_id": f"s{i}", "patient_id": f"p{i}"} for i in range(60)])
    same, other = (dict.fromkeys(studies.study_id, text) for text in (row["findings"], "The effusion has improved since the prior film."))
    systems = {"sft-s1": same, **{f"rl{n}-s1": other for n in range(6)}}
    table = longitudinal.temporal_table(systems, studies, against="sft", resamples=50)
    told = table[(table.measure == "prior_language_without_prior") & table["against"].notna()]
    assert len(told) == 6 and (told.difference_low > 0).all() and (told.p_holm < 0.05).all()
