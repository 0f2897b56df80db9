"Generation: one prediction a study, whatever the batches, the processes, and however often it is killed."

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from training_toys import toy_studies, toy_table, toy_texts

import unirg.training.generation as generation
from unirg.core import StudyError, read_json
from unirg.training.launch import environment
from unirg.training.policy import build_tiny_policy
from unirg.training.rows import training_rows

STUDIES = 80


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    "A folder with a tiny policy and a prepared source."
    folder = tmp_path_factory.mktemp("generation")
    build_tiny_policy(toy_texts(), folder / "tiny")
    toy_studies(folder / "toy", STUDIES)
    return folder


@pytest.fixture(scope="module")
def whole(place):
    "What one process writes undisturbed."
    return generation.generate_reports(place / "tiny", out=place / "whole.json", **options(place))


def options(place, **more):
    return dict(table=place / "toy", batch_size=4, max_new_tokens=8) | more


def test_a_report_does_not_depend_on_its_batch(place, tmp_path):
    model, processor = generation.load_policy(place / "tiny")
    rows = training_rows(toy_table(8), split=None, prior=True)

    def written(batch_size):
        batches = generation.report_batches(model, processor, rows, batch_size, max_new_tokens=12)
        return {row: texts for picked, _, found in batches for row, texts in zip(picked, found, strict=True)}

    assert written(8) == written(1) and len({text for (text,) in written(1).values()}) > 1


def test_two_processes_write_what_one_writes(place, whole):
    assert generation.generate_reports(place / "tiny", out=place / "two.json", processes=2, **options(place)) == whole
    assert (place / "two.json").read_bytes() == (place / "whole.json").read_bytes()
    assert list(whole) == [f"s{number}" for number in range(STUDIES)] and not list(place.glob(".*.parts"))


def test_why_one_of_several_processes_failed_is_said(place, tmp_path):
    with pytest.raises(StudyError, match="reports in 2 processes: dtype is 'float7'; it is float32"):
        generation.generate_reports(place / "tiny", out=tmp_path / "wrong.json", processes=2, **options(place, dtype="float7"))
    assert not (tmp_path / "wrong.json").exists()


def test_weights_are_in_16_bits_where_there_is_a_gpu(place, monkeypatch):
    asked, told = generation.Writing(str(place / "tiny")), generation.Writing(str(place / "tiny"), dtype="float32")
    monkeypatch.setattr(generation.torch.cuda, "is_available", lambda: False)
    assert asked.weights == "float32" and asked.fingerprint == told.fingerprint
    monkeypatch.setattr(generation.torch.cuda, "is_available", lambda: True)
    assert asked.weights == "bfloat16" and told.weights == "float32" and asked.fingerprint != told.fingerprint


def writing(place):
    "Processes whose job lies there."
    lines = subprocess.run(["ps", "-ewwo", "pid,args"], capture_output=True, text=True).stdout.splitlines()
    return [line for line in lines if str(place) in line]


def test_two_processes_killed_are_gone_and_one_goes_on_after_their_last_batches(place, whole):
    out = place / "killed.json"
    code = "import json, sys; from unirg.training import generation\n"
    code += "if __name__ == '__main__': generation.generate_reports(**json.loads(sys.argv[1]))"
    asked = {name: str(value) if isinstance(value, Path) else value for name, value in options(place, out=out, processes=2).items()}
    asked |= {"policy": str(place / "tiny"), "batch_size": 1}
    writer = subprocess.Popen([sys.executable, "-c", code, json.dumps(asked)], env=environment())
    deadline = time.time() + 600
    while not list(place.glob(f".{out.name}.*.parts/0*.json")):
        assert writer.poll() is None and time.time() < deadline
        time.sleep(0.01)
    os.kill(writer.pid, signal.SIGKILL)
    writer.wait()
    while left := writing(place / f".{out.name}."):
        assert time.time() < deadline, f"processes outlive the one that started them: {left}"
        time.sleep(0.1)
    done = {path: path.stat().st_mtime_ns for path in place.glob(f".{out.name}.*.parts/0*.json")}
    assert 0 < len(done) < STUDIES and not out.exists(), "it was killed midway"
    kept, real = {}, generation.write_predictions
    with pytest.MonkeyPatch.context() as patch:  # look at the batches before they go
        patch.setattr(generation, "write_predictions", lambda *told: (kept.update({p: p.stat().st_mtime_ns for p in done}), real(*told))[1])
        assert generation.generate_reports(place / "tiny", out=out, **options(place, batch_size=1)) == whole
    assert kept == done, "what was done is not done again"
    assert not list(place.glob(".*.parts"))


def test_work_for_another_request_is_not_taken_over(place, whole, tmp_path):
    rows = generation.build_prompts(place / "tiny", generation.studies_of(place / "toy"))
    build_tiny_policy(toy_texts(), tmp_path / "tiny", seed=1)
    same = dict(policy=str(place / "tiny"), batch_size=STUDIES, max_new_tokens=8)
    asked = [same, same | {"max_new_tokens": 4}, same | {"policy": str(tmp_path / "tiny")}, same | {"samples": 2}]
    for one in asked:
        generation.write_parts(rows, generation.Writing(**one), tmp_path / "a.json")
    assert len(list(tmp_path.glob(".a.json.*.parts"))) == 4


def test_records_are_rexranks(place, tmp_path):
    written = generation.generate_reports(place / "tiny", toy_table(5), tmp_path / "p.json", max_new_tokens=4, split="test")
    assert set(written) == {"s4"}
    assert {"model_prediction", "report", "section_findings", "section_impression", "image_path"} <= set(written["s4"])
    assert written["s4"]["report"].startswith("Findings: ") and "Impression: " in written["s4"]["report"]
    assert read_json(tmp_path / "p.json") == written


def test_a_study_id_that_stands_twice_is_refused(place, tmp_path):
    table = toy_table(4)
    table = table.map(lambda study: {"study_id": "same"})
    with pytest.raises(StudyError, match="same stands twice"):
        generation.generate_reports(place / "tiny", table, tmp_path / "p.json", max_new_tokens=4, split=None)


def test_an_engine_that_is_not_there_is_refused_before_anything_is_written(place, tmp_path):
    if generation.find_spec("vllm"):
        pytest.skip("vLLM is installed here")
    with pytest.raises(StudyError, match="vllm is not installed"):
        generation.generate_reports(place / "tiny", place / "toy", tmp_path / "p.json", engine="vllm")
    with pytest.raises(StudyError, match="engine is 'llama'"):
        generation.generate_reports(place / "tiny", place / "toy", tmp_path / "p.json", engine="llama")
    assert not list(tmp_path.iterdir())
