"What is done is not done again, and what was done by other code or otherwise is: rows, checkpoints, policies, predictions."

import shutil
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path

import datasets
import nbformat
import pytest
from study_notebooks import run_notebook
from training_toys import toy_studies, toy_table, toy_texts

import unirg
from unirg.core import read_json, write_json
from unirg.study import modules_of
from unirg.training import generation, policy, sft
from unirg.training.launch import environment, finished, launch
from unirg.training.policy import build_tiny_policy, refer_to_policy, training_rows

ROOT = Path(__file__).parents[1]
PACKAGE = Path(unirg.__file__).parent
SFT = {"steps": 8, "global_batch": 8, "log_every": 4, "save_every": 2, "evaluate_every": 3, "evaluate_studies": 4, "warmup_steps": 2}
SFT |= {"max_completion_length": 8, "best": True}


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


def asked(place, name, recipe=SFT):
    return {"start": str(place / "tiny"), "tables": [str(place / "toy")], "out": str(place / name), "recipe": recipe}


def study_of(tmp_path, monkeypatch, *sources):
    "A study's folder with prepared sources and a policy."
    monkeypatch.setenv("UNIRG_ROOT", str(tmp_path))
    (tmp_path / "settings.ini").write_text("")
    for source in sources:
        toy_studies(tmp_path / "out" / "data" / source, 20)
    build_tiny_policy(toy_texts(), tmp_path / "out" / "models" / "sft-s1")
    return tmp_path / "out"


def test_films_and_reports_stay_inside_the_study(place, tmp_path, monkeypatch, users_cache):
    out = study_of(tmp_path, monkeypatch, "toy")
    run_notebook("40_generate", out="out", system="sft-s1", sources=["toy"], max_new_tokens=4)
    run_notebook("45_consensus", out="out", sources=["toy"], training=["toy"], samples=2, max_new_tokens=4)
    generation.generate_reports(place / "tiny", place / "toy", tmp_path / "alone" / "p.json", max_new_tokens=4)
    sft.main(write_json(tmp_path / "job.json", asked(place, "unplaced", SFT | {"steps": 1, "evaluate_every": 0})))
    assert not users_cache.exists()
    kept = {path.name for path in out.iterdir()} | {path.name for path in (out / "predictions" / "sft-s1").iterdir()}
    assert kept == {"data", "models", "predictions", "toy.json", ".toy.json.request"}, "no rows among what is digested"
    with pytest.raises(TypeError, match="cache"):
        training_rows(toy_table(2))


def test_a_threshold_is_chosen_on_sources_learned_from_alone(tmp_path, monkeypatch):
    out = study_of(tmp_path, monkeypatch, "toy", "unseen")
    run_notebook("45_consensus", out="out", sources=["unseen", "toy"], training=["toy"], samples=2, max_new_tokens=4)
    drawn = {path.name for path in (out / "predictions" / "sft_consensus-s1" / "samples").glob("[!.]*.json")}
    assert drawn == {"toy.json", "unseen.json", "toy-validation.json", "threshold.json"}
    with pytest.raises(unirg.core.StudyError, match="none of toy has validation studies"):
        run_notebook("45_consensus", out="out", sources=["unseen"], training=["toy"])


