"A policy of the hub stays the commit that it was when the study began, without a hub to ask: from a cache like the hub's own."

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from training_toys import toy_texts

from unirg.core import StudyError
from unirg.training.policy import build_tiny_policy, resolve_checkpoint, link_checkpoint, snapshot_of

FIRST, SECOND = "1" * 40, "2" * 40


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    "Two commits of one policy, the first the newest."
    place = tmp_path_factory.mktemp("hub")
    tiny, home = build_tiny_policy(toy_texts(), place / "tiny"), place / "cache/models--somebody--policy"
    for commit in (FIRST, SECOND):
        shutil.copytree(tiny, home / "snapshots" / commit)
    (home / "refs").mkdir()
    (home / "refs/main").write_text(FIRST)
    return place / "cache"


def offline(cache, code):
    "What some code prints where the hub cannot be reached."
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "HF_HUB_CACHE": str(cache), "PYTHONPATH": str(Path(__file__).parents[1])}
    head = "from unirg.training.policy import *\nfrom unirg.core import StudyError\n"
    done = subprocess.run([sys.executable, "-c", head + code], capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip().splitlines()


@pytest.mark.parametrize(
    "asked, commit", [("somebody/policy", FIRST), (f"somebody/policy@{SECOND}", SECOND), ("somebody/policy@main", FIRST)]
)
def test_a_policy_is_noted_with_its_commit(cache, tmp_path, asked, commit):
    offline(cache, f"link_checkpoint({asked!r}, {str(tmp_path / 'base')!r}, prompt_template='paper')")
    noted = json.loads((tmp_path / "base/refers_to.json").read_text())
    assert noted == {"policy": "somebody/policy", "revision": commit, "asked": {"prompt_template": "paper"}}


def test_it_stays_that_one_when_the_hub_has_another(cache, tmp_path):
    base = str(tmp_path / "base")
    offline(cache, f"link_checkpoint('somebody/policy', {base!r})")
    newest = cache / "models--somebody--policy/refs/main"
    newest.write_text(SECOND)
    try:
        code = f"for where in ({base!r}, 'somebody/policy'): print(resolve_checkpoint(where))\n"
        said = offline(cache, code + f"print(load_processor({base!r}).tokenizer.padding_side)")
    finally:
        newest.write_text(FIRST)
    assert Path(said[0]).name == FIRST and Path(said[1]).name == SECOND and said[2] == "left"


@pytest.mark.parametrize("asked", ["somebody/other", f"somebody/policy@{'3' * 40}", "somebody/policy@v9"])
def test_what_is_not_there_is_a_line(cache, asked):
    code = f"try: snapshot_of({asked!r})\nexcept StudyError as error: print(error)"
    said = offline(cache, code)
    assert len(said) == 1 and said[0].startswith(f"{asked} cannot be had from the hub")


@pytest.mark.parametrize("asked", ["policy", "a/b/c", "/nowhere/at/all", "./mine", ""])
def test_what_is_no_hub_id_asks_no_hub(asked):
    with pytest.raises(StudyError, match="owner/name"):
        snapshot_of(asked)


def test_a_folder_is_referred_to_by_its_place(cache, tmp_path, monkeypatch):
    tiny = cache.parent / "tiny"
    monkeypatch.setenv("HOME", str(cache.parent))
    for asked in (tiny, "~/tiny"):
        assert resolve_checkpoint(link_checkpoint(asked, tmp_path / "base")) == str(tiny.resolve())
