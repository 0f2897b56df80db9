"No line that a training leaves holds a patient's text, whatever fails on the way: only predictions, rollouts and a judge's replies do."

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from hub_like import hub_like_policy
from judge_servers import Server, completion
from training_toys import toy_table

from unirg.data.studies import Studies

pytest.importorskip("openai", reason="the extra 'judge' is not installed")
ROOT = Path(__file__).parents[1]
SETTINGS = """
[shared]
[p]
out = outputs/p
[source:closed]
layout = mimic_cxr
role = train
root = archives/closed
judge_endpoints = ADDRESS
[judge:j]
endpoint = ADDRESS
model = m
retries = 1
timeout = 0.5
patience = 2
give_up = 3
"""
TEXTS = ("data", "predictions", "judge", "rollouts")  # folders that are meant to hold texts, inside the study
PLAIN = {"bf16": "no", "gradient_checkpointing": "no", "logging_steps": "1", "save_steps": "1", "eval_steps": "2", "log_level": "debug"}
PLAIN |= {"report_to": "tensorboard", "per_device_train_batch_size": "4"}
SFT = PLAIN | {"max_steps": "3"}
GRPO = PLAIN | {"max_steps": "4", "num_generations": "2", "max_completion_length": "6"}
NOTEBOOK = "import json, sys; from pathlib import Path; from unirg.study import execute; told = json.loads(sys.argv[1]); "
NOTEBOOK += "execute(Path(told['notebook']), Path(told['result']), told['parameters'], Path(told['root']))"


def rare(study, place):
    "A word that no report has but this one."
    letters = "".join("bdfgkmprtv"[int(digit)] + "aeiou"[len(place) % 5] for digit in f"{int(study[1:]):03d}")
    return f"zyx{place[0]}{letters}qua"


def planted(study):
    "Rare words in all texts of a study."
    findings = f"{study['findings']} A {rare(study['study_id'], 'findings')} is seen."
    impression = f"{study['impression']} {rare(study['study_id'], 'impression').capitalize()}."
    return {"findings": findings, "impression": impression, "indication": f"Status after {rare(study['study_id'], 'history')}."}


def broken_film(study):
    return {"image": {"bytes": study["image"]["bytes"][:300], "path": None}} if study["study_id"] == "s5" else {}


def strange_text(study):
    "A report that holds the policy's own token for a film."
    return {"findings": study["findings"] + " <|image_pad|>"} if study["study_id"] == "s5" else {}


def study_at(root, address="http://127.0.0.1:9/v1", *changes):
    "A study's folder with one credentialed source, and the rare words of its texts."
    table = toy_table(20, source="closed").map(planted)
    for change in changes:
        features = table.features
        table = table.from_list([row | change(row) for row in table.cast_column("image", type(features["image"])(decode=False))], features)
    Studies(table, {}, {"source": "closed", "seen": 20, "rows": 20, "quarantined": 0}).save(root / "outputs/p/data/closed")
    hub_like_policy(root / "hub")
    (root / "settings.ini").write_text(SETTINGS.replace("ADDRESS", address))
    return [rare(f"s{number}", place) for number in range(20) for place in ("findings", "impression", "history")]


def run(root, notebook, **parameters):
    "A study notebook as the engine runs it; all it said and left."
    told = {"out": "outputs/p", "sources": ["closed"], "start": "hub", "image_size": 64, "evaluate_studies": "2", "images": "with_prior"}
    told |= parameters
    order = {"notebook": f"{ROOT}/nbs/study/{notebook}.ipynb", "result": f"{root}/outputs/p/runs/{notebook}.ipynb", "root": str(root)}
    environment = {**os.environ, "UNIRG_ROOT": str(root), "PYTHONPATH": str(ROOT), "UNIRG_TASK": notebook, "OPENAI_LOG": "debug"}
    (root / "outputs/p/runs").mkdir(exist_ok=True)
    call = [sys.executable, "-c", NOTEBOOK, json.dumps(order | {"parameters": told})]
    done = subprocess.run(call, cwd=root, env=environment, capture_output=True, text=True, timeout=600)
    return SimpleNamespace(code=done.returncode, said=done.stdout + done.stderr)


