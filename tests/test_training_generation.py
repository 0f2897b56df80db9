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
    return dict(table=place / "toy", batch_size=4, max_new_tokens=8, cache=place) | more


def test_a_report_does_not_depend_on_its_batch(place, tmp_path):
    model, processor = generation.load_policy(place / "tiny")
    rows = training_rows(toy_table(8), split=None, prior=True, cache=tmp_path)
    alone = generation.write_reports(model, processor, rows, batch_size=1, max_new_tokens=12)
    assert generation.write_reports(model, processor, rows, batch_size=8, max_new_tokens=12) == alone
    assert len(set(alone)) > 1


def test_two_processes_write_what_one_writes(place, whole):
    assert generation.generate_reports(place / "tiny", out=place / "two.json", processes=2, **options(place)) == whole
    assert (place / "two.json").read_bytes() == (place / "whole.json").read_bytes()
    assert list(whole) == [f"s{number}" for number in range(STUDIES)] and not list(place.glob(".*.parts"))


def test_why_one_of_several_processes_failed_is_said(place, tmp_path):
    with pytest.raises(StudyError, match="reports in 2 processes: dtype is 'float7'; it is float32"):
        generation.generate_reports(place / "tiny", out=tmp_path / "wrong.json", processes=2, **options(place, dtype="float7"))
    assert not (tmp_path / "wrong.json").exists()


@pytest.mark.parametrize("jobs, processes", [(0, 1), (1, 1), (5, 2), (16, 8), (17, 8), (23, 8), (3, 3)])
def test_long_batches_are_shared_evenly(jobs, processes):
    "As `split_between_processes` cuts what is handed to it: the first ones have one more where it does not come out even."
    order, shares, at = generation.striped(list(range(jobs)), processes), [], 0
    for number in range(processes):
        size = jobs // processes + (number < jobs % processes)
        shares.append(order[at : at + size])
        at += size
    assert shares == [list(range(number, jobs, processes)) for number in range(processes)]


def test_weights_are_in_16_bits_where_there_is_a_gpu(place, monkeypatch):
    asked, told = generation.Writing(str(place / "tiny")), generation.Writing(str(place / "tiny"), dtype="float32")
    monkeypatch.setattr(generation.torch.cuda, "is_available", lambda: False)
    assert asked.weights == "float32" and asked.asked == told.asked
    monkeypatch.setattr(generation.torch.cuda, "is_available", lambda: True)
    assert asked.weights == "bfloat16" and told.weights == "float32" and asked.asked != told.asked
    assert generation.Writing(str(place / "tiny"), device="cpu").weights == "float32"


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
    kept, real = {}, generation.Parts.remove
    with pytest.MonkeyPatch.context() as patch:  # look at the batches before they go
        patch.setattr(generation.Parts, "remove", lambda parts: (kept.update({p: p.stat().st_mtime_ns for p in done}), real(parts)))
        assert generation.generate_reports(place / "tiny", out=out, **options(place, batch_size=1)) == whole
    assert kept == done, "what was done is not done again"
    assert not list(place.glob(".*.parts"))


def test_work_for_another_request_is_not_taken_over(place, whole, tmp_path):
    rows = generation.asked_rows(place / "tiny", generation.studies_of(place / "toy"), cache=place)
    build_tiny_policy(toy_texts(), tmp_path / "tiny", seed=1)
    same = dict(policy=str(place / "tiny"), batch_size=STUDIES, max_new_tokens=8)
    asked = [same, same | {"max_new_tokens": 4}, same | {"policy": str(tmp_path / "tiny")}, same | {"samples": 2}]
    assert len({generation.write_parts(rows, generation.Writing(**one), tmp_path / "a.json").folder for one in asked}) == 4


def test_records_are_rexranks(place, tmp_path):
    written = generation.generate_reports(place / "tiny", toy_table(5), tmp_path / "p.json", max_new_tokens=4, split="test", cache=tmp_path)
    assert set(written) == {"s4"}
    assert {"model_prediction", "report", "section_findings", "section_impression", "image_path"} <= set(written["s4"])
    assert written["s4"]["report"].startswith("Findings: ") and "Impression: " in written["s4"]["report"]
    assert read_json(tmp_path / "p.json") == written


def test_a_study_id_that_stands_twice_is_refused(place, tmp_path):
    table = toy_table(4)
    table = table.map(lambda study: {"study_id": "same"})
    with pytest.raises(StudyError, match="same stands twice"):
        generation.generate_reports(place / "tiny", table, tmp_path / "p.json", max_new_tokens=4, split=None, cache=tmp_path)


def test_an_engine_that_is_not_there_is_refused_before_anything_is_written(place, tmp_path):
    if generation.find_spec("vllm"):
        pytest.skip("vLLM is installed here")
    with pytest.raises(StudyError, match="vllm is not installed"):
        generation.generate_reports(place / "tiny", place / "toy", tmp_path / "p.json", engine="vllm", cache=tmp_path)
    with pytest.raises(StudyError, match="engine is 'llama'"):
        generation.generate_reports(place / "tiny", place / "toy", tmp_path / "p.json", engine="llama", cache=tmp_path)
    assert not list(tmp_path.iterdir())
