"""Beyond the paper: what is measured against the phantom's truth must be right where the answer is known beforehand."""

import dataclasses
import io
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from unirg.analysis import counterfactuals, hacking, operating_point, true_errors
from unirg.analysis.counterfactuals import (
    CHANGES, answers, changeable, changed, changed_image, draw_cases, original_image, finding_mentions,
)
from unirg.analysis.operating_point import above_curve, choose_threshold, stated_shares, thresholds_of
from unirg.analysis.sight import SHOWN
from unirg.analysis.true_errors import GroundTruth, errors_against, truth_from_image
from unirg.core import StudyError
from unirg.data import rexgradient
from unirg.phantom.anatomy import Sign
from unirg.phantom.archives import plan, read_truth, studies_of, true_signs, write_archive
from unirg.phantom.dictation import SEVERITY_BOUNDS
from unirg.reward.findings import facts

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    root = tmp_path_factory.mktemp("world")
    write_archive("rexgradient", root, 24, 2)
    return root


@pytest.fixture(scope="module")
def truth(world):
    return read_truth(world)


@pytest.fixture(scope="module")
def cases(truth):
    return draw_cases(truth, {"rexgradient": list(truth.studies.study_id)}, 5, seed=1)


# ---------------------------------------------------------------- text follows image


def test_every_change_is_drawn_and_only_plain_findings_are_changed(cases, truth):
    assert {case.change for case in cases} == set(CHANGES)
    for case in cases:
        signs = [s for s in true_signs(truth, case.source, case.study_id) if s.finding == case.finding]
        assert max(s.severity for s in signs) > 2 / 3
        if case.change == "milder":
            assert max(s.severity for s in signs) > SEVERITY_BOUNDS[1]
        if case.change == "swapped":
            assert {s.side for s in signs} == {case.side} and case.side in ("left", "right")
        assert (case.camera is not None and case.camera != case.source) == (case.change == "camera")


def test_no_change_is_asked_for_more_often_than_wanted(cases):
    assert pd.Series([case.change for case in cases]).value_counts().max() <= 5
    assert len({(case.change, case.study_id) for case in cases}) == len(cases)


def test_the_own_film_is_the_one_in_the_archive_pixel_for_pixel(world, truth, cases):
    table = rexgradient.read(world / "rexgradient").table
    at = {study: row for row, study in enumerate(table["study_id"])}
    case = next(case for case in cases if case.study_id in at)
    data = io.BytesIO()  # prepared films are kept as JPEG
    Image.fromarray(original_image(truth, case)).save(data, "JPEG", quality=95)
    archived, film = (np.asarray(image).astype(int) for image in (table[at[case.study_id]]["image"], Image.open(data)))
    assert archived.shape == film.shape and np.abs(archived - film).max() <= 2


def test_a_swap_moves_the_picture_to_the_other_side_and_a_removal_takes_it_away(truth):
    row = truth.studies.iloc[0]
    sign = Sign("pleural_effusion", 0.95, "left", None, None, 3)
    bare = truth._replace(signs=truth.signs[truth.signs.study_id != row.study_id])
    fields = {"finding": "pleural_effusion", "severity": 0.95, "side": "left", "location": None, "kind": None, "sign_seed": 3}
    shown = bare._replace(signs=pd.concat([bare.signs, pd.DataFrame([{"source": row.source, "study_id": row.study_id, **fields}])]))
    case = counterfactuals.Case(row.source, row.study_id, row.patient_id, sign.finding, "left", "swapped")
    films = {"own": original_image(shown, case), "swapped": changed_image(shown, case), "bare": original_image(bare, case)}
    films |= {name: changed_image(shown, dataclasses.replace(case, change=name)) for name in ("without", "milder")}
    assert np.array_equal(films["without"], films["bare"])
    half = films["bare"].shape[1] // 2

    def change(name, before, side):  # the patient's left is the picture's right
        columns = slice(half, None) if side == "left" else slice(None, half)
        return films[name][:, columns].astype(float) - films[before][:, columns]

    def brighter(name, before):  # how much more the left gained than the right: the window follows the whole film, so both sides move
        return change(name, before, "left").mean() - change(name, before, "right").mean()

    assert brighter("own", "bare") > 0 > brighter("swapped", "bare"), "fluid is white, on the side it is on"
    assert change("swapped", "own", "left").mean() < 0 < change("swapped", "own", "right").mean()
    assert 0 < np.abs(change("milder", "bare", "left")).mean() < np.abs(change("own", "bare", "left")).mean()


