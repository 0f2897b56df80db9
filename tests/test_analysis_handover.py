"Handing a policy over: what goes out loads by itself and says, from files, what it is."

import shutil

import pytest
import torch
from safetensors.torch import load_file
from training_toys import toy_studies, toy_table, toy_texts

from unirg.analysis.handover import hand_over, model_card, write_cards, write_release
from unirg.analysis.scoring import save_scores, score_predictions
from unirg.core import RESEARCH_ONLY, StudyError, digest, read_json, write_json
from unirg.training.generation import generate_reports
from unirg.training.policy import build_tiny_policy, link_checkpoint


@pytest.fixture(scope="module")
def out(tmp_path_factory):
    "A profile's folder with two seeds of a finished run, one of them scored; the record is as `finish_work` writes it."
    out = tmp_path_factory.mktemp("handover") / "profile"
    toy_studies(out / "data" / "toy", 20)
    counts = read_json(out / "data" / "toy" / "counts.json")
    write_json(out / "data" / "toy" / "counts.json", counts | {"split": {"train": 12, "validation": 4, "test": 4}, "patients": 10})
    for seed in (1, 2):
        model = build_tiny_policy(toy_texts(), out / "models" / f"sft-s{seed}", seed=seed)
        job = {
            "start": str(out / "models" / "base-s1"),
            "tables": [str(out / "data" / "toy")],
            "out": str(model),
            "target_sections": "findings",
        }
        record = {"kind": "sft", "job": job | {"seed": seed}, "recipe": {"learning_rate": 0.125, "steps": 3}, "studies": 12}
        record |= {"spent": {"step": 3, "num_tokens": None}, "kept_step": 3, "processes": 1, "versions": {"torch": "0"}}
        write_json(model / "training.json", record)
        table = toy_table(20).remove_columns("image")
        said = [study["findings"] if number % seed == 0 else "Normal." for number, study in enumerate(table)]
        predictions = {study: f"Findings: {text}" for study, text in zip(table["study_id"], said, strict=True)}
        save_scores(score_predictions(predictions, table, "findings", f"sft-s{seed}"), out / "scores" / f"sft-s{seed}" / "toy.parquet")
    return out


def test_what_is_handed_over_loads_and_writes(out, tmp_path):
    before = digest(out / "models" / "sft-s1")
    handed = hand_over(out / "models" / "sft-s1", tmp_path / "handed", out / "scores")
    assert digest(out / "models" / "sft-s1") == before, "the model that was finished stays as it is"
    options = dict(table=toy_table(4), out=tmp_path / "p.json", max_new_tokens=6)
    assert generate_reports(handed, **options) == generate_reports(out / "models" / "sft-s1", **options)
    assert {"README.md", "training.json", "model.safetensors", "processor_config.json"} <= {path.name for path in handed.iterdir()}
    for file in ("README.md", "training.json"):
        assert str(tmp_path.parent.parent) not in (handed / file).read_text(), "no path of the machine goes out"
    assert read_json(handed / "training.json")["job"]["tables"] == ["toy"]


def test_the_card_says_what_the_files_say(out):
    card = model_card(out / "models" / "sft-s1", out / "scores", ["toy"], ["Its patients are made up."])
    lines = card.splitlines()
    assert RESEARCH_ONLY in card and "Its patients are made up." in card and "learning_rate 0.125" in card
    assert "| toy | yes | 12 | 4 | 10 |" in lines and "toy: credentialed data" in card
    assert "| studies (patients) | 20 (10) |" in lines
    assert "| fact_f1 | 1.000 [1.000, 1.000] |" in lines, "every prediction of seed 1 is its reference"
    seeds = {line.split(" | ")[0].strip("| "): float(line.split(" | ")[1].strip(" |")) for line in lines if line.startswith("| sft-s")}
    assert set(seeds) == {"sft-s1", "sft-s2"} and seeds["sft-s1"] > seeds["sft-s2"]
    bare = model_card(out / "models" / "sft-s1")
    assert "has not been scored" in bare and "credentialed data" not in bare


