"What must not pass from training to test, and what must not leave the study's root."

import csv
import os
import shutil
import subprocess
import sys
from pathlib import Path

import datasets
import nbformat
import numpy as np
import pyarrow as pa
import pytest
from PIL import Image

from unirg.core import StudyError
from unirg.data import iu_xray
from unirg.data.leaks import (
    train_test_overlap,
    scan_for_credentialed_content,
    holds_target,
    looks_like_a_radiograph,
    patients_in_two_splits,
    pictures_in,
    prompt_leaks,
    told_in_prompt,
    drop_train_duplicates,
)
from unirg.data.sources import read_source
from unirg.data.studies import StudyImage, Record, collect

ROOT = Path(__file__).parents[1]
IU = ROOT.parent / "shared" / "real_data" / "iu_xray_text"


def prepared(rows, out=None):
    "rows: (study, patient, split, findings, impression)"
    records = [Record("demo", s, p, split=w, findings=f, impression=i) for s, p, w, f, i in rows]
    return collect("demo", records, pixels=False, out=out)


LUNGS = "The lungs are clear."


def test_what_counts_as_word_for_word():
    studies = prepared(
        [
            ("t1", "a", "train", LUNGS, "Normal."),
            ("t2", "b", "train", None, "No change."),
            ("same", "c", "test", "The  lungs\n are clear. ", "Effusion."),
            ("all", "d", "test", LUNGS, "Normal."),
            ("case", "e", "test", LUNGS.lower(), None),
            ("more", "f", "test", f"{LUNGS} No effusion.", None),
            ("none", "g", "test", None, None),
            ("instead", "h", "validation", None, "No change."),  # no findings: the impression is what is asked for, as in training
            ("other", "i", "validation", None, "Normal."),  # trained on only where impressions are asked for
            ("unsaid", "j", None, LUNGS, "Normal."),
        ]
    )
    flags = {row["study_id"]: row["flags"] for row in studies.table}
    everything = {f"{target_sections}_in_train" for target_sections in ("findings", "impression", "findings_impression")}
    assert {s: set(said.split(",")) for s, said in flags.items() if said} == {
        "same": {"findings_in_train"},
        "all": everything,
        "instead": everything,
        "other": {"impression_in_train"},
    }
    test = studies.counts["leaks"]["in_train"]["test"]
    assert test["findings"] == {"reports": 4, "in_train": 2, "share": 0.5} and test["findings_impression"]["in_train"] == 1
    assert drop_train_duplicates(studies.table, "findings")["study_id"][:] == ["case", "more", "none"]
    assert drop_train_duplicates(studies.table.select([3, 2]), "findings_impression")["study_id"][:] == ["same"]


def test_other_sources_teach_too():
    one = prepared([("a", "p", "train", LUNGS, None), ("b", "q", "test", "Effusion.", None)]).table
    two = prepared([("c", "p", "train", "Effusion.", None), ("d", "q", "test", LUNGS, None)]).table
    assert train_test_overlap({"one": one, "two": two}, {"one": one})[1] == {
        "source": "two", "reports": 1, "in_own_train": 0, "in_any_train": 1, "share": 1.0,
    }  # fmt: skip
    assert [f["in_own_train"] for f in train_test_overlap({"one": one, "two": two}, {"one": one, "two": two})] == [0, 0]


def test_a_patient_in_two_splits_is_refused_and_nothing_kept(tmp_path):
    rows = [("s1", "p1", "train", LUNGS, None), ("s2", "p1", "validation", LUNGS, None), ("s3", "p2", "test", None, None)]
    studies = prepared(rows)
    assert patients_in_two_splits(studies.table) == {"p1": ["train", "validation"]}
    assert studies.table["flags"][0] == "patient_in_two_splits" and studies.counts["leaks"]["patients_in_two_splits"] == 1
    Image.linear_gradient("L").save(tmp_path / "film.png")
    (tmp_path / "t.csv").write_text("id,who,part,film\n" + "".join(f"{s},{p},{w},film.png\n" for s, p, w, *_ in rows))
    out = tmp_path / "data" / "ours"
    mapping = dict(table="t.csv", study_id="id", patient_id="who", split="part", image="film", source="ours", size=32)
    with pytest.raises(StudyError, match="patient p1 is in train and in validation"):
        read_source("table", tmp_path, out=str(out), **mapping)
    assert not out.exists()


