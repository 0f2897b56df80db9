"""Systems without a policy, on made-up films and texts: what is given to everybody, who is nearest, and the notebook that makes them."""

import json

import datasets
import numpy as np
import pandas as pd
import pytest
from PIL import Image
from study_notebooks import run_notebook

from unirg.analysis.baselines import best_constant, commonest, context_likeness, context_words, image_likeness, image_vectors
from unirg.analysis.baselines import likeness_of_both, nearest_reports
from unirg.core import StudyError
from unirg.data.studies import StudyImage, Record, collect

CLEAR, EFFUSION, FRACTURE = "The lungs are clear. No pleural effusion.", "Small left pleural effusion.", "There is a healed rib fracture."


def pictures(values):
    return datasets.Dataset.from_dict({"image": [Image.fromarray(np.uint8(v)) for v in values]}).cast_column("image", datasets.Image())


def same(ours, theirs):
    return [float(a == b) for a, b in zip(ours, theirs)]


@pytest.mark.parametrize(
    ("texts", "count", "wanted"),
    [
        (["a", "b", "b"], 1, ["b"]),
        (["a", "b"], 1, ["a"]),
        (["b", "a", "a", "c"], 2, ["a", "b"]),
        (["a"], 40, ["a"]),
        (["c", "b", "a", "b", "c"], 3, ["c", "b", "a"]),
    ],
)
def test_the_commonest_texts_come_first_and_of_equals_the_earlier(texts, count, wanted):
    assert commonest(texts, count) == wanted


@pytest.mark.parametrize(
    ("candidates", "references", "best"),
    [
        (["a", "b"], ["b", "b", "a"], "b"),
        (["a", "b"], ["a", "b"], "a"),
        (["a", "b", "c"], ["c"], "c"),
        (["a"], ["z"], "a"),
        (["b", "a"], ["a", "a", "b", "b"], "b"),
    ],
)
def test_the_best_text_for_everybody_is_chosen_by_the_mean_score(candidates, references, best):
    text, means = best_constant(candidates, references, same)
    assert text == best and len(means) == len(candidates) and max(means) == means[candidates.index(best)]


@pytest.mark.parametrize("call", [lambda: commonest([]), lambda: best_constant([], ["a"], same), lambda: best_constant(["a"], [], same)])
def test_where_nothing_can_be_chosen_it_says_so(call):
    with pytest.raises(StudyError, match=r"report|text"):
        call()


@pytest.mark.parametrize(
    "change", [lambda f: f * 0.5, lambda f: f * 0.7 + 60, lambda f: f + 20, lambda f: f, lambda f: np.kron(f, np.ones((2, 2)))]
)
def test_the_same_film_is_nearest_whatever_exposure_or_size(change):
    films = np.random.default_rng(1).uniform(0, 180, (6, 16, 16)).repeat(4, 1).repeat(4, 2)
    own, other = image_vectors(pictures(films), 16), image_vectors(pictures([change(film) for film in films]), 16)
    assert [row.argmax() for row in image_likeness(other, own)] == list(range(6))


def test_a_film_of_one_grey_is_like_nobody_and_a_study_without_film_is_named():
    vectors = image_vectors(pictures([np.full((64, 64), 90), np.eye(64) * 200]), 8)
    assert not vectors[0].any() and np.isclose(np.linalg.norm(vectors[1]), 1)
    without = datasets.Dataset.from_dict({"image": [None]}).cast_column("image", datasets.Image())
    with pytest.raises(StudyError, match=r"row 0 .* no film"):
        image_vectors(without)


@pytest.mark.parametrize(
    ("indication", "nearest"),
    [("Chest pain", 0), ("fall, RIB pain", 1), ("follow-up of effusion", 2), ("Dyspnoea and a fall", 1), ("pain in the chest", 0)],
)
def test_the_nearest_context_is_the_one_with_the_rarest_words_in_common(indication, nearest):
    known = ["Chest pain.", "Rib pain after a fall", "Effusion, follow-up"]
    words = [context_words({"indication": text, "comparison": None}) for text in known]
    row = next(context_likeness([context_words({"indication": indication})], words))
    assert row.argmax() == nearest and 0 < row.max() <= 1 + 1e-9


def test_the_context_of_a_study_is_never_its_report():
    assert context_words({"indication": "Cough", "comparison": "None.", "findings": CLEAR}) == ["indication:cough", "comparison:none"]


def test_cosines_are_those_of_scikit_learn_with_the_same_weights():
    from sklearn.feature_extraction.text import TfidfVectorizer

    known, asked = ["chest pain", "pain pain after fall", "fever", ""], ["pain after fall", "fever and chest pain", "unheard"]
    fitted = TfidfVectorizer(sublinear_tf=True, token_pattern=r"\S+").fit(known)
    wanted = (fitted.transform(asked) @ fitted.transform(known).T).toarray()
    found = np.array(list(context_likeness([text.split() for text in asked], [text.split() for text in known])))
    assert np.allclose(found, wanted, atol=1e-9)


