"What is done is not done again, and what was done by other code or otherwise is: rows, checkpoints, policies, predictions."

import shutil
from pathlib import Path

import datasets
import pytest
from study_notebooks import run_notebook
from training_toys import toy_studies, toy_table, toy_texts

import unirg
from unirg.core import code_of, modules_of, read_json, write_json
from unirg.training import generation, sft, trainers
from unirg.training.launch import finished, launch
from unirg.training.options import Job
from unirg.training.policy import build_tiny_policy, link_checkpoint
from unirg.training.rows import training_rows

PACKAGE = Path(unirg.__file__).parent
SFT = {"max_steps": "8", "logging_steps": "4", "save_steps": "3", "eval_steps": "3", "warmup_steps": "2"}
SFT |= {"load_best_model_at_end": "yes", "metric_for_best_model": "composite_step1"}


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    "A folder with a tiny policy and a prepared source."
    folder = tmp_path_factory.mktemp("reruns")
    build_tiny_policy(toy_texts(), folder / "tiny")
    toy_studies(folder / "toy", 20)
    return folder


@pytest.fixture
def users_cache(tmp_path, monkeypatch):
    "Where the datasets library would keep things for all of a user's projects."
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "user")
    return tmp_path / "user"


def asked(place, name, trl=SFT, **more):
    where = {"start": str(place / "tiny"), "tables": [str(place / "toy")], "out": str(place / name)}
    return {"kind": "sft", "batch": 8, "trl": trl, "evaluate_studies": 4, **where, **more}


def study_of(tmp_path, monkeypatch, *sources):
    "A study's folder with prepared sources and a policy."
    monkeypatch.setenv("UNIRG_ROOT", str(tmp_path))
    (tmp_path / "settings.ini").write_text("")
    for source in sources:
        toy_studies(tmp_path / "out" / "data" / source, 20, source)
    build_tiny_policy(toy_texts(), tmp_path / "out" / "models" / "sft-s1")
    return tmp_path / "out"


def test_films_and_reports_stay_inside_the_study(place, tmp_path, monkeypatch, users_cache):
    out = study_of(tmp_path, monkeypatch, "toy")
    run_notebook("40_generate", out="out", run="sft", sources=["toy"], max_new_tokens=4)
    run_notebook("45_consensus", out="out", sources=["toy"], training=["toy"], samples=2, max_new_tokens=4)
    generation.generate_reports(place / "tiny", place / "toy", tmp_path / "alone" / "p.json", max_new_tokens=4)
    sft.main(write_json(tmp_path / "job.json", asked(place, "unplaced", {"max_steps": "1"}, evaluate_studies=0)))
    assert not users_cache.exists()
    kept = {path.name for path in out.iterdir()} | {path.name for path in (out / "predictions" / "sft-s1").iterdir()}
    assert kept == {"data", "models", "predictions", "scores", "toy.json", ".toy.json.request"}, "no rows among what is digested"


def test_a_threshold_is_chosen_on_sources_learned_from_alone(tmp_path, monkeypatch):
    out = study_of(tmp_path, monkeypatch, "toy", "unseen")
    run_notebook("45_consensus", out="out", sources=["unseen", "toy"], training=["toy"], samples=2, max_new_tokens=4)
    drawn = {path.name for path in (out / "predictions" / "sft_consensus-s1" / "samples").glob("[!.]*.json")}
    assert drawn == {"toy.json", "unseen.json", "toy-validation.json", "threshold.json"}
    with pytest.raises(unirg.core.StudyError, match="none of toy has validation studies"):
        run_notebook("45_consensus", out="out", sources=["unseen"], training=["toy"])


def begun(place, name, **more):
    "A training that was killed after its second step, by these settings."
    job = Job(**asked(place, name, **more))
    trainers.start_work(job)
    mark = job.work / "checkpoints" / "checkpoint-2" / "whole"
    mark.parent.mkdir(parents=True)
    mark.touch()
    return mark