def test_camera_and_exposure_change_the_picture_and_nothing_on_it(truth, cases):
    for change in ("camera", "exposure"):
        case = next(case for case in cases if case.change == change)
        signs = true_signs(truth, case.source, case.study_id)
        assert changed(signs, case.finding, change) == signs
        assert not np.array_equal(original_image(truth, case), changed_image(truth, case))


@pytest.mark.parametrize(
    "change, after, aspect, expected",
    [
        ("without", "No pleural effusion.", "finding", 1),
        ("without", "Large left pleural effusion.", "finding", 0),
        ("swapped", "Large right pleural effusion.", "side", 1),
        ("swapped", "Large left pleural effusion.", "side", 0),
        ("swapped", "No pleural effusion.", "side", 0),
        ("milder", "Small left pleural effusion.", "severity", 1),
        ("milder", "Large left pleural effusion.", "severity", 0),
        ("camera", "Small left pleural effusion.", "finding", 1),
        ("camera", "Small left pleural effusion.", "severity", 0),
        ("exposure", "Large right pleural effusion.", "side", 0),
    ],
)
def test_an_answer_is_what_a_reader_of_both_reports_would_say(change, after, aspect, expected):
    case = counterfactuals.Case("x", "s", "p", "pleural_effusion", "left", change)
    rows = {
        row["aspect"]: row
        for row in answers(case, finding_mentions("Large left pleural effusion."), finding_mentions(after))
        if row["change"] == change
    }
    assert (rows[aspect]["asked"], rows[aspect]["answered"]) == (1, expected)


def test_a_report_that_falls_silent_about_a_milder_finding_is_counted_and_the_others_should_stay():
    case = counterfactuals.Case("x", "s", "p", "edema", None, "milder", others=("fracture", "cardiomegaly"))
    before, after = "Severe pulmonary edema. Left rib fracture. Nodule in the right upper lobe.", "The lungs are clear. No fracture."
    rows = {row["aspect"]: (row["asked"], row["answered"]) for row in answers(case, finding_mentions(before), finding_mentions(after))}
    assert rows["severity"] == (1, 0) and rows["silent"] == (1, 1)
    assert rows["others"] == (1, 0), "the fracture was plain and stated; the nodule was not plain, the heart not stated"


def test_what_was_wrong_before_is_not_asked():
    case = counterfactuals.Case("x", "s", "p", "pleural_effusion", "left", "swapped")
    asked = {
        row["aspect"]
        for row in answers(case, finding_mentions("Large right pleural effusion."), finding_mentions("Large right pleural effusion."))
    }
    assert "side" not in asked
    asked = {
        row["aspect"]
        for row in answers(dataclasses.replace(case, change="without"), finding_mentions("Clear."), finding_mentions("Clear."))
    }
    assert "finding" not in asked and {"stated before", "stated after"} <= asked


def test_a_film_without_plain_findings_offers_nothing_to_change(truth):
    assert changeable((Sign("edema", 0.5, None, None, None, 1),), "without") == []
    with pytest.raises(StudyError, match="plain"):
        draw_cases(truth._replace(signs=truth.signs[truth.signs.severity < 0.5]), {"rexgradient": list(truth.studies.study_id)}, 2, 1)
    with pytest.raises(StudyError, match="blurred"):
        changed((), "edema", "blurred")


# ---------------------------------------------------------------- which measure is right