def test_another_runs_scores_are_not_this_runs(out, tmp_path):
    shutil.copytree(out / "scores" / "sft-s1", tmp_path / "scores" / "sft_matched-s1")
    shutil.copytree(out / "scores" / "sft-s1", tmp_path / "scores" / "sft-small-s1")
    assert "has not been scored" in model_card(out / "models" / "sft-s1", tmp_path / "scores")


def test_cards_of_a_profile_stand_outside_the_models(out):
    before = digest(out / "models")
    cards = write_cards(out, ["sft-s1", "sft-s2"])
    assert [card.name for card in cards] == ["sft-s1.md", "sft-s2.md"] and cards[0].parent == out / "cards"
    assert digest(out / "models") == before


def test_a_seed_that_is_no_longer_planned_has_no_card_and_is_on_none(out):
    write_cards(out, ["sft-s1", "sft-s2"])
    assert [card.name for card in write_cards(out, ["sft-s1"])] == ["sft-s1.md"]
    assert [card.name for card in (out / "cards").iterdir()] == ["sft-s1.md"]
    assert "sft-s2" not in (out / "cards" / "sft-s1.md").read_text()


@pytest.mark.parametrize("missing", ["model.safetensors", "generation_config.json", "processor_config.json", "training.json"])
def test_what_is_not_finished_is_not_handed_over(out, tmp_path, missing):
    shutil.copytree(out / "models" / "sft-s1", tmp_path / "cut")
    (tmp_path / "cut" / missing).unlink()
    with pytest.raises(StudyError, match=f"has no .*{missing.removeprefix('model')}"):
        hand_over(tmp_path / "cut", tmp_path / "handed")
    assert not (tmp_path / "handed").exists()


def test_what_does_not_load_is_not_handed_over(out, tmp_path):
    shutil.copytree(out / "models" / "sft-s1", tmp_path / "broken")
    weights = tmp_path / "broken" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1000])
    with pytest.raises(StudyError, match="does not load"):
        hand_over(tmp_path / "broken", tmp_path / "handed")
    assert not (tmp_path / "handed").exists()


def test_a_base_that_learned_from_the_atlas_has_a_card_that_says_what_it_stands_for(out, tmp_path):
    shared, models = tmp_path / "shared" / "base-1234", tmp_path / "out" / "models"
    shutil.copytree(out / "models" / "sft-s1", shared)
    record = read_json(shared / "training.json")
    record["job"] |= {"tables": [str(tmp_path / "shared" / "atlas-1" / "atlas")], "start": "fresh"}
    write_json(shared / "training.json", record)
    link_checkpoint(shared, models / "base-s1")
    own = models / "sft-s1"
    shutil.copytree(out / "models" / "sft-s1", own)
    record = read_json(own / "training.json")
    record["job"] |= {"start": str(models / "base-s1")}
    write_json(own / "training.json", record)
    cards = {path.stem: path.read_text() for path in write_cards(tmp_path / "out", ["base-s1", "sft-s1"])}
    assert set(cards) == {"base-s1", "sft-s1"} and "# base-s1" in cards["base-s1"]
    assert all("stands for the pretraining" in card for card in cards.values()), "whatever began with it says so"
    assert "| atlas" in cards["base-s1"] and "| atlas" not in cards["sft-s1"]
    plain = {path.stem: path.read_text() for path in write_cards(out, ["sft-s1"], folder=tmp_path / "cards")}
    assert "stands for the pretraining" not in plain["sft-s1"]


def test_a_folder_that_stands_for_a_policy_of_ours_hands_that_over_and_one_of_the_hubs_nothing(out, tmp_path):
    link_checkpoint(out / "models" / "sft-s1", tmp_path / "base-s1")
    handed = hand_over(tmp_path / "base-s1", tmp_path / "handed")
    assert "# base-s1" in (handed / "README.md").read_text() and (handed / "model.safetensors").is_file()
    write_json(tmp_path / "hub" / "refers_to.json", {"policy": "owner/name", "revision": "1"})
    with pytest.raises(StudyError, match="only refers to owner/name"):
        hand_over(tmp_path / "hub", tmp_path / "other")