def test_rows_are_shared_among_those_who_want_them_and_survive_a_kill(tmp_path, monkeypatch):
    table, written, ordinary = toy_table(20), [], policy.write_rows
    alone = training_rows(table, split=None, augment=2, cache=tmp_path / "alone")
    monkeypatch.setattr(policy, "SHARD", 10)

    def write(*args):
        if len(written) == 2:
            raise MemoryError("killed")
        ordinary(*args)
        written.append(len(args[2]))

    monkeypatch.setattr(policy, "write_rows", write)
    with pytest.raises(MemoryError):
        training_rows(table, split=None, augment=2, cache=tmp_path / "rows")
    (folder,) = (tmp_path / "rows").iterdir()
    assert len(list(folder.glob("[0-9]*.arrow"))) == 2
    (folder / ".00002-of-00004.1.abc.part.arrow").touch()  # what it was writing
    order = []

    def note(raw, where, picked, options, path, copies):
        order.append(picked)
        ordinary(raw, where, picked, options, path, copies)
        for k in range(4):  # another process writes the other one meanwhile
            if not (there := folder / f"0000{k}-of-00004.arrow").exists() and len(order) == 1 and f".0000{k}" not in path.name:
                ordinary(raw, where, [(0, row) for row in range(5 * k, 5 * k + 5)], options, there, copies)

    monkeypatch.setattr(policy, "write_rows", note)
    rows = training_rows(table, split=None, augment=2, cache=tmp_path / "rows")
    assert len(order) == 1, "neither what a killed process finished nor what another one did is done again"
    undecoded = datasets.List(datasets.Image(decode=False))
    assert rows.cast_column("images", undecoded)[:] == alone.cast_column("images", undecoded)[:]


def test_an_edited_wording_or_reward_is_not_taken_for_the_old_one(place, tmp_path):
    "A copy of the package, edited, finds rows and a checkpoint of the package as it is."
    table, job = generation.studies_of(place / "toy"), sft.Job(**asked(place, "half"))
    before = training_rows(table, cache=tmp_path / "rows")
    sft.start_work(job, [table])
    mark = job.work / "checkpoints" / "checkpoint-2" / "whole"
    mark.parent.mkdir(parents=True)
    mark.touch()
    sft.start_work(job, [table])
    assert mark.exists() and training_rows(table, cache=tmp_path / "rows").cache_files == before.cache_files
    shutil.copytree(PACKAGE, tmp_path / "unirg", ignore=shutil.ignore_patterns("__pycache__"))
    for name, old, new in (("data/reports", "Report this chest X-ray.", "Describe this film."), ("reward/composite", "\n", "\n# edited\n")):
        file = tmp_path / "unirg" / f"{name}.py"
        file.write_text(file.read_text().replace(old, new, 1))
    code = "import sys; from unirg.training import sft\n"
    code += "table = sft.studies_of(sys.argv[1]); print(sft.training_rows(table, cache=sys.argv[2])[0]['prompt'])\n"
    code += "sft.start_work(sft.Job(**eval(sys.argv[3])), [table])"
    edited = environment() | {"PYTHONPATH": str(tmp_path)}
    told = [sys.executable, "-c", code, str(place / "toy"), str(tmp_path / "rows"), repr(asdict(job))]
    said = subprocess.run(told, env=edited, cwd=tmp_path, capture_output=True, text=True, check=True).stdout
    assert "Describe this film." in said and "Report this chest X-ray." in before[0]["prompt"][0]["content"][-1]["text"]
    assert len(list((tmp_path / "rows").iterdir())) == 1, "rows are large: those of other code are not kept"
    assert "half starts anew, for this changed since it was begun: unirg.data.reports, unirg.reward.composite\n" in said
    assert not mark.exists()


def test_all_that_a_trainer_imports_decides_whether_work_goes_on():
    known = set()
    for name in ("sft", "grpo"):
        known |= modules_of((PACKAGE / "training" / f"{name}.py").read_text(), PACKAGE, f"unirg.training.{name}")
    reading = {"unirg.core", "unirg.training.launch", *(f"unirg.data.{name}" for name in ("studies", "radiographs", "shards", "leaks"))}
    assert known | {"unirg.training.grpo"} == {f"unirg.{name}" for name in sft.LEARNING} | reading
    for notebook in ("15_base", "20_sft", "30_rl"):  # what their records name
        cells = nbformat.read(ROOT / "nbs" / "study" / f"{notebook}.ipynb", 4).cells
        code = "\n".join(cell.source for cell in cells if cell.cell_type == "code")
        assert "unirg.training.sft" in modules_of(code, PACKAGE)