def known_of(severity, text="", **sign):
    row = {"source": "x", "study_id": "s", "finding": "edema", "severity": severity, "side": None, "location": None, "change": None, **sign}
    study = {"source": "x", "study_id": "s", "patient_id": "p", "study_order": 1, "facts": "[]"}
    truth = true_errors.Truth(pd.DataFrame([row]), pd.DataFrame([study]))
    return errors_against(facts(text), truth_from_image(truth, "x", ["s"])["s"])


def test_barely_visible_findings_are_never_an_error():
    assert sum(known_of(0.2, "No edema.").values()) == 0
    assert sum(known_of(0.2, "Severe pulmonary edema.").values()) == 0
    assert known_of(0.3, "No edema.")["omitted_finding"] == 1


def test_a_degree_near_the_border_may_be_called_either():
    mild = SEVERITY_BOUNDS[0]
    assert (
        known_of(mild + 0.01, "Mild pulmonary edema.")["wrong_degree"]
        == known_of(mild - 0.01, "Moderate pulmonary edema.")["wrong_degree"]
        == 0
    )
    assert known_of(0.95, "Mild pulmonary edema.")["wrong_degree"] == 1


def test_opacity_may_be_said_of_what_is_opaque_and_of_nothing_else():
    known = {"consolidation": dict(finding="consolidation", side="right", location="lower")}
    assert known_of(0.9, "Opacity in the right lower lobe may represent consolidation.", **known["consolidation"])["false_finding"] == 0
    assert known_of(0.9, "Opacity in the right lower lobe. Cardiomegaly.", finding="cardiomegaly")["false_finding"] == 1


def test_a_change_is_an_error_where_the_films_do_not_show_it():
    assert known_of(0.7, "Moderate pulmonary edema, worsened.", change="improved")["false_change"] == 1
    assert known_of(0.7, "Moderate pulmonary edema, improved.", change="improved")["false_change"] == 0
    assert known_of(0.7, "Moderate pulmonary edema.", change="improved")["false_change"] == 0


def test_a_resolved_finding_may_be_called_so_only_if_it_was_there():
    study = {"source": "x", "patient_id": "p", "facts": "[]"}
    studies = pd.DataFrame([{**study, "study_id": "a", "study_order": 1}, {**study, "study_id": "b", "study_order": 2}])
    sign = {"source": "x", "study_id": "a", "finding": "pneumothorax", "severity": 0.8, "side": "left", "location": None, "change": None}
    known = truth_from_image(true_errors.Truth(pd.DataFrame([sign]), studies), "x", ["a", "b"])
    text = facts("The pneumothorax has resolved.")
    assert errors_against(text, known["b"]) == dict.fromkeys(true_errors.TRUE_ERRORS, 0)
    assert errors_against(text, known["a"])["omitted_finding"] == 1 and errors_against(text, {})["false_change"] == 1


def test_a_bilateral_finding_on_one_side_is_wrong_and_one_of_two_devices_is_not():
    both = {"pleural_effusion": GroundTruth(True, 1.0, frozenset({"left", "right"}))}
    assert errors_against(facts("Left pleural effusion."), both)["wrong_location"] == 1
    assert errors_against(facts("Bilateral pleural effusions."), both)["wrong_location"] == 0
    devices = {"support_devices": GroundTruth(True, 1.0, frozenset({"left", "right"}))}
    assert errors_against(facts("Central venous line on the right."), devices)["wrong_location"] == 0


def test_references_are_right_about_their_own_facts_and_a_study_without_truth_is_named(truth):
    dictated = [s for p in plan("rexgradient", 24, 2) for s in studies_of("rexgradient", p, 2) if not s.text_lost]
    texts = {s.visit.study_id: s.section("findings") or s.section("impression") for s in dictated}
    counted = true_errors.count_true_errors(texts, truth, "rexgradient")
    silent = true_errors.count_true_errors(dict.fromkeys(texts, "The lungs are clear."), truth, "rexgradient")
    assert counted.errors_dictated.mean() < 0.3
    for name in ("film", "film_graded", "dictated"):
        assert counted[f"errors_{name}"].mean() < silent[f"errors_{name}"].mean()
    with pytest.raises(StudyError, match="nobody"):
        truth_from_image(truth, "rexgradient", ["nobody"])