@pytest.mark.parametrize(
    ("row", "report"),
    [([0.9, 0, 0, 0], EFFUSION), ([0, 0.9, 0, 0], FRACTURE), ([0] * 4, CLEAR), ([0.5] * 4, CLEAR), ([0.5, 0.5, 0, 0], EFFUSION)],
)
def test_of_equals_the_commonest_report_is_taken(row, report):
    assert nearest_reports([np.array(row, float)], [EFFUSION, FRACTURE, CLEAR, CLEAR]) == [report]


@pytest.mark.parametrize(("weight", "nearest"), [(0, 0), (0.1, 0), (1, 1), (10, 1), (0.45, 0)])
def test_film_and_context_are_weighed_against_each_other(weight, nearest):
    row = next(likeness_of_both([np.array([0.9, 0.4])], [np.array([0.0, 1.0])], weight))
    assert row.argmax() == nearest


@pytest.fixture(scope="module")
def out(tmp_path_factory):
    "60 made-up studies in which film, indication and report go together, and what 47_systems makes of them."
    out, draws = tmp_path_factory.mktemp("made_up"), np.random.default_rng(4)
    shapes = draws.uniform(20, 220, (3, 8, 8)).repeat(8, 1).repeat(8, 2)
    told = [("Cough", CLEAR), ("Dyspnoea", EFFUSION), ("Fall", FRACTURE)]
    (out / "films").mkdir()
    records = []
    for i in range(60):
        kind, split = (0 if i % 2 else 1 + i // 2 % 2), "test" if i < 12 else "validation" if i < 24 else "train"
        Image.fromarray(np.uint8(np.clip(shapes[kind] + draws.normal(0, 4, (64, 64)), 0, 255))).save(out / "films" / f"{i}.png")
        reading = None if i in (3, 30) else told[kind][1]
        texts = {"indication": told[kind][0], "findings": reading, "impression": "No acute disease."}
        records.append(Record("made_up", f"s{i}", f"p{i}", "Nowhere", split=split, images=[StudyImage(f"{i}.png", "PA")], **texts))
    collect("made_up", records, out / "films", 64, out=out / "data" / "made_up")
    run_notebook("47_systems", out=str(out), sources=["made_up"], training=["made_up"], input_resolution=8)
    return out


NAMES = ("commonest", "best_constant", "nearest_film", "nearest_context", "nearest_both")


@pytest.mark.parametrize("name", NAMES)
def test_every_system_reports_every_test_study_once_and_is_scored(out, name):
    told, scores = json.loads((out / f"systems/{name}/made_up.json").read_text()), pd.read_parquet(out / f"scores/{name}/made_up.parquet")
    assert set(told) == {f"s{i}" for i in range(12)} and set(scores.study_id) == set(told) and set(scores.system) == {name}
    training = {f"Findings: {text}" for text in (CLEAR, EFFUSION, FRACTURE)}
    assert {record["model_prediction"] for record in told.values()} <= training


def test_neighbours_are_right_where_film_and_context_tell_and_constants_give_everybody_the_same(out):
    for name in NAMES[2:]:
        bleu = pd.read_parquet(out / f"scores/{name}/made_up.parquet")["findings:bleu2"].dropna()
        assert (bleu == 1).all() and len(bleu) == 11, "a study without findings is on no board of findings"
    constant = json.loads((out / "systems/commonest/made_up.json").read_text())
    assert {record["model_prediction"] for record in constant.values()} == {f"Findings: {CLEAR}"}
    chosen = json.loads((out / "systems/nearest_both/.chosen.json").read_text())
    assert max(chosen["validation"].values()) == chosen["validation"][str(chosen["chosen"])]


def test_a_system_that_nobody_makes_is_named(out):
    with pytest.raises(StudyError, match=r"'nearest_age'.*commonest"):
        run_notebook("47_systems", out=str(out), sources=["made_up"], training=["made_up"], systems=["nearest_age"])


def test_the_board_shows_them_and_leaves_out_what_is_not_there(out):
    told = dict(sources=["made_up"], training=["made_up"], runs=[], systems=list(NAMES), scored=list(NAMES))
    run_notebook("76_board", out=str(out), resamples=50, floor=2, benchmarks=["made_up=iu_xray"], **told)
    made = json.loads((out / "figures/76_board.json").read_text())
    assert sorted(made) == ["fig_board.csv", "fig_board.png", "fig_board.svg"]
    board = pd.read_csv(out / "figures/fig_board.csv")
    ours, theirs = board[board.published == False], board[board.published == True]  # noqa: E712
    assert set(ours.run) == set(NAMES) and set(theirs.measure) == {"bleu2"} and len(theirs) == 25
    assert ours[(ours.measure == "copied") & (ours.reports == "all")].estimate.eq(1).all()
    best = ours[(ours.measure == "label_micro_f1") & (ours.reports == "all")].set_index("run").estimate
    assert best["nearest_film"] == 1 and best["commonest"] == 0
