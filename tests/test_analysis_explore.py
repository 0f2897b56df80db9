"What a person sees of a study, and that the pickers lead to it."

import numpy as np
import pytest
from PIL import Image

from unirg.analysis.explore import explorer, known_values, matching, show_study, study_of
from unirg.core import StudyError
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
    number.value = 4
    assert "<b>s3</b>" in card.value
    words.value = "clear"
    assert found.value == "of 1" and "<b>s1</b>" in card.value and number.value == 1
    split.value = "train"
    assert found.value == "of 0" and "<img" not in card.value
    words.value, split.value, prior.value = "", None, True
    assert found.value == "of 2" and "<b>s2</b>" in card.value
    prior.value, source.value = False, "part"
    assert found.value == "of 1" and "<b>s1</b>" in card.value and view.options == (("any", None), ("AP", "AP")) and len(flag.options) == 1


def test_nothing_to_show():
    with pytest.raises(StudyError, match="may be shown"):
        explorer({})