# ---------------------------------------------------------------- a release


@pytest.fixture(scope="module")
def study(out, tmp_path_factory):
    "A finished study: source toy is the phantom's, source cases is not; all three policies learned from toy."
    root = tmp_path_factory.mktemp("study")
    (root / "settings.ini").write_text("[made]\nsources = toy cases\n[source:toy]\nlayout = table\n[source:cases]\nlayout = table\n")
    made = root / "outputs" / "made"
    (made / "archives" / "toy").mkdir(parents=True)
    (made / "archives" / "truth.parquet").touch()
    shutil.copytree(out / "data", made / "data")
    shutil.copytree(out / "data" / "toy", made / "data" / "cases")
    for name in ("base-s1", "sft-s1", "rl2-s1"):
        shutil.copytree(out / "models" / "sft-s1", made / "models" / name)
        record = read_json(made / "models" / name / "training.json")
        write_json(made / "models" / name / "training.json", record | {"job": record["job"] | {"tables": [str(made / "data" / "toy")]}})
        for source in ("toy", "cases"):
            write_json(made / "predictions" / name / f"{source}.json", {"s1": {"model_prediction": "Findings: Clear."}})
    (made / "predictions" / "rl2-s1" / ".toy.json.request").touch()
    return root


def test_a_release_has_three_policies_with_cards_and_every_simulated_prediction(study, tmp_path):
    packed = write_release("made", tmp_path / "dist", root=study)
    assert [path.name for path in packed] == [f"made-{name}.tar.gz" for name in ("base", "predictions", "rl", "sft")]
    for path in packed:
        shutil.unpack_archive(path, tmp_path / "there")
    for name in ("base", "sft", "rl"):
        folder = tmp_path / "there" / f"made-{name}"
        assert "**Simulated data: the phantom.**" in (folder / "README.md").read_text()
        assert {tensor.dtype for tensor in load_file(folder / "model.safetensors").values()} == {torch.float16}
    written = generate_reports(tmp_path / "there" / "made-rl", table=toy_table(2), out=tmp_path / "p.json", max_new_tokens=4)
    assert len(written) == 2
    files = {path.relative_to(tmp_path / "there" / "made-predictions").as_posix() for path in (tmp_path / "there").rglob("*.json")
             if "made-predictions" in path.parts}  # fmt: skip
    assert files == {"base-s1/toy.json", "sft-s1/toy.json", "rl2-s1/toy.json"}, "what is not simulated stays"
    assert "Simulated data" in (tmp_path / "there" / "made-predictions" / "README.md").read_text()
    text = "".join(path.read_text() for path in (tmp_path / "there").rglob("*.*") if path.suffix in (".md", ".json"))
    assert str(study) not in text, "no path of the machine goes out"


@pytest.mark.parametrize("system", ["base-s1", "sft-s1", "rl2-s1"])
def test_a_policy_that_learned_from_anything_else_is_in_no_release(study, tmp_path, system):
    shutil.copytree(study, tmp_path / "study")
    path = tmp_path / "study" / "outputs" / "made" / "models" / system / "training.json"
    record = read_json(path)
    table = str(tmp_path / "study" / "outputs" / "made" / "data" / "cases")
    write_json(path, record | {"job": record["job"] | {"tables": [*record["job"]["tables"], table]}})
    with pytest.raises(StudyError, match=f"{system} learned from cases, not from the phantom"):
        write_release("made", tmp_path / "dist", root=tmp_path / "study")
    assert not (tmp_path / "dist").exists()


def test_a_card_says_that_it_is_simulated_only_where_all_of_it_is(study, out):
    models = study / "outputs" / "made" / "models"
    made, real = model_card(models / "sft-s1"), model_card(out / "models" / "sft-s1")
    assert "Simulated data" in made and "| phantom, in the layout of toy | no |" in made
    assert "Simulated data" not in real and "| toy | no |" in real