KEPT = [{"trl": SFT | {"logging_steps": "1"}}, {"trl": SFT | {"save_steps": "6", "report_to": "tensorboard"}}, {"reward_workers": "2"}]
KEPT += [{"trl": SFT | {"per_device_train_batch_size": "2"}}, {"trl": SFT | {"attn_implementation": "eager"}}]
ASIDE = [{"trl": SFT | {"learning_rate": "1e-4"}}, {"seed": 3}, {"batch": 4}, {"target_sections": "findings"}, {"prior": True}]
ASIDE += [{"n_augmented_copies": 2}, {"trl": SFT | {"max_steps": "9"}}, {"studies": 3}, {"muon_learning_rate": 1e-3}]
ASIDE += [{"trl": SFT | {"metric_for_best_model": "words"}}]


@pytest.mark.parametrize(("change", "kept"), [*((one, True) for one in KEPT), *((one, False) for one in ASIDE)])
def test_work_is_gone_on_with_where_what_decides_the_weights_is_the_same(place, tmp_path, capsys, change, kept):
    mark = begun(place, tmp_path / "half")
    trainers.start_work(Job(**asked(place, tmp_path / "half") | change))
    assert mark.exists() == kept
    aside = list(tmp_path.glob("half.checkpoints.superseded-*/checkpoint-2/whole"))
    said = capsys.readouterr().out
    assert (not aside and not said) if kept else (len(aside) == 1 and str(aside[0].parents[1]) in said and "half starts anew" in said)


def test_other_films_or_another_start_are_other_work(place, tmp_path):
    for name, change in (("films", {"tables": [str(tmp_path / "toy")]}), ("start", {"start": str(tmp_path / "tiny")})):
        toy_studies(tmp_path / "toy", 25)
        build_tiny_policy(toy_texts(), tmp_path / "tiny", seed=1)
        mark = begun(place, tmp_path / name)
        trainers.start_work(Job(**asked(place, tmp_path / name) | change))
        assert not mark.exists() and list(tmp_path.glob(f"{name}.checkpoints.superseded-*"))


def test_a_copy_of_a_start_or_a_table_is_the_same(place, tmp_path):
    shutil.copytree(place / "tiny", tmp_path / "tiny")
    mark = begun(place, tmp_path / "half")
    trainers.start_work(Job(**asked(place, tmp_path / "half") | {"start": str(tmp_path / "tiny")}))
    assert mark.exists()


def test_no_module_of_the_room_leads_back_to_itself():
    for path in sorted((PACKAGE / "training").glob("[a-z]*.py")):
        name = f"unirg.training.{path.stem}"
        assert name not in modules_of(path.read_text(), name), name


@pytest.mark.parametrize(("notebook", "runs"), [("15_base", "sft"), ("20_sft", "sft"), ("30_rl", "grpo")])
def test_a_changed_trainer_makes_what_it_trained_stale(notebook, runs):
    "Although a process of its own imports it."
    rests = code_of(PACKAGE.parent / f"nbs/study/{notebook}.ipynb")["modules"]
    assert {f"unirg.training.{name}" for name in (runs, "trainers", "policy", "rows", "generation")} <= set(rests)
    assert {"unirg.reward.composite", "unirg.reward.findings"} <= set(rests), "the best weights are chosen by them"