SENTENCE = "There is a small effusion at the left base."


@pytest.mark.parametrize(
    ("shown", "target", "holds"),
    [
        ([f"Cough. {SENTENCE}", None], ["The heart is normal. " + SENTENCE, None], True),
        ([None, "THERE IS A SMALL\neffusion at"], [None, SENTENCE], True),  # six words, whatever their case and lines
        (["Large right effusion.", None], ["Large right effusion.", "Effusion."], True),  # a whole sentence
        (["follow up of a large right effusion", None], ["- Large right effusion\n- Normal heart", None], True),
        (["Effusion?", "None."], ["Effusion.", "None."], False),
        (["history of lung cancer", None], ["There is a mass, history of lung cancer known.", None], False),
        (["a b c", "d e f"], ["a b c d e f", None], False),  # not from one context into the other
        ([None, None], [None, None], False),
    ],
)
def test_prompts_that_hold_their_target(shown, target, holds):
    assert holds_target(shown, target) is holds


def test_prompts_are_counted_in_counts(tmp_path):
    records = [
        Record("demo", "plain", "a", split="train", order_key=1, indication="Cough.", findings=LUNGS),
        Record("demo", "same", "a", split="train", order_key=2, comparison="None.", findings=f" {LUNGS} "),
        Record("demo", "holds", "b", split="train", indication="Follow a small effusion at the left base", findings=SENTENCE),
        Record("demo", "cut", "c", split="test", comparison=f"Film of 2010. {SENTENCE}", findings=SENTENCE),
    ]
    for record in records:
        record.images = [StudyImage("x.png", "PA")]
    studies = collect("demo", records, pixels=False, out=tmp_path / "demo")
    assert studies.counts["leaks"]["prompts"] == {"holding_target": 1, "words": 6, "context_cut": 1, "prior_says_target": 1}
    assert list(told_in_prompt(studies.table)) == [("holds", "target"), ("cut", "cut")]
    assert prompt_leaks(studies.table.select([0]))["holding_target"] == 0


@pytest.mark.skipif(not IU.exists(), reason="../shared/real_data/iu_xray_text is not here")
def test_real_prompts_do_not_hold_their_target():
    told = iu_xray.read(IU, pixels=False).counts["leaks"]["prompts"]
    print(f"\nIU X-Ray: {told}")
    assert told["holding_target"] <= 1 and told["context_cut"] <= 12


@pytest.mark.skipif(not IU.exists(), reason="../shared/real_data/iu_xray_text is not here")
def test_how_much_of_iu_xrays_test_set_is_trained_on_by_a_second_count():
    studies = iu_xray.read(IU, pixels=False)
    mine = studies.counts["leaks"]["in_train"]["test"]["findings"]
    with (IU / "indiana_reports.csv").open(newline="", encoding="utf-8") as file:
        said = {row["uid"]: " ".join(row["findings"].split()) for row in csv.DictReader(file)}
    ids = {row["study_id"].removeprefix("CXR"): row["split"] for row in studies.table.select_columns(["study_id", "split"])}
    train = {said[uid] for uid, split in ids.items() if split == "train" and said.get(uid)}
    test = [uid for uid, split in ids.items() if split == "test" and said.get(uid)]
    known = [uid for uid in test if said[uid] in train]
    print(f"\nIU X-Ray: {mine['in_train']} of {mine['reports']} test findings ({mine['share']:.1%}) stand in R2Gen's training split")
    assert (mine["reports"], mine["in_train"]) == (len(test), len(known)) and len(test) == 590
    assert len(drop_train_duplicates(studies.table, "findings")) == len(test) - len(known)