def leaks(root, words, said):
    "Where rare words stand that should stand nowhere."
    pattern = re.compile("|".join(words).encode(), re.IGNORECASE)
    files = [path for path in root.rglob("*") if path.is_file() and not path.is_symlink()]
    files = [path for path in files if not set(path.relative_to(root).parts[:-1]) & set(TEXTS)]
    found = [str(path.relative_to(root)) for path in files if pattern.search(path.read_bytes())]
    assert len(files) >= 10
    return found + (["what it printed"] if pattern.search(said.encode()) else [])


def test_rare_words_are_where_texts_are_meant_to_be(tmp_path):
    words = study_at(tmp_path)
    assert len(set(words)) == 60
    held = b"".join(path.read_bytes() for path in (tmp_path / "outputs/p/data").rglob("*.arrow"))
    assert all(word.encode() in held.lower() for word in words)
    (tmp_path / "outputs/p/stray.txt").write_text(words[7].upper())
    assert leaks(tmp_path, words, "") == ["outputs/p/stray.txt"] and leaks(tmp_path, words, words[3])[-1] == "what it printed"


def misbehaving(candidate, number, request):
    "Each request in turn: nonsense that quotes all it was sent, errors that do, silence, a line that drops, no JSON."
    texts = request["messages"][-1]["content"][-600:]
    kinds = [
        texts,
        {"status": 500, "body": json.dumps({"error": {"message": texts, "code": texts[:30]}})},
        {"hang": SimpleNamespace(wait=lambda seconds: False)},
        {"body": completion(texts), "cut": 200},
        {"raw": texts.encode()},
        {"body": completion(texts, finish=texts)},
        {"status": 400, "body": texts},
    ]
    misbehaving.asked += 1
    return kinds[misbehaving.asked % len(kinds)]


def test_grpo_with_a_judge_that_fails_quotes_and_times_out(tmp_path):
    misbehaving.asked = 0
    with Server(misbehaving) as server:
        words = study_at(tmp_path, server.address)
        done = run(tmp_path, "30_rl", run="rl", reward="error_term=1 bleu2=1", judge="j", trl=GRPO, studies_per_step=4)
        assert done.code == 0, done.said
        assert server.requests and all("Reference" in request["messages"][-1]["content"] for _, _, request in server.requests)
    model = tmp_path / "outputs/p/models/rl-s1"
    assert "judgements are missing" in (tmp_path / "outputs/p/runs/30_rl.ipynb").read_text() and (model / "rollouts").is_dir()
    assert list((model / "tensorboard").rglob("events*")) and not leaks(tmp_path, words, done.said)


def test_grpo_whose_judge_refuses_ends_without_a_text(tmp_path):
    with Server(lambda candidate, number, request: {"status": 401, "body": json.dumps({"error": {"message": str(request)}})}) as server:
        words = study_at(tmp_path, server.address)
        done = run(tmp_path, "30_rl", run="rl", reward="error_term=1", judge="j", trl=GRPO, studies_per_step=4, evaluate_studies="0")
    assert done.code and "HTTP 401" in done.said and not leaks(tmp_path, words, done.said)


FILM = "the (current|prior) film of closed s5 cannot be read"
BROKEN = [  # what is wrong with a row, further parameters, what is said
    (broken_film, {"processes": 2, "trl": SFT | {"dataloader_num_workers": "1"}}, FILM),
    (strange_text, {"trl": SFT | {"dataloader_num_workers": "1"}}, "1 <[|]image_pad[|]> tokens in the text"),
]


@pytest.mark.parametrize(("change", "more", "said"), BROKEN, ids=["film", "text"])
def test_sft_with_a_broken_row_says_which_and_no_word_of_it(tmp_path, change, more, said):
    words = study_at(tmp_path, "http://127.0.0.1:9/v1", change)
    done = run(tmp_path, "20_sft", **{"run": "sft", "trl": SFT, "global_batch": 12, **more})
    assert done.code and re.search(said, done.said.strip().splitlines()[-1]), done.said[-2000:]
    assert list((tmp_path / "outputs/p/models/sft-s1.work").rglob("error.json")) and not leaks(tmp_path, words, done.said)
