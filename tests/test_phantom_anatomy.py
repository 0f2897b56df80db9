"""The phantom's films: pure, upright, stored as their camera stores them, and changed by each finding where it should be."""

import dataclasses
import time

import numpy as np
import pytest

from unirg.core import StudyError
from unirg.phantom.anatomy import CAMERAS, FINDINGS, Body, Sign, attenuation, expose, film, photograph, window

BODY = Body("male", 58, 176, 26, seed=11)
PLAIN = {
    "left": [Sign(name, 0.9, "left", "lower", "pacemaker" if name == "support_devices" else None, seed=3) for name in FINDINGS],
}


@pytest.fixture(scope="module")
def clear():
    return attenuation(BODY, (), size=256, seed=2)


@pytest.mark.parametrize("name", CAMERAS)
@pytest.mark.parametrize("view", ["PA", "AP", "LATERAL"])
def test_stored_values(name, view):
    camera = CAMERAS[name]
    stored = film(BODY, [], camera, view, 256, seed=4)
    assert stored.shape == (256, 256) and stored.dtype == np.uint16
    assert stored.max() < 2**camera.bits
    assert stored.max() - stored.min() > 0.6 * 2**camera.bits  # the range is used
    center, width = window(camera)
    assert 0 < center < 2**camera.bits and 0 < width <= 2**camera.bits
    shown = photograph(stored, camera)
    assert shown.dtype == np.uint8
    if view != "LATERAL":  # dark lungs beside a bright spine, whichever way the values are stored
        lung = np.median(np.r_[shown[100:130, 60:85].ravel(), shown[100:130, 171:196].ravel()])
        assert lung + 60 < np.median(shown[130:170, 122:134])


def test_same_arguments_same_bytes():
    signs = [Sign("edema", 0.6, "bilateral", seed=1), Sign("pneumothorax", 0.4, "left", seed=2)]
    one, two = (film(BODY, signs, CAMERAS["rexgradient"], "AP", 192, seed=9) for _ in range(2))
    assert one.tobytes() == two.tobytes()
    assert one.tobytes() != film(BODY, signs, CAMERAS["rexgradient"], "AP", 192, seed=10).tobytes()


def test_nothing_at_severity_zero(clear):
    signs = [Sign(name, 0.0, "left", seed=5) for name in FINDINGS]
    assert np.array_equal(attenuation(BODY, signs, size=256, seed=2), clear)


@pytest.mark.parametrize("name", FINDINGS)
def test_severity_grows_the_change(name, clear):
    def change(severity):
        kind = "tube" if name == "support_devices" else None
        return np.abs(attenuation(BODY, [Sign(name, severity, "right", "middle", kind, seed=6)], size=256, seed=2) - clear).mean()

    faint, middle, plain = change(0.15), change(0.5), change(1.0)
    assert 0 < faint < middle < plain
    assert plain > 3 * faint


@pytest.mark.parametrize("name", ["consolidation", "atelectasis", "pneumothorax", "pleural_effusion", "lung_lesion", "fracture"])
@pytest.mark.parametrize("side", ["left", "right"])
def test_side(name, side, clear):
    "The patient's right is on the film's left."
    change = np.abs(attenuation(BODY, [Sign(name, 0.6, side, seed=7)], size=256, seed=2) - clear)
    right, left = change[:, :120].sum(), change[:, 136:].sum()
    assert (left > 1.5 * right) if side == "left" else (right > 1.5 * left)


def test_location(clear):
    "An upper sign lies higher than a lower one."
    rows = {}
    for zone in ("upper", "middle", "lower"):
        change = np.abs(attenuation(BODY, [Sign("consolidation", 0.8, "right", zone, seed=8)], size=256, seed=2) - clear).sum(1)
        rows[zone] = (change * np.arange(256)).sum() / change.sum()
    assert rows["upper"] + 15 < rows["middle"] < rows["lower"] - 15


def test_direction(clear):
    "Fluid and dense lung stop more quanta, free air fewer."
    for name, grows in (("pleural_effusion", True), ("consolidation", True), ("edema", True), ("pneumothorax", False)):
        difference = attenuation(BODY, [Sign(name, 0.5, "left", seed=9)], size=256, seed=2) - clear
        assert (difference.mean() > 0) == grows, name


def test_seen_from_the_side(clear):
    plain = attenuation(BODY, (), "LATERAL", 256, 2)
    assert np.isfinite(plain).all() and plain.min() >= 0
    fluid = attenuation(BODY, [Sign("pleural_effusion", 0.8, "left", seed=1)], "LATERAL", 256, 2)
    assert (fluid - plain).mean() > 0.01


def test_any_adult_can_be_filmed():
    for body in (Body("female", 18, 145, 16, 1), Body("male", 100, 203, 54, 2), Body("female", 95, 150, 48, 3)):
        line = attenuation(body, PLAIN["left"], "AP", 128, 3)
        assert np.isfinite(line).all() and 0 <= line.min() and line.max() < 60
        expose(line, CAMERAS["mimic_cxr"], 1)


def test_the_chest_is_on_the_film():
    "Lungs are wholly shown: below the dark apices and above the domes, with a margin at either side."
    for seed in range(12):
        rng = np.random.default_rng(seed)
        body = Body("female" if seed % 2 else "male", rng.uniform(20, 90), rng.uniform(150, 190), rng.uniform(18, 40), seed)
        view = "AP" if seed % 3 == 0 else "PA"
        air = attenuation(body, (), view, 128, seed) - attenuation(body, [Sign("edema", 1.0, seed=1)], view, 128, seed)
        columns = np.flatnonzero(np.abs(air).max(0) > 0.05)
        assert columns[0] > 4 and columns[-1] < 123


@pytest.mark.parametrize(
    "wrong",
    [dict(finding="gout"), dict(side="up"), dict(location="hilum"), dict(kind="stent"), dict(severity=1.5), dict(severity=float("nan"))],
)
def test_signs_are_checked(wrong):
    with pytest.raises(StudyError, match="sign"):
        Sign(**{"finding": "edema", "severity": 0.5, **wrong})


def test_unknown_view():
    with pytest.raises(StudyError, match="OBLIQUE"):
        attenuation(BODY, (), "OBLIQUE", 64)


def test_cameras_differ():
    settings = {(c.bits, c.photometric, c.gamma, c.marker) for c in CAMERAS.values()}
    assert len(settings) == 5
    assert {c.photometric for c in CAMERAS.values()} == {"MONOCHROME1", "MONOCHROME2"}
    line = attenuation(BODY, (), size=128, seed=1)
    camera = CAMERAS["mimic_cxr"]
    turned = dataclasses.replace(camera, photometric="MONOCHROME1")
    assert np.array_equal(expose(line, camera, 1).astype(int) + expose(line, turned, 1), np.full((128, 128), 2**camera.bits - 1))


def test_speed():
    "About 40 ms a frontal film on an idle core; six times that here, since test machines are busy."
    film(BODY, PLAIN["left"], CAMERAS["mimic_cxr"])
    best = min(_seconds(lambda: film(BODY, [], CAMERAS["mimic_cxr"])) for _ in range(3))
    assert best < 0.25


def _seconds(work):
    start = time.process_time()
    work()
    return time.process_time() - start
