"What a person sees of a study, and that the pickers lead to it."

import os

import numpy as np
import pytest
from PIL import Image

from unirg.analysis.explore import explorer, known_values, matching, prepared_last, read_reports, show_study, study_of, systems_html
from unirg.core import StudyError, write_json
from unirg.data.studies import StudyImage, Record, collect


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    root = tmp_path_factory.mktemp("films")
    texts = ["Small left pleural effusion.", "Lungs are <clear>. No effusion.", None, "Large left effusion, increased."]
    records = []
    for i, text in enumerate(texts):
        Image.fromarray(np.random.default_rng(i).normal(120, 40, (64, 64)).clip(0, 255).astype(np.uint8)).save(root / f"{i}.png")
        patient, split = ("p", "train") if i != 1 else ("q", "test")
        films = [StudyImage(f"{i}.png", "AP" if i else None)]
        records.append(Record("demo", f"s{i}", patient, order_key=i, split=split, images=films, findings=text, indication="Cough."))
    return collect("demo", records, root=root, size=64).table


def test_a_card_shows_film_prior_sections_and_facts(table):
    card = show_study(table, "s3").data
    assert card.count("<img") == 2 and "prior: s2" in card and "Large left effusion, increased." in card
    assert "Pleural Effusion" in card and "severe, left, worsened" in card and card.count("<i>none</i>") >= 2
    assert show_study(table).data == show_study(table, "s2").data  # without a name: the first that has a prior


def test_text_is_shown_and_not_obeyed(table):
    assert "&lt;clear&gt;" in show_study(table, "s1").data


def test_what_is_picked(table):
    assert matching(table, split="train") == [0, 2, 3] and matching(table, words="EFFUSION") == [0, 1, 3]
    assert matching(table, words="effusion", split="train", with_prior=True) == [3]
    assert matching(table, flag="view_unknown") == [0] and matching(table, flag="view") == [] and matching(table, view="AP") == [1, 2, 3]
    assert matching(table.select([3, 1]), words="clear") == [1] and study_of(table.select([3, 1]), "s1")["study_id"] == "s1"
    assert known_values(table, "flags") == ["view_unknown"]
    with pytest.raises(StudyError, match="s9"):
        study_of(table, "s9")


def test_pickers_lead_to_the_study(table):
    box = explorer({"demo": table, "part": table.select([1])})
    (source, split, view, flag), (words, prior, number, found), card = *(row.children for row in box.children[:2]), box.children[2]
    assert found.value == "of 4" and "<b>s0</b>" in card.value
    assert [picker.label for picker in (split, view, flag)] == ["any"] * 3 and {picker.index for picker in (split, view, flag)} == {0}
    number.value = 4
    assert "<b>s3</b>" in card.value
    words.value = "clear"
    assert found.value == "of 1" and "<b>s1</b>" in card.value and number.value == 1
    split.value = "train"
    assert found.value == "of 0" and "<img" not in card.value
    words.value, split.value, prior.value = "", "", True
    assert found.value == "of 2" and "<b>s2</b>" in card.value
    prior.value, source.value = False, "part"
    assert found.value == "of 1" and "<b>s1</b>" in card.value and view.options == (("any", ""), ("AP", "AP")) and len(flag.options) == 1


def test_nothing_to_show():
    with pytest.raises(StudyError, match="may be shown"):
        explorer({})


# ---------------------------------------------------------------- what systems wrote


def wrote(folder, **texts):
    write_json(folder / "demo.json", {study: {"model_prediction": text} for study, text in texts.items()})


@pytest.fixture
def reported(tmp_path):
    wrote(tmp_path / "predictions" / "sft-s1", s0="Small right pleural effusion.", s1="No effusion.")
    wrote(tmp_path / "predictions" / "sft-s2", s0="Nothing.", s1="Nothing.")
    wrote(tmp_path / "predictions" / "rl2-s1", s0="Small left pleural effusion.", s1="<b>Clear.</b>")
    wrote(tmp_path / "predictions" / ".half-s1", s0="Nothing.")
    wrote(tmp_path / "systems" / "theirs", s0="Large left pleural effusion.")
    return read_reports(tmp_path, "demo")


def test_a_seed_of_every_run_is_read_and_other_systems_too(reported, tmp_path):
    assert list(reported) == ["rl2", "sft", "theirs"] and reported["sft"]["s1"] == "No effusion."
    assert read_reports(tmp_path, "another") == {}


@pytest.mark.parametrize(
    ("text", "coloured", "told"),
    [
        ("Small left pleural effusion.", 0, []),
        ("Small right pleural effusion.", 1, ["right, reference: left"]),
        ("Large left pleural effusion.", 1, ["severe, reference: mild"]),
        ("Lungs are clear.", 0, ["left out"]),
        ("Small left pleural effusion. Cardiomegaly.", 1, ["not in the reference"]),
        ("", 0, ["left out"]),
    ],
)
def test_errors_are_coloured_and_told(text, coloured, told):
    page = systems_html({"sft": text}, {"findings": "Small left pleural effusion.", "impression": None})
    assert page.count("<b style='color:") == coloured and all(note in page for note in told) and "<b>SFT</b>" in page


def test_a_systems_text_is_shown_and_not_obeyed(reported, table):
    page = systems_html({"rl2": reported["rl2"]["s1"]}, study_of(table, "s1"))
    assert "&lt;b&gt;Clear.&lt;/b&gt;" in page and "<b>Clear" not in page


def test_pickers_compare_systems_on_a_film(reported, table):
    box = explorer({"demo": table}, reports={"demo": reported})
    systems, card = box.children[2:]
    assert [name for _, name in systems.options] == ["rl2", "sft", "theirs"] and systems.options[1][0] == "SFT"
    assert all(name in card.value for name in ("Reference", "SFT + RL", "theirs"))
    systems.value = ("sft",)
    assert "<b>SFT</b>" in card.value and "theirs" not in card.value
    box.children[1].children[2].value = 3  # a study that nobody reported
    assert "Reference" not in card.value and "<b>s2</b>" in card.value


# ---------------------------------------------------------------- what is looked at first


def prepared(root, profile, seconds):
    path = root / "outputs" / profile / "data" / "demo" / "counts.json"
    write_json(path, {})
    os.utime(path, (seconds, seconds))


@pytest.mark.parametrize(
    ("made", "found"),
    [("phantom smoke", "smoke"), ("smoke phantom", "phantom"), ("smoke scratch", "smoke"), ("scratch phantom", "phantom")],
)
def test_the_profile_prepared_last_is_looked_at(tmp_path, made, found):
    (tmp_path / "settings.ini").write_text("[phantom]\n[smoke]\n")
    for second, profile in enumerate(made.split()):
        prepared(tmp_path, profile, 1_000_000 + second)
    assert prepared_last(tmp_path) == found


def test_nothing_prepared_says_what_to_do(tmp_path):
    (tmp_path / "settings.ini").write_text("[phantom]\n")
    with pytest.raises(StudyError, match="--profile smoke"):
        prepared_last(tmp_path)


def test_labels_of_sections_stand_above_their_text_wherever_the_page_is(table):
    "JupyterLab's style floats the terms of a list over long text."
    assert "<dt" not in show_study(table, "s3").data and "<b>Findings</b><br>" in show_study(table, "s3").data
