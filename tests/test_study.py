"""The runner, on a toy study of the real graph's shape: what it skips, refuses, and how it goes on after a failure or a kill."""

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import nbformat
import pytest

import unirg.study
from unirg.study import Gate, hanging

PACKAGE = Path(__file__).parents[1]

SETTINGS = """
[shared]
runs = base
seeds = 1
figures = 61_figure1
workers = 2
word = hello
[toy]
sources = clinic
[source:clinic]
layout = table
role = train
root = archive
[run:base]
notebook = 15_base
"""

# each notebook is its parameters and one cell that writes what the graph expects of it
WRITE = "import os, time; from pathlib import Path; root = Path(os.environ['UNIRG_ROOT'])\n"
NOTEBOOKS = {
    "10_prepare": (
        "out: str = ''\nsource: str = ''\nlayout: str = ''\nroot: str = ''\ninstitution: str = ''\noptions: str = ''\nword: str = ''",
        "import os; from pathlib import Path; base = Path(os.environ['UNIRG_ROOT'])\n"
        "from unirg.core import StudyError\n"
        "if (base / 'archive' / 'damaged').exists(): raise StudyError('archive/film 7 is damaged')\n"
        "(base / out / 'data' / source).mkdir(parents=True, exist_ok=True); (base / out / 'data' / source / 'n.txt').write_text(word)",
    ),
    "15_base": (
        "out: str = ''\nrun: str = ''\nseed: int = 0\nsources: list[str] = []\nseconds: float = 0.0",
        WRITE
        + "time.sleep(seconds)\n"
        + "f = root / out / 'models' / f'{run}-s{seed}'; f.mkdir(parents=True, exist_ok=True); (f / 'w').write_text('w')",
    ),
    "40_generate": (
        "out: str = ''\nsystem: str = ''\nwriter: str = ''\npriors: str = ''\nsources: list[str] = []",
        WRITE + "f = root / out / 'predictions' / system; f.mkdir(parents=True, exist_ok=True); (f / 'p').write_text('p')",
    ),
    "50_score": (
        "out: str = ''\nsystem: str = ''\npredictions: str = ''\nsources: list[str] = []",
        WRITE + "f = root / out / 'scores' / system; f.mkdir(parents=True, exist_ok=True); (f / 's').write_text('s')",
    ),
    "61_figure1": (
        "out: str = ''\nsources: list[str] = []",
        WRITE
        + "f = root / out / 'figures'; f.mkdir(parents=True, exist_ok=True)\n(f / 'fig_1a.png').write_text('x')\n"
        + "(f / '61_figure1.json').write_text('[\"fig_1a.png\"]')",
    ),
}


def toy_study(root):
    "A study of a few small notebooks."
    (root / "settings.ini").write_text(SETTINGS)
    (root / "archive").mkdir()
    (root / "archive" / "film.txt").write_text("a film")
    (root / "nbs" / "study").mkdir(parents=True)
    for name, (parameters, code) in NOTEBOOKS.items():
        write_notebook(root, name, parameters, code)
    return root


@pytest.fixture
def toy(tmp_path):
    return toy_study(tmp_path)


def write_notebook(root, name, parameters, code, tags=("parameters",)):
    cells = [nbformat.v4.new_code_cell(parameters, metadata={"tags": list(tags)}), nbformat.v4.new_code_cell(code)]
    notebook = nbformat.v4.new_notebook(
        cells=cells, metadata={"kernelspec": {"name": "python3", "display_name": "python3", "language": "python"}}
    )
    nbformat.write(notebook, root / "nbs" / "study" / f"{name}.ipynb")