def test_pictures_that_look_like_films(tmp_path):
    from unirg.phantom.anatomy import CAMERAS, Body, film

    pixels = film(Body("female", 50, 165, 25, 1), [], CAMERAS["iu_xray"], "PA", 256, 1).astype(float)
    grey = (255 * (pixels - pixels.min()) / np.ptp(pixels)).astype(np.uint8)
    Image.fromarray(grey).save(tmp_path / "film.png")
    page = Image.new("RGB", (600, 600), "white")
    page.paste(Image.fromarray(grey), (300, 300))
    assert looks_like_a_radiograph(Image.fromarray(grey)) and looks_like_a_radiograph(page)
    import matplotlib.pyplot as plt

    figure, ax = plt.subplots()
    ax.plot(np.random.default_rng(0).normal(size=300).cumsum(), color="grey")
    figure.savefig(tmp_path / "figure.png")
    plt.close(figure)
    assert [looks_like_a_radiograph(i) for name in ("film.png", "figure.png") for i in pictures_in(tmp_path / name)] == [True, False]


SETTINGS = """
[shared]
target_sections = findings
[toy]
sources = secret open
[source:secret]
layout = table
role = train
root = {root}
[source:open]
layout = table
role = train
credentialed = no
root = {root}
[stage:explore]
show_credentialed = {shown}
"""
WORDS = "cats dogs mice hens owls rats bats ants bees cows pigs goats".split()


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    "Two prepared sources, one free and one credentialed by silence, made by the study's notebook."
    base = tmp_path_factory.mktemp("leaks")
    root, archive, home = base / "study", base / "archive", base / "home"
    shutil.copytree(ROOT / "nbs" / "study", root / "nbs" / "study")
    for folder in (archive, home, home / "tmp"):
        folder.mkdir()
    (root / "settings.ini").write_text(SETTINGS.format(root=archive, shown=""))
    texts = {}  # HOME and the temporary folder are empty ones, to be searched afterwards
    for name in ("secret", "open"):
        pixels = np.random.default_rng(len(name)).normal(120, 40, (96, 96)).clip(0, 255)
        Image.fromarray(pixels.astype(np.uint8)).save(archive / f"{name}.png")
        texts[name] = f"{name} film with {' and '.join(WORDS if name == 'open' else reversed(WORDS))} and no effusion"
        (archive / f"{name}.csv").write_text(f"id,who,day,film,note\n1,p,1,{name}.png,Clear.\n2,p,2,{name}.png,{texts[name]}\n")
        options = f'{{"table": "{name}.csv", "study_id": "id", "patient_id": "who", "order": "day", "image": "film", "report": "note"}}'
        given = dict(out="outputs/toy", source=name, layout="table", root=str(archive), options=options, prepared_image_size=96)
        done = run(root, home, "10_prepare", given, "outputs/toy/runs/prepare.ipynb" if name == "secret" else "outputs/toy/runs/open.ipynb")
        assert done.returncode == 0, done.stderr[-3000:]
    return root, home, texts


def run(root, home, notebook, parameters, result):
    (root / result).parent.mkdir(parents=True, exist_ok=True)
    book = root / f"nbs/study/{notebook}.ipynb"
    places = {"HOME": str(home), "TMPDIR": str(home / "tmp"), "UNIRG_ROOT": str(root), "PYTHONPATH": str(ROOT)}
    environment = {**os.environ, "UNIRG_TASK": notebook, **places}
    told = f"Path({str(book)!r}), Path({str(root / result)!r}), {parameters!r}, Path({str(root)!r})"
    code = f"from pathlib import Path; from unirg.study import execute; execute({told})"
    return subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True)


def tables(root):
    from unirg.data.studies import Studies

    return {name: Studies.load(root / "outputs/toy/data" / name).table for name in ("secret", "open")}