def test_a_finished_training_is_not_done_again_unless_something_differs(place):
    config = asked(place, "once", SFT | {"steps": 1, "evaluate_every": 0})
    record = launch("unirg.training.sft", config, show=False)
    weights, work = place / "once" / "model.safetensors", place / "once.work"
    made = weights.stat().st_mtime_ns
    assert launch("unirg.training.sft", config, show=False) == record
    assert weights.stat().st_mtime_ns == made and not work.exists()
    note = read_json(place / "once" / ".finished.json")
    for change in ({}, {"seed": 1}, {"recipe": config["recipe"] | {"learning_rate": 1e-4}}):
        job = write_json(place / "job.json", config | change)
        assert (finished(job, note["command"]) is None) == bool(change)
    job = write_json(place / "job.json", config)
    assert finished(job, note["command"] + " --more") is None, "trained in another way"
    write_json(place / "once" / ".finished.json", note | {"asked": note["asked"] | {"code": {}}})
    assert finished(job, note["command"]) is None, "by other code"
    write_json(place / "once" / ".finished.json", note)
    weights.write_bytes(weights.read_bytes()[:-4] + b"\0\0\0\1")
    assert finished(job, note["command"]) is None, "somebody changed its weights"


def test_a_source_that_has_its_reports_is_not_written_again(place, tmp_path, monkeypatch):
    options = dict(table=place / "toy", out=tmp_path / "p.json", cache=tmp_path)
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
    refer_to_policy(place / "tiny", tmp_path / "base", wording="full", want="findings_impression")
    rows = generation.asked_rows(tmp_path / "base", toy_table(2), cache=tmp_path)
    assert rows["prompt"][:] == training_rows(toy_table(2), wording="full", split=None, cache=tmp_path)["prompt"][:]
    write_json(place / "told" / "training.json", {"job": {"wording": "short"}})
    refer_to_policy(place / "told", tmp_path / "again", wording="full")
    assert generation.taught_with(tmp_path / "again") == {"wording": "short"}, "what a policy learned from goes first"


def test_the_best_weights_are_those_the_log_knows_of_after_a_kill(place, monkeypatch):
    "Killed just after the best look yet, which seems worse when it is repeated."
    real, scores = sft.report_scores, []
    monkeypatch.setattr(sft, "report_scores", lambda *told: real(*told) | {"validation_composite_step1": scores.pop(0)})

    def trained(name, looks):
        scores[:] = looks
        sft.main(write_json(place / f"{name}.json", asked(place, name)))
        return read_json(place / name / "training.json")["kept_step"], (place / name / "model.safetensors").read_bytes()

    whole = trained("whole", [0.1, 0.5, 0.2, 0.3])  # at steps 0, 3, 6, 8
    save = sft.save_weights

    def killed(trainer, folder):
        save(trainer, folder)
        if trainer.state.global_step == 6:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(sft, "save_weights", killed)
        trained("killed", [0.1, 0.5, 0.9])
    assert trained("killed", [0.2, 0.3]) == whole and whole[0] == 3


def test_a_run_that_was_killed_goes_on_from_its_best_look(place, monkeypatch):
    real, looks = sft.report_scores, iter([0.1, 0.5, 0.9])
    monkeypatch.setattr(sft, "report_scores", lambda *told: real(*told) | {"validation_composite_step1": next(looks)})

    class Killed(sft.WholeCheckpoints):
        def on_step_begin(self, args, state, control, **kwargs):
            if state.global_step == 7:
                raise KeyboardInterrupt

    job = write_json(place / "look.json", asked(place, "look", SFT | {"save_every": 5}))
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(sft, "WholeCheckpoints", Killed)
        sft.main(job)
    assert Path(sft.last_checkpoint(place / "look.work" / "checkpoints")).name == "checkpoint-6"