def command(root, *arguments, what="run"):
    environment = {**os.environ, "UNIRG_ROOT": str(root), "PYTHONPATH": str(PACKAGE)}
    code = f"import sys; from unirg.study import {what}; {what}(sys.argv[1:])"
    return subprocess.Popen(
        [sys.executable, "-c", code, "--profile", "toy", *arguments],
        cwd=root,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def run(root, *arguments, what="run"):
    process = command(root, *arguments, what=what)
    out, err = process.communicate(timeout=600)
    return process.returncode, out, err


def ran(out):
    return {
        line.split()[1] if line.startswith("[") and not line.startswith("[ ") else line.split()[2]
        for line in out.splitlines()
        if " done in " in line
    }


def test_it_runs_everything_once_then_nothing_then_only_what_changed(toy):
    code, out, err = run(toy)
    assert code == 0, out + err
    assert ran(out) == {"prepare-clinic", "base-s1", "generate-base-s1", "score-base-s1", "figure1"}
    assert "fig_1a" in out  # the last screen says where the figures are
    record = json.loads((toy / "outputs/toy/runs/prepare-clinic.json").read_text())
    assert record["inputs"] == {"archive": record["inputs"]["archive"]} and record["parameters"]["word"] == "hello" and record["outputs"]

    code, out, _ = run(toy)
    assert code == 0 and ran(out) == set()

    (toy / "outputs/toy/data/clinic/cache-0123.arrow").write_text("what datasets leaves where somebody filters a table")
    code, out, _ = run(toy)
    assert code == 0 and ran(out) == set()

    (toy / "archive" / "film.txt").write_text("another film")
    code, out, _ = run(toy)
    assert ran(out) == {"prepare-clinic"}, "its result is the same as before, so nothing after it runs"

    code, out, _ = run(toy, "--set", "word=changed", "prepare-clinic")
    assert ran(out) == {"prepare-clinic"}
    code, out, _ = run(toy, what="status")
    assert "prepare-clinic           to run: its settings changed" in out

    (toy / "outputs/toy/scores/base-s1/s").unlink()
    code, out, _ = run(toy, "--set", "word=changed", "score-base-s1")
    assert "score-base-s1" in ran(out), "a result that is gone is made again"


def test_what_a_person_can_mend_is_one_line_and_exit_code_2(toy):
    for arguments, said in [
        (["--set", "wrod=x"], "did you mean 'word'"),
        (["prepare-clinc"], "did you mean 'prepare-clinic'"),
        (["--set", "word"], "name=value"),
    ]:
        code, _, err = run(toy, *arguments)
        assert code == 2 and said in err and len(err.strip().splitlines()) == 1
    (toy / "archive").rename(toy / "elsewhere")
    code, _, err = run(toy)
    assert code == 2 and "clinic" in err and "archive" in err and len(err.strip().splitlines()) == 1
    assert not (toy / "outputs").exists()


def test_a_notebook_without_its_parameters_cell_is_refused(toy):
    write_notebook(toy, "50_score", *NOTEBOOKS["50_score"], tags=())
    code, _, err = run(toy)
    assert code == 2 and "50_score.ipynb" in err and "parameters" in err and len(err.strip().splitlines()) == 1


def test_a_setting_nobody_takes_is_refused_wherever_it_stands(toy):
    for section, line in [("[toy]", "speling = 1"), ("[run:base]", "sed = 3"), ("[stage:bsae]", "seconds = 1")]:
        text = SETTINGS.replace(section, f"{section}\n{line}") if section in SETTINGS else f"{SETTINGS}\n{section}\n{line}\n"
        (toy / "settings.ini").write_text(text)
        code, _, err = run(toy)
        assert code == 2 and (line.split()[0] in err or section in err), err


def test_a_judge_that_cannot_be_is_refused_before_anything_runs(toy):
    parameters, code = NOTEBOOKS["50_score"]
    write_notebook(toy, "50_score", f"{parameters}\njudge: str = ''", code)
    described = "endpoint = https://example.org/v1\nmodel = m\n"
    for sections, said in [
        ("", "judge:far"),
        ("[judge:far]\nmodel = m\n", "has no 'endpoint'"),
        (f"[judge:far]\n{described}modle = m\n", "modle"),
        (f"[judge:far]\n{described}", "'clinic' is credentialed"),  # unless a source says that it is not
    ]:
        (toy / "settings.ini").write_text(f"{SETTINGS}\n[stage:score]\njudge = far\n{sections}")
        code, _, err = run(toy)
        assert code == 2 and said in err and len(err.strip().splitlines()) == 1, err
    assert not (toy / "outputs").exists()


def test_a_failed_task_names_the_culprit_stops_what_rests_on_it_and_is_run_again(toy):
    (toy / "archive" / "damaged").touch()
    code, out, err = run(toy)
    assert code == 1 and "archive/film 7 is damaged" in err and "prepare-clinic" in err
    assert len([line for line in err.strip().splitlines() if "unirg-run" in line]) == 1
    assert ran(out) == set() and not (toy / "outputs/toy/runs/prepare-clinic.json").exists()
    (toy / "archive" / "damaged").unlink()
    code, out, _ = run(toy)
    assert code == 0 and len(ran(out)) == 5


def test_a_killed_run_leaves_no_record_no_orphan_and_no_lock(toy):
    process = command(toy, "--set", "seconds=600")
    for _ in range(240):
        if (toy / "outputs/toy/runs/prepare-clinic.json").exists() and (toy / "outputs/toy/runs/.base-s1.order.json").exists():
            break
        time.sleep(0.25)
    time.sleep(3)
    code, _, err = run(toy, "--set", "seconds=600")
    assert code == 2 and "another unirg-run is at work" in err
    children = offspring(process.pid)
    assert len(children) >= 2, "papermill's process and the kernel"
    process.send_signal(signal.SIGKILL)
    process.wait()
    for _ in range(40):
        if not any(alive(child) for child in children):
            break
        time.sleep(0.25)
    assert [child for child in children if alive(child)] == []
    assert not (toy / "outputs/toy/runs/base-s1.json").exists()
    code, out, err = run(toy, "--set", "seconds=0")
    assert code == 0 and ran(out) == {"base-s1", "generate-base-s1", "score-base-s1", "figure1"} - (
        {"figure1"} if "figure1" not in out else set()
    ), out + err


def test_a_kernel_that_dies_is_one_line_and_its_task_runs_again(toy):
    parameters, code = NOTEBOOKS["15_base"]
    write_notebook(toy, "15_base", parameters, "import os, signal; os.kill(os.getpid(), signal.SIGKILL)")
    code_of_run, out, err = run(toy)
    assert code_of_run == 1 and "base-s1" in err and "its kernel died" in err
    assert len([line for line in err.strip().splitlines() if "unirg-run" in line]) == 1 and "base-s1" not in ran(out)
    write_notebook(toy, "15_base", parameters, code)
    code_of_run, out, err = run(toy)
    assert code_of_run == 0 and "base-s1" in ran(out), err


# in the kernel's own words: where it is, what it was given, what was there before it began, and that it can have children and a clean end
KERNEL = """
import atexit, json, multiprocessing, os, sys
from pathlib import Path
root = Path(os.environ['UNIRG_ROOT'])
answer = multiprocessing.get_context('fork').Queue()
child = multiprocessing.get_context('fork').Process(target=answer.put, args=(7,))
child.start()
told = {'cwd': os.getcwd(), 'threads': os.environ['OMP_NUM_THREADS'], 'word': os.environ['WORD'], 'child': answer.get()}
told['package'] = sorted(name for name in sys.modules if name.split('.')[0] == 'unirg' and name.count('.') > 1)
told['backend'] = os.environ.get('MPLBACKEND')
(root / 'told.json').write_text(json.dumps(told))
atexit.register((root / 'ended').touch)
print('a word in the notebook')
os.write(1, b'a word in the log')
"""


def test_a_forked_kernel_is_as_one_of_its_own(toy, monkeypatch):
    parameters, code = NOTEBOOKS["15_base"]
    write_notebook(toy, "15_base", parameters, KERNEL + code)
    monkeypatch.setenv("WORD", "hello")
    for _ in range(4):  # on a busy machine jupyter_client's request to end is lost now and then, and any kernel is terminated
        shutil.rmtree(toy / "outputs", ignore_errors=True)
        exit_code, _, err = run(toy)
        assert exit_code == 0, err
        if (toy / "ended").exists():
            break
    told = json.loads((toy / "told.json").read_text())
    assert told == {"cwd": str(toy), "threads": "1", "word": "hello", "child": 7, "package": [], "backend": told["backend"]}
    assert "matplotlib_inline" in told["backend"], "figures are shown in the notebook"
    assert (toy / "ended").exists(), "what is to be done at the end is done"
    runs = toy / "outputs/toy/runs"
    assert "a word in the notebook" in (runs / "base-s1.ipynb").read_text() and "a word in the log" in (runs / "base-s1.log").read_text()


def test_the_template_holds_nothing_that_a_record_names():
    from unirg.study import TEMPLATE

    code = "import sys\nfor name in sys.argv[1:]: __import__(name)\n"
    code += "print([name for name in sys.modules if name.split('.')[0] in ('unirg', 'matplotlib')])"
    names = [name for names in TEMPLATE.values() for name in names]  # matplotlib looks for its backend once, when it is imported
    found = subprocess.run([sys.executable, "-c", code, *names], capture_output=True, text=True, check=True).stdout
    assert found.strip() == "[]"


def test_a_source_is_shown_in_figures_only_where_its_settings_say_so(toy):
    from unirg.core import Settings
    from unirg.study import Plan

    parameters, code = NOTEBOOKS["61_figure1"]
    write_notebook(toy, "61_figure1", f"{parameters}\nopen_sources: list[str] = []", code)
    for said, shown in [("", []), ("credentialed = yes", []), ("credentialed = no", ["clinic"])]:
        (toy / "settings.ini").write_text(SETTINGS.replace("layout = table", f"layout = table\n{said}"))
        assert Plan(Settings("toy", root=toy)).tasks["figure1"].parameters["open_sources"] == shown


def test_a_benchmark_is_named_to_the_figures_that_show_published_numbers(toy):
    from unirg.core import Settings
    from unirg.study import Plan

    parameters, code = NOTEBOOKS["61_figure1"]
    write_notebook(toy, "61_figure1", f"{parameters}\nbenchmarks: list[str] = ['of the notebook']", code)
    published = toy / "nbs/study/data/published.csv"
    published.parent.mkdir()
    published.write_text("benchmark,board,system,measure,value,source\n")
    assert Plan(Settings("toy", root=toy)).tasks["figure1"].parameters["benchmarks"] == []
    (toy / "settings.ini").write_text(SETTINGS.replace("role = train", "role = train\nbenchmark = iu_xray"))
    plan = Plan(Settings("toy", root=toy))
    assert plan.tasks["figure1"].parameters["benchmarks"] == ["clinic=iu_xray"]
    before = rests_on(plan, "figure1")
    published.write_text("benchmark,board,system,measure,value,source\niu_xray,findings,theirs,bleu2,0.2,a paper\n")
    assert rests_on(plan, "figure1") != before, "another published number is another figure"


def test_another_systems_predictions_are_scored_and_drawn_like_our_own(toy):
    parameters, code = NOTEBOOKS["61_figure1"]
    write_notebook(toy, "61_figure1", f"{parameters}\nruns: list[str] = []\nsystems: list[str] = []", code)
    code, _, err = run(toy)
    assert code == 0, err
    theirs = toy / "outputs/toy/systems/their_model"
    theirs.mkdir(parents=True)
    (theirs / "clinic.json").write_text("{}")
    code, out, err = run(toy)
    assert code == 0 and ran(out) == {"score-their_model", "figure1"}, out + err
    record = json.loads((toy / "outputs/toy/runs/score-their_model.json").read_text())
    said = {name: record["parameters"][name] for name in ("system", "predictions", "sources")}
    assert said == {"system": "their_model", "predictions": "systems/their_model", "sources": ["clinic"]}
    record = json.loads((toy / "outputs/toy/runs/figure1.json").read_text())
    assert record["parameters"]["systems"] == ["their_model"] and "outputs/toy/scores/their_model" in record["inputs"]

    (theirs / "clinic.json").write_text('{"s": {"model_prediction": "changed"}}')
    code, out, _ = run(toy)
    assert code == 0 and "score-their_model" in ran(out), "its predictions changed"


def test_another_system_that_cannot_be_placed_is_refused_by_name(toy):
    systems = toy / "outputs/toy/systems"
    wrong = [("base-s1", "clinic", "name of a run"), ("theirs", "clinci", "no source 'clinci'"), ("theirs", "", "no predictions")]
    for folder, file, said in wrong:
        (systems / folder).mkdir(parents=True)
        if file:
            (systems / folder / f"{file}.json").write_text("{}")
        code, _, err = run(toy)
        assert code == 2 and said in err and folder in err and len(err.strip().splitlines()) == 1, err
        for path in (systems / folder).glob("*"):
            path.unlink()
        (systems / folder).rmdir()


def offspring(pid):
    found = []
    for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split() if Path(f"/proc/{pid}").exists() else []:
        found += [int(child), *offspring(int(child))]
    for task in Path(f"/proc/{pid}/task").glob("*/children") if Path(f"/proc/{pid}").exists() else []:
        for child in task.read_text().split():
            if int(child) not in found:
                found += [int(child), *offspring(int(child))]
    return found


def alive(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] not in ("Z", "X")
    except OSError:
        return False


def test_what_most_still_hangs_on_goes_first():
    gate, entered = Gate(1, {"short": 1.0, "long": 5.0, "middle": 3.0, "now": 0.0}, pause=0.0), []

    def pass_through(name):
        with gate(name):
            entered.append(name)

    with gate("now"):  # the one place is taken while the others come, the least first
        threads = [threading.Thread(target=pass_through, args=[name]) for name in ("short", "middle", "long")]
        for number, thread in enumerate(threads):
            thread.start()
            while len(gate.waiting) <= number:
                time.sleep(0.01)
        assert entered == []
    for thread in threads:
        thread.join()
    assert entered == ["long", "middle", "short"]


def test_hanging_is_the_longest_way_to_the_end():
    plan = SimpleNamespace(tasks={name: SimpleNamespace(name=name, after=after) for name, after in
                                  {"a": [], "b": ["a"], "c": ["a"], "d": ["b", "c"]}.items()})  # fmt: skip
    assert hanging(plan, {"a": 1, "b": 10, "c": 2, "d": 5}) == {"a": 16, "b": 15, "c": 7, "d": 5}


@pytest.fixture(scope="module")
def once(tmp_path_factory):
    "A toy study, run once for all who look at what it left."
    root = toy_study(tmp_path_factory.mktemp("finished"))
    process = command(root)
    out, err = process.communicate(timeout=600)
    assert process.returncode == 0, out + err
    return root


@pytest.fixture
def finished(once, tmp_path, monkeypatch, capsys):
    "A copy of it, and a command in this process: exit code and what was printed."
    root = tmp_path / "study"
    shutil.copytree(once, root)
    monkeypatch.setenv("UNIRG_ROOT", str(root))

    def say(what, *arguments):
        code = 0
        try:
            getattr(unirg.study, what)(["--profile", "toy", *arguments])
        except SystemExit as end:
            code = end.code
        said = capsys.readouterr()
        return code, said.out, said.err

    return root, say


def record_of(root, task):
    return json.loads((root / f"outputs/toy/runs/{task}.json").read_text())


def rewrite_in_secret(path, text):
    "Change a file so that neither its size nor its time says so."
    before = path.stat()
    assert len(text) == before.st_size
    path.write_text(text)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def test_a_panel_that_is_gone_or_edited_is_made_again(finished):
    root, say = finished
    panel = root / "outputs/toy/figures/fig_1a.png"
    panel.write_text("edited")
    assert "to run: outputs/toy/figures/fig_1a.png changed" in say("status")[1]
    panel.unlink()
    assert "to run: outputs/toy/figures/fig_1a.png is gone" in say("status")[1]


def test_status_names_what_changed(finished):
    root, say = finished
    assert "its settings changed: word was 'hello', is 'other'" in say("status", "--set", "word=other")[1]
    (root / "archive" / "film.txt").write_text("another film")
    assert "its inputs changed: archive" in say("status")[1]


def test_an_accepted_task_is_current_and_its_record_says_so(finished):
    root, say = finished
    parameters, code = NOTEBOOKS["15_base"]
    write_notebook(root, "15_base", parameters, code + "  # a remark")
    weights = root / "outputs/toy/models/base-s1/w"
    before, made = record_of(root, "base-s1"), weights.stat().st_mtime_ns
    assert "base-s1                  to run: its notebook changed" in say("status")[1]

    code, out, _ = say("run", "--accept", "base-s1")
    assert code == 0 and "accepted although its notebook changed" in out
    after = record_of(root, "base-s1")
    assert after["code"] != before["code"] and after["accepted"][0]["before"]["code"] == before["code"]
    assert {key: after[key] for key in ("outputs", "seconds", "started")} == {key: before[key] for key in ("outputs", "seconds", "started")}
    assert weights.stat().st_mtime_ns == made
    _, out, _ = say("status")
    assert "to run" not in out and "(accepted although its notebook changed)" in out

    code, out, _ = say("run", "--accept", "base-s1")
    assert code == 0 and "was current already" in out and record_of(root, "base-s1") == after
    code, out, _ = say("run")
    assert code == 0 and "0 tasks run" in out

    code, out, _ = say("run", "--accept", "--set", "word=other", "prepare-clinic")  # settings may be accepted as well
    note = record_of(root, "prepare-clinic")["accepted"][0]
    assert code == 0 and note["before"]["parameters"]["word"] == "hello" and "word was 'hello', is 'other'" in note["said"][0]


def test_what_is_not_a_whole_result_cannot_be_accepted(finished):
    root, say = finished
    write_notebook(root, "15_base", *NOTEBOOKS["15_base"][:1], NOTEBOOKS["15_base"][1] + "  # a remark")
    kept = record_of(root, "base-s1")
    (root / "outputs/toy/scores/base-s1/s").write_text("edited")
    code, _, err = say("run", "--accept", "base-s1", "score-base-s1")
    assert code == 2 and "outputs/toy/scores/base-s1 is not what it made" in err and len(err.strip().splitlines()) == 1
    assert record_of(root, "base-s1") == kept, "one that cannot be accepted stops all"
    (root / "outputs/toy/runs/base-s1.json").unlink()
    code, _, err = say("run", "--accept", "base-s1")
    assert code == 2 and "base-s1 has not finished" in err
    code, _, err = say("run", "--accept")
    assert code == 2 and "names of the tasks" in err


def test_verify_says_which_panel_rests_on_what(finished):
    root, say = finished
    code, out, _ = say("status", "--verify")
    assert code == 0 and "5 tasks and 1 panels: all as recorded" in out and "DIFFERS" not in out
    panel = out[out.index("fig_1a (png): as recorded") :]
    assert "tasks    figure1 prepare-clinic" in panel
    assert f"archive {record_of(root, 'prepare-clinic')['inputs']['archive']}" in panel
    assert "61_figure1.ipynb" in panel and "10_prepare.ipynb" in panel and "unirg.core" in panel and "15_base" not in panel


def test_verify_finds_what_times_and_sizes_hide(finished):
    root, say = finished
    assert "to run" not in say("status")[1]
    rewrite_in_secret(root / "archive" / "film.txt", "A FILM")
    rewrite_in_secret(root / "outputs/toy/scores/base-s1/s", "S")
    assert "to run" not in say("status")[1]
    code, out, _ = say("status", "--verify")
    assert code == 1
    assert "prepare-clinic           DIFFERS: its inputs changed: archive" in out
    assert "fig_1a (png): DIFFERS: prepare-clinic: its inputs changed: archive" in out
    assert "score-base-s1            DIFFERS: outputs/toy/scores/base-s1 changed" in out and "score-base-s1: outputs" not in out
    assert "prepare-clinic           to run: its inputs changed" in say("status")[1], "the next run mends it"


def test_verify_finds_a_panel_that_no_task_made(finished):
    root, say = finished
    (root / "outputs/toy/figures/fig_9z.png").write_text("from elsewhere")
    code, out, _ = say("status", "--verify")
    assert code == 1 and "fig_9z (png): DIFFERS: fig_9z.png is in no task's record" in out and "fig_1a (png): as recorded" in out


def test_the_report_is_made_last_and_again_whenever_a_record_changed():
    from unirg.core import Settings
    from unirg.study import Plan, record_path

    plan = Plan(Settings("smoke", root=PACKAGE))
    assert list(plan.tasks)[-1] == "report" and set(plan.tasks["report"].after) == set(plan.tasks) - {"report"}
    assert {record_path(plan, task) for name, task in plan.tasks.items() if name != "report"} <= set(plan.tasks["report"].needs)


# ---------------------------------------------------------------- what settings.ini plans


def rests_on(plan, task):
    "What a task's record would say of code, parameters and inputs."
    from unirg.study import Digests, identity

    return identity(plan.tasks[task], plan, Digests(plan.root / "digests.json", anew=True))


@pytest.fixture
def planned(tmp_path):
    "The plan of the real study, its settings with something more at their end."
    from unirg.core import Settings
    from unirg.study import Plan

    (tmp_path / "nbs").symlink_to(PACKAGE / "nbs")

    def plan(profile, more="", **overrides):
        (tmp_path / "settings.ini").write_text(f"{(PACKAGE / 'settings.ini').read_text()}\n{more}")
        return Plan(Settings(profile, overrides, root=tmp_path))

    return plan


def test_figures_read_the_planned_scores_alone_and_rest_on_each_of_them(planned):
    (plan := planned("phantom")).out.mkdir(parents=True)
    for system in ("sft-s3", "rl_only-s2"):  # of an earlier plan
        (plan.out / "scores" / system).mkdir(parents=True)
    theirs = plan.out / "systems" / "their_model" / "rexrank.json"
    theirs.parent.mkdir(parents=True)
    theirs.write_text("{}")
    plan = planned("phantom", consensus="sft", beyond="rl2")
    readers = [task for task in plan.tasks.values() if "scored" in task.parameters]
    assert {"figure1", "figure2", "figure3", "figure4", "table_s1", "answer", "measures", "hacking"} == {task.name for task in readers}
    for task in readers:
        assert {plan.out / "scores" / system for system in task.parameters["scored"]} <= set(task.needs)
        assert {"sft-s1", "sft-s2", "rl_only-s1"} <= set(task.parameters["scored"]) <= {name.removeprefix("score-") for name in plan.tasks}
    assert {"their_model", "sft_consensus-s2"} <= set(plan.tasks["figure4"].parameters["scored"])


def test_headroom_takes_the_longest_line_of_reinforcement_from_the_run_that_is_sampled(planned):
    told = planned("phantom").tasks["headroom"].parameters
    assert (told["before"], told["runs"], told["consensus"], told["reward"]) == ("sft", ["rl1", "rl2"], "sft_consensus", "step2")
    assert told["seeds"] == [1, 2] and "rexrank" in told["sources"] and "rexrank" not in told["training"]
    tasks = planned("smoke", runs="base sft rl_only rl1 rl1_prior sft_prior", beyond="none").tasks
    assert tasks["headroom"].parameters["runs"] == ["rl1"] and tasks["headroom"].parameters["reward"] == "step1"
    assert {"consensus-sft-s1", "score-sft-s1", "score-rl1-s1"} <= set(tasks["headroom"].after)
    for without in ({"consensus": "none"}, {"runs": "base sft rl_only", "beyond": "none"}):
        assert "headroom" not in planned("smoke", **without).tasks


def test_a_policy_for_the_base_run_writes_no_other_runs_reports(planned):
    plan = planned("smoke", "[smoke:run:sft_prior]\ntrl.max_steps = 2", policy="/data/a-policy", runs="base sft rl1 sft_prior")
    assert plan.tasks["base-s1"].parameters["policy"] == "/data/a-policy"
    writers = {task.parameters["system"]: task.parameters["writer"] for task in plan.tasks.values() if task.notebook == "40_generate"}
    own = {f"{run}-s1": f"{run}-s1" for run in ("base", "sft", "rl1", "sft_prior")}
    assert writers == own | {"sft_prior_other-s1": "sft_prior-s1", "sft_prior_none-s1": "sft_prior-s1"}
    assert not [task.name for task in plan.tasks.values() if "/data/a-policy" in task.parameters.values() and task.name != "base-s1"]


def test_a_run_with_fewer_seeds_is_measured_on_those_it_has(planned):
    plan = planned("phantom", "[phantom:run:rl2]\nseeds = 2", runs="base sft rl_only rl1 rl2", beyond="rl2", sight_run="rl_only")
    assert plan.tasks["sight"].parameters["seeds"] == [1]
    for name in ("follows", "operating_point"):
        assert plan.tasks[name].parameters["seeds"] == [2], "rl2 is there with that seed alone"


@pytest.mark.parametrize(
    "more, runs, said",
    [
        ("[run:mine]\nnotebook = 20_sft", "base sft mine", ["[run:mine] has no 'start'", "20_sft"]),
        ("[smoke:run:sft]\nstart = rl1", "base sft rl1 rl2", ["sft-s1", "rl1-s1", "'start'"]),
        ("[smoke:run:rl1]\nstart = rl2", "base sft rl1 rl2", ["rl1-s1", "rl2-s1", "'start'"]),
        ("[smoke:run:sft]\nstart = sft", "base sft rl2 rl1", ["sft-s1 needs sft-s1"]),
    ],
)
def test_a_run_that_starts_nowhere_or_in_a_circle_is_refused_in_a_line(planned, more, runs, said):
    from unirg.core import StudyError

    with pytest.raises(StudyError) as refused:
        planned("smoke", more, runs=runs, beyond="rl2")
    assert all(words in str(refused.value) for words in said) and "\n" not in str(refused.value)


JUDGE = """
[judge:near]
endpoint = http://127.0.0.1:9/v1
model = {model}
rubric = evaluator.py
timeout = {timeout}
[smoke:run:rl2]
judge = near
"""


def test_another_judge_makes_scores_and_rewards_anew(planned):
    def plan(model="one", timeout=60, wording="You count errors."):
        texts = {"SYSTEM_INSTRUCTIONS": wording, "USER_INSTRUCTIONS": "{eval_reference} {eval_candidate}", "EXAMPLES_FORMATTED": ""}
        (root / "evaluator.py").write_text("\n".join(f"{name} = {text!r}" for name, text in texts.items()))
        return planned("smoke", JUDGE.format(model=model, timeout=timeout) + "[stage:score]\njudge = near")

    root = planned("smoke").root
    tasks = ("score-sft-s1", "rl2-s1")
    before = [rests_on(plan(), task)["inputs"] for task in tasks]
    assert [rests_on(plan(timeout=30), task)["inputs"] for task in tasks] == before, "how long it is waited for is no part of what it says"
    for changed in ({"model": "two"}, {"wording": "Count errors."}):
        now = [rests_on(plan(**changed), task)["inputs"] for task in tasks]
        assert all([name for name in after if after[name] != was[name]] == ["[judge:near]"] for was, after in zip(before, now))
    assert "[judge:near]" not in rests_on(plan(), "rl1-s1")["inputs"], "its reward counts by rule"


def test_a_half_done_run_goes_on_with_the_same_judge_alone(planned, monkeypatch):
    import unirg.training.launch
    from unirg.training.options import Job
    from unirg.training.trainers import start_work

    def half_way(job, **options):
        start_work(job := Job(**job | {"tables": []}))
        mark = job.work / "checkpoints" / "checkpoint-1" / "whole"
        went_on.append(mark.exists())
        mark.parent.mkdir(parents=True, exist_ok=True)
        mark.touch()
        raise KeyboardInterrupt

    went_on, cells = [], [cell["source"] for cell in nbformat.read(PACKAGE / "nbs/study/30_rl.ipynb", 4).cells if cell.cell_type == "code"]
    monkeypatch.setattr(unirg.training.launch, "launch", half_way)
    for model in ("one", "one", "two"):
        plan = planned("smoke", JUDGE.format(model=model, timeout=60).replace("rubric = evaluator.py\n", ""))
        monkeypatch.setenv("UNIRG_ROOT", str(plan.root))
        with pytest.raises(KeyboardInterrupt):
            exec("\n".join([cells[0], *(f"{name} = {value!r}" for name, value in plan.tasks["rl2-s1"].parameters.items()), *cells[1:]]), {})
    assert went_on == [False, True, False]