def test_what_is_known_once_serves_every_system_and_a_study_it_lacks_is_named(truth):
    dictated = [s for p in plan("rexgradient", 24, 2) for s in studies_of("rexgradient", p, 2) if not s.text_lost]
    texts = {s.visit.study_id: s.section("findings") or s.section("impression") for s in dictated}
    systems = [texts, dict.fromkeys(texts, "Large left pleural effusion, worsened."), dict(list(texts.items())[:5])]
    known = true_errors.all_known(truth, "rexgradient", {*texts})
    for predictions in systems:
        pd.testing.assert_frame_equal(
            true_errors.count_errors(predictions, known), true_errors.count_true_errors(predictions, truth, "rexgradient")
        )
    with pytest.raises(StudyError, match="nobody"):
        true_errors.count_errors({"nobody": ""}, known)
    with pytest.raises(StudyError, match="nobody"):
        true_errors.truth_from_report(truth, "rexgradient", ["nobody"])


def test_systems_scored_on_different_studies_are_refused():
    table = pd.DataFrame({"system": ["a", "a", "b"], "dataset": "d", "study_id": [1, 2, 1], "patient_id": 1, "m": 0.5, "e": 1.0})
    with pytest.raises(StudyError, match="same studies"):
        true_errors.rank_agreement(table, ["m"], "e", 2)


# ---------------------------------------------------------------- reward hacking


def scores_of(**shift):
    rng = np.random.default_rng(0)
    quality, rows = rng.normal(0.5, 0.1, 120), []
    for run, up in shift.items():
        for seed in (1, 2):
            ids = range(120)
            rows.append(
                pd.DataFrame(
                    {"system": f"{run}-s{seed}", "dataset": "d", "study_id": ids, "patient_id": ids, "judged_errors": 2 - quality - up}
                )
            )
    return pd.concat(rows)


def test_fewer_errors_are_better_and_a_run_without_its_start_is_refused():
    change = hacking.before_and_after(scores_of(sft=0, rl1=0.1), {"rl1": "sft"}, {}, ["judged_errors"], 200)
    assert hacking.verdict(change.iloc[0]) == "better" and change.estimate[0] == pytest.approx(-0.1) and change.seeds[0] == 2
    with pytest.raises(StudyError, match="same studies"):
        hacking.before_and_after(scores_of(sft=0, rl1=0.1).iloc[1:], {"rl1": "sft"}, {}, ["judged_errors"], 10)


def test_distinct_is_the_share_of_different_reports():
    texts = ["a.", "b.", "a.", "A. ", "c."]
    assert hacking.form_of(texts).distinct.mean() == pytest.approx(3 / 5)


# ---------------------------------------------------------------- operating point


def test_a_study_without_its_samples_is_refused_and_shares_count_texts():
    with pytest.raises(StudyError, match="same number"):
        stated_shares({"a": ["Edema."], "b": []}, ["a", "b"])
    shares = stated_shares({"a": ["Pulmonary edema.", "Possible edema.", "Clear.", "No edema."]}, ["a"])
    assert shares[0, list(SHOWN).index("edema")] == 0.5


