"What the phantom's patients promise the subpackages that build on them."

import numpy as np
import pytest

from unirg.core import StudyError
from unirg.phantom.patients import INSTITUTIONS, SEEN, course, draw_patient

KEYS = list(INSTITUTIONS)


@pytest.fixture(scope="module")
def people():
    return {key: [draw_patient(key, index, seed=7) for index in range(300)] for key in KEYS}


def test_a_patient_does_not_depend_on_the_others(people):
    for key in KEYS:
        assert draw_patient(key, 123, seed=7) == people[key][123]
        assert draw_patient(key, 123, seed=8) != people[key][123]


def test_names_are_unique_and_look_like_the_archive_s(people):
    shape = dict(zip(KEYS, (("1", "5"), ("patient", "patient"), ("GRDN", "pGRDN"), ("CXR", "CXR"), ("east", "east")), strict=True))
    for key in KEYS:
        patients, studies = [p.patient_id for p in people[key]], [v.study_id for p in people[key] for v in p.visits]
        assert len(set(patients)) == len(patients) and len(set(studies)) == len(studies)
        assert patients[0].startswith(shape[key][0]) and studies[0].startswith(shape[key][1])
    mimic = [v.study_id for p in people["mimic_cxr"] for v in p.visits]
    assert all(len(s) == 8 and s[0] == "5" for s in mimic)
    orders = [[v.study_id for v in p.visits] for p in people["mimic_cxr"] if len(p.visits) > 2]
    assert any(names != sorted(names) for names in orders), "ids must not give the order away"


def test_visits_follow_each_other(people):
    most = {"mimic_cxr": 6, "chexpert_plus": 6, "rexgradient": 3, "iu_xray": 1, "rexrank": 6}
    for key in KEYS:
        for patient in people[key]:
            days = [v.day for v in patient.visits]
            assert days[0] == 0 and days == sorted(set(days)) and [v.order for v in patient.visits] == list(range(len(days)))
        assert max(len(p.visits) for p in people[key]) == most[key]


def test_signs_are_what_the_contract_says(people):
    for key in KEYS:
        for visit in (v for p in people[key] for v in p.visits):
            keys = [(s.finding, s.side) for s in visit.signs]
            assert len(set(keys)) == len(keys), "finding and side name one sign"
            assert not (visit.has_lateral and visit.view == "AP")
            for sign in visit.signs:
                assert 0.05 <= sign.severity <= 1
                assert sign.finding != "pneumothorax" or sign.side in ("left", "right")
                if sign.finding in ("consolidation", "atelectasis", "lung_lesion"):
                    assert sign.side and sign.location
                assert (sign.kind is not None) == (sign.finding == "support_devices")


def test_a_sign_stays_the_same_thing(people):
    for patient in people["mimic_cxr"]:
        seeds = {}
        for sign in (s for v in patient.visits for s in v.signs):
            assert seeds.setdefault((sign.finding, sign.side), (sign.seed, sign.location)) == (sign.seed, sign.location)


def test_severities_are_spread_and_findings_mostly_independent(people):
    visits = [v for key in KEYS for p in people[key] for v in p.visits]
    severity = np.array([s.severity for v in visits for s in v.signs if s.finding != "support_devices"])
    thirds = np.histogram(severity, bins=[0.05, 0.3667, 0.6833, 1.0])[0] / len(severity)
    assert np.all(abs(thirds - 1 / 3) < 0.05)
    names = sorted({s.finding for v in visits for s in v.signs})
    shown = np.array([[any(s.finding == n for s in v.signs) for n in names] for v in visits], float)
    together = np.corrcoef(shown.T) - np.eye(len(names))
    pair = together[names.index("edema"), names.index("cardiomegaly")]
    assert 0.05 < pair < 0.35 and abs(together).max() < 0.4


def test_every_kind_of_change_occurs_and_agrees_with_the_severities(people):
    counts = {}
    for patient in people["mimic_cxr"] + people["rexrank"]:
        for before, now in zip(patient.visits, patient.visits[1:], strict=False):
            for key, change in course(before, now).items():
                counts[change] = counts.get(change, 0) + 1
                was, is_ = ({(s.finding, s.side): s.severity for s in v.signs}.get(key, 0) for v in (before, now))
                holds = {"new": was < SEEN <= is_, "resolved": is_ < SEEN <= was, "improved": is_ < was, "worsened": is_ > was}
                assert holds.get(change, True)
    assert set(counts) == {"new", "unchanged", "improved", "worsened", "resolved"} and min(counts.values()) > 30, counts


def test_an_unknown_institution_is_named():
    with pytest.raises(StudyError, match="nowhere"):
        draw_patient("nowhere", 0, 0)


@pytest.mark.parametrize("prevalence", [0, -1, 2.1])
def test_a_prevalence_that_cannot_be_is_refused(prevalence):
    with pytest.raises(StudyError, match="prevalence is"):
        draw_patient("iu_xray", 0, 7, prevalence)


@pytest.mark.parametrize(("prevalence", "low", "high"), [(0.5, 0.4, 0.6), (1.0, 1.0, 1.0), (1.5, 1.3, 1.6)])
def test_prevalence_changes_who_is_ill_and_nothing_else(people, prevalence, low, high):
    for key in KEYS:
        others = [draw_patient(key, index, 7, prevalence) for index in range(300)]
        signs = [sum(len(v.signs) for p in some for v in p.visits) for some in (people[key], others)]
        assert low <= signs[1] / signs[0] <= high
        assert [(p.body, p.patient_id, p.race, len(p.visits)) for p in others] == [
            (p.body, p.patient_id, p.race, len(p.visits)) for p in people[key]
        ]