def test_a_finished_training_is_not_done_again_unless_something_differs(place):
    once = {"max_steps": "1"}
    config = asked(place, "once", once, evaluate_studies=0)
    record = launch(config, show=False)
    weights, work = place / "once" / "model.safetensors", place / "once.work"
    made = weights.stat().st_mtime_ns
    assert launch(config | {"trl": once | {"logging_steps": "1"}}, show=False) == record, "what decides no weight may differ"
    assert weights.stat().st_mtime_ns == made and not work.exists()
    note = read_json(place / "once" / ".finished.json")
    for change in ({}, {"seed": 1}, {"trl": once | {"learning_rate": "1e-4"}}, {"prompt_template": "full"}):
        job = write_json(place / "job.json", config | change)
        assert (finished(job) is None) == bool(change)
    job = write_json(place / "job.json", config)
    theirs = note["asked"] | {"code of unirg.training.trainers": "other code's"}
    write_json(place / "once" / ".finished.json", note | {"asked": theirs})
    assert finished(job) is None, "other code trained it"
    write_json(place / "once" / ".finished.json", note)
    assert finished(job) is not None
    weights.write_bytes(weights.read_bytes()[:-4] + b"\0\0\0\1")
    assert finished(job) is None, "somebody changed its weights"
    write_json(place / "once" / ".finished.json", note | {"asked": {}})
    assert finished(job) is None


def test_a_source_that_has_its_reports_is_not_written_again(place, tmp_path, monkeypatch):
    options = dict(table=place / "toy", out=tmp_path / "p.json")
    written, parts = generation.generate_reports(place / "tiny", max_new_tokens=4, **options), generation.write_parts
    monkeypatch.setattr(generation, "write_parts", None)
    assert generation.generate_reports(place / "tiny", max_new_tokens=4, **options) == written
    monkeypatch.setattr(generation, "write_parts", parts)
    (tmp_path / "p.json").write_text("{}")
    assert generation.generate_reports(place / "tiny", max_new_tokens=4, **options) == written, "an edited file is written anew"
    assert generation.generate_reports(place / "tiny", max_new_tokens=2, **options) != written
    build_tiny_policy(toy_texts(), tmp_path / "tiny", seed=1)
    assert generation.generate_reports(tmp_path / "tiny", max_new_tokens=4, **options) != written


def test_a_policy_without_a_record_is_asked_as_the_study_says(place, tmp_path):
    link_checkpoint(place / "tiny", tmp_path / "base", prompt_template="full", target_sections="findings_impression")
    asked_for = generation.build_prompts(tmp_path / "base", toy_table(2))
    alike = training_rows(toy_table(2), prompt_template="full", split=None)
    assert [row["prompt"] for row in asked_for] == [row["prompt"] for row in alike]
    write_json(place / "told" / "training.json", {"job": {"prompt_template": "short"}})
    link_checkpoint(place / "told", tmp_path / "again", prompt_template="full")
    assert generation.load_prompt_config(tmp_path / "again") == {"prompt_template": "short"}, "what a policy learned from goes first"


def test_a_policy_of_version_0_1_is_asked_as_it_was_trained(tmp_path):
    write_json(tmp_path / "training.json", {"job": {"want": "findings", "wording": "brief", "prior": True}})
    asked = generation.load_prompt_config(tmp_path)
    assert asked == {"target_sections": "findings", "prompt_template": "brief", "prior": True}


def test_the_best_weights_are_kept_also_over_a_kill(place, monkeypatch):
    "Looks at steps 0, 3, 6 and 8; the best is the first after the start, whether or not a kill comes between."
    real, scores = trainers.mean_scores, []
    monkeypatch.setattr(trainers, "mean_scores", lambda *told: real(*told) | {"composite_step1": scores.pop(0)})

    def trained(name, looks):
        scores[:] = looks
        sft.main(write_json(place / f"{name}.json", asked(place, name)))
        return read_json(place / name / "training.json")["kept_step"], (place / name / "model.safetensors").read_bytes()

    whole = trained("whole", [0.9, 0.5, 0.2, 0.3])

    class Killed(trainers.CheckpointCompletion):
        def on_step_begin(self, args, state, control, **kwargs):
            if state.global_step == 7:
                raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(trainers, "CheckpointCompletion", Killed)
        trained("killed", [0.9, 0.5, 0.2])
    assert trained("killed", [0.3]) == whole and whole[0] == 3