def test_a_policy_at_a_threshold_of_the_consensus_lies_exactly_on_the_curve():
    rng = np.random.default_rng(1)
    severity = np.where(rng.random((400, 10)) < 0.3, rng.uniform(0.05, 1, (400, 10)), 0.0)
    shares = np.round(np.clip(severity + rng.normal(0, 0.2, severity.shape), 0, 1) * 8) / 8
    patients = np.arange(400) // 2
    for threshold in thresholds_of(8):
        found = above_curve(shares, 8, shares >= threshold, severity, patients, 20).set_index("way")
        assert found.estimate[["common", "own"]].abs().max() < 1e-9
        assert found.verdict["own"] == "on the curve, as far as can be told"
    perfect = above_curve(shares, 8, severity >= 0.25, severity, patients, 50).set_index("way")
    assert perfect.low["own"] > 0 and perfect.verdict["own"] == "above the curve"
    upside_down = above_curve(shares, 8, severity == 0, severity, patients, 50).set_index("way")
    assert upside_down.verdict["own"] == "below the curve"


def test_a_threshold_between_two_shares_is_the_next_share_on_the_curve():
    curve = operating_point.curve_table(np.zeros((3, 10)), np.zeros((3, 10)), 8, 0.3)
    assert curve.threshold[curve.chosen].tolist() == [0.375]


def test_the_threshold_is_chosen_against_reports():
    reference = np.zeros((50, 10), bool)
    reference[:25] = True
    shares = np.where(reference, 0.75, 0.5)
    assert 0.5 < choose_threshold(shares, reference, 8) <= 0.75


def test_barely_visible_findings_are_neither_positive_nor_negative():
    there, absent = operating_point.visible(np.array([[0.0, 0.1, 0.25, 0.9]]))
    assert there.tolist() == [[False, False, True, True]] and absent.tolist() == [[True, False, False, False]]


# ---------------------------------------------------------------- in the plan


def test_the_plan_has_the_measurements_when_they_are_asked_for_and_only_then():
    from unirg.core import Settings
    from planned import plan_of

    names = {"counterfactual_images", "measures", "hacking", "operating_point", "practice"}
    assert not names & set(plan_of(Settings("smoke", {"ground_truth_run": "none"}, root=ROOT)).tasks)
    tasks = plan_of(Settings("smoke", {"ground_truth_run": "rl2"}, root=ROOT)).tasks
    assert names <= set(tasks)
    assert tasks["counterfactual_images"].parameters["runs"] == ["sft", "rl2"] and tasks["operating_point"].parameters["before"] == "sft"
    assert tasks["operating_point"].parameters["runs"] == ["rl1", "rl2"]
    assert tasks["practice"].parameters["runs"] == ["base", "rl_only", "sft", "rl1", "rl2"]
    assert tasks["practice"].parameters["control"] == "sft", "there is no control of equal compute among the runs"
    assert {"phantom", "sft-s1", "rl2-s1"} <= set(tasks["counterfactual_images"].needs)
    assert {"generate-rl2"} <= set(tasks["measures"].needs)
    nothing_after = [name for name, task in tasks.items() if names & set(task.needs)]
    assert set(nothing_after) <= {"report"}, "what is measured against the truth feeds nothing"


def test_practice_is_held_against_the_control_of_equal_compute_where_it_is_among_the_runs():
    from unirg.core import Settings
    from planned import plan_of

    runs = "base sft sft_matched rl_only rl1 rl2 rl_bleu sft_prior"
    told = plan_of(Settings("smoke", {"ground_truth_run": "rl2", "runs": runs}, root=ROOT)).tasks["practice"].parameters
    assert told["control"] == "sft_matched" and told["runs"] == ["base", "sft_matched", "rl_only", "sft", "rl1", "rl2"]


@pytest.mark.parametrize("run, said", [("nobody", "nobody"), ("base", "starts from no other")])
def test_a_run_that_cannot_be_compared_is_refused(run, said):
    from unirg.core import Settings
    from planned import plan_of

    with pytest.raises(StudyError, match=said):
        plan_of(Settings("smoke", {"ground_truth_run": run}, root=ROOT))


def test_the_measurements_are_not_among_the_default_figures():
    from unirg.core import Settings

    figures = Settings("phantom", root=ROOT).get("figures").split()
    assert not [name for name in figures if name[:2] in ("71", "72", "73", "74")]