def test_preparing_leaves_no_text_and_no_film_outside_the_root(study):
    root, home, texts = study
    made = tables(root)
    films = [row["image"]["bytes"] for name in made for row in made[name].cast_column("image", datasets.Image(decode=False))]
    assert len(films) == 4 and all(len(film) > 1000 for film in films)
    holding = [
        path
        for path in home.rglob("*")
        if path.is_file() and any(secret in path.read_bytes() for secret in (*films, *(text.encode() for text in texts.values())))
    ]
    assert holding == [] and not list((root / "outputs").glob(".scratch*"))
    assert scan_for_credentialed_content((root / "outputs/toy/runs").glob("*.ipynb"), made.values()) == []


def explored(world, name, shown="", **parameters):
    root, home, _ = world
    settings = root / "settings.ini"
    settings.write_text(SETTINGS.format(root=home.parent / "archive", shown=shown))
    done = run(root, home, "00_explore", {"profile": "toy", **parameters}, f"outputs/toy/{name}.ipynb")
    return done, root / f"outputs/toy/{name}.ipynb"


def test_exploring_without_a_screen_shows_what_is_free_and_nothing_else(study):
    done, path = explored(study, "free")
    assert done.returncode == 0, done.stderr[-3000:]
    made = tables(study[0])
    assert (
        scan_for_credentialed_content([path], [made["secret"]])[0]["phrases"] == 0
    )  # the film found is the free one's: it looks like a film, whosever it is
    assert (
        scan_for_credentialed_content([path], [made["open"]])[0]["phrases"] > 5
        and scan_for_credentialed_content([path], [made["open"]])[0]["films"]
    )
    said = "".join(o.get("text", "") for c in nbformat.read(path, 4).cells for o in c.get("outputs", []))
    assert "secret is credentialed" in said


def test_exploring_shows_a_credentialed_source_only_where_it_is_named(study):
    done, path = explored(study, "named", shown="secret", source="secret", study="2")
    assert done.returncode == 0, done.stderr[-3000:]
    assert scan_for_credentialed_content([path], [tables(study[0])["secret"]])[0]["phrases"] > 5


def test_which_sources_may_be_shown(study):
    from unirg.analysis.explore import sources_to_show
    from unirg.core import Settings

    (study[0] / "settings.ini").write_text(SETTINGS.format(root=study[0].parent / "archive", shown=""))
    settings = Settings("toy", root=study[0])
    assert sources_to_show(settings, ["secret", "open"]) == (["open"], ["secret"])
    assert sources_to_show(settings, ["secret", "open"], ["secret"]) == (["secret", "open"], [])
    with pytest.raises(StudyError, match="sceret"):
        sources_to_show(settings, ["secret", "open"], ["sceret"])


def test_a_credentialed_source_cannot_be_asked_for_by_its_name_alone(study):
    done, path = explored(study, "asked", source="secret")
    assert "may not be shown" in done.stderr
    assert not any(found["phrases"] for found in scan_for_credentialed_content([path], [tables(study[0])["secret"]]))


def test_the_last_look_finds_what_lies_in_figures(study):
    from unirg.analysis.explore import scan_study_for_credentialed_content
    from unirg.core import Settings
    from unirg.data.studies import Studies

    root, _, texts = study
    (root / "settings.ini").write_text(SETTINGS.format(root=root.parent / "archive", shown=""))
    settings = Settings("toy", root=root)
    studies = {name: Studies.load(settings.out / "data" / name) for name in ("secret", "open")}
    assert scan_study_for_credentialed_content(settings, studies) == []
    (settings.out / "figures").mkdir()
    for name in ("secret", "open"):
        (settings.out / "figures" / f"fig_{name}.svg").write_text(f"<svg><!-- {texts[name]} --><text>n = 4</text></svg>")
    assert [(Path(f["file"]).name, f["films"]) for f in scan_study_for_credentialed_content(settings, studies)] == [("fig_secret.svg", 0)]


def test_arrow_tables_are_taken_too():
    table = pa.table({"patient_id": ["a", "a", None, None], "split": ["test", None, "train", "test"]})
    assert patients_in_two_splits(table) == {}
