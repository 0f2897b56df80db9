"Core: children that end with their parent, however early it goes, and programs that end in a line."

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from unirg.core import Settings, StudyError, digest, ends_in_a_line

ROOT = Path(__file__).parent.parent
SLOW_CHILD = """
import multiprocessing, os, pathlib, sys, time
from unirg.core import die_with_parent

def child(place):
    parent = os.getppid()
    pathlib.Path(place, "child").write_text(str(os.getpid()))
    while os.getppid() == parent:  # busy with its imports, as it were, until the parent is gone
        time.sleep(0.01)
    die_with_parent()
    time.sleep(600)

if __name__ == "__main__":
    multiprocessing.get_context("spawn").Process(target=child, args=sys.argv[1:]).start()
    time.sleep(600)
"""


def alive(process):
    try:
        return Path(f"/proc/{process}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False


def within(seconds, true):
    end = time.time() + seconds
    while not (done := true()) and time.time() < end:
        time.sleep(0.05)
    return done


def test_a_child_whose_parent_was_killed_while_it_started_ends_too(tmp_path):
    (tmp_path / "parent.py").write_text(SLOW_CHILD)
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    parent = subprocess.Popen([sys.executable, str(tmp_path / "parent.py"), str(tmp_path)], env=environment, start_new_session=True)
    try:
        assert within(60, lambda: (tmp_path / "child").is_file() and (tmp_path / "child").read_text())
        child = int((tmp_path / "child").read_text())
        parent.send_signal(signal.SIGKILL)
        parent.wait()
        assert within(20, lambda: not alive(child))
    finally:
        os.killpg(parent.pid, signal.SIGKILL) if alive(parent.pid) else None
        subprocess.run(["pkill", "-9", "-s", str(parent.pid)], check=False)


def test_a_worker_of_a_runner_that_is_gone_ends(tmp_path):
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    code = f"import time; from unirg.core import die_with_parent; die_with_parent({gone.pid}); time.sleep(60)"
    assert subprocess.run([sys.executable, "-c", code], env={**os.environ, "PYTHONPATH": str(ROOT)}, timeout=50).returncode == 143


@pytest.mark.parametrize("raised, code, said", [(StudyError("no such film"), 2, "tool: no such film"), (KeyboardInterrupt(), 130, "go on")])
def test_a_program_ends_in_a_line(raised, code, said, capsys):
    with pytest.raises(SystemExit) as ended, ends_in_a_line("tool", "the same command will go on"):
        raise raised
    assert ended.value.code == code and said in capsys.readouterr().err


def test_other_errors_keep_their_traceback():
    with pytest.raises(ValueError), ends_in_a_line("tool", ""):
        raise ValueError("a defect")


def test_a_variant_of_a_profile_has_a_folder_of_results_of_its_own(tmp_path):
    profiles = ("[paper]\noutputs = elsewhere\nsteps = 9", "[mine]\ninherits = paper", "[third]\ninherits = mine\noutputs = third")
    (tmp_path / "settings.ini").write_text("\n".join(profiles))
    paper, mine, third = (Settings(name, root=tmp_path) for name in ("paper", "mine", "third"))
    assert [profile.out.relative_to(tmp_path).as_posix() for profile in (paper, mine, third)] == ["elsewhere", "outputs/mine", "third"]
    assert mine.get("steps") == third.get("steps") == "9"


@pytest.mark.parametrize(
    ("written", "value"),
    [
        ("unseen   ; scored only", "unseen"),
        ("unseen ;scored only", "unseen"),
        ("unseen  # scored only", "unseen"),
        ("Ward #3", "Ward #3"),
        ("Ward #3 # ours", "Ward #3"),
        ("a;b", "a;b"),
        ("LATERAL: seit | PA: p.a.  ; own words", "LATERAL: seit | PA: p.a."),
        ("http://host/#place", "http://host/#place"),
        (";", ";"),
        ("one  ; first\n two  ; second", "one\ntwo"),
    ],
)
def test_a_comment_may_stand_behind_a_value(tmp_path, written, value):
    (tmp_path / "settings.ini").write_text(f"[shared]\nword = {written}\n[toy]\n")
    assert Settings("toy", root=tmp_path).get("word") == value


def test_no_value_of_the_study_is_cut_by_what_looks_like_a_comment():
    import configparser

    plain = configparser.ConfigParser(interpolation=None, default_section="none")
    plain.optionxform = str
    plain.read(ROOT / "settings.ini", encoding="utf-8")
    read = Settings("phantom", root=ROOT).sections
    assert {name: dict(plain[name]) for name in plain.sections()} == {name: read[name] for name in plain.sections()} | {
        name: dict(plain[name]) for name in plain.sections() if "inherits" in plain[name]
    }


def test_one_byte_in_the_middle_of_a_large_file_changes_its_digest_and_its_folders(tmp_path):
    large = tmp_path / "archive" / "table.csv"
    large.parent.mkdir()
    large.write_bytes(b"x" * 40_000_000)
    before = digest(large), digest(large.parent)
    with large.open("r+b") as file:
        file.seek(20_000_000)
        file.write(b"y")
    assert digest(large) != before[0] and digest(large.parent) != before[1]
