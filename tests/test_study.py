"""The engine, on a toy study by the real Snakefile: what it skips, refuses, and how it goes on after a failure or a kill."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import nbformat
import pytest

import unirg.study

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
        "out: str = ''\nsource: str = ''\nlayout: str = ''\nroot: str = ''\ninstitution: str = ''\n"
        "options: str = ''\nword: str = ''\nstep: str = ''",
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
        "out: str = ''\nrun: str = ''\nseeds: list[int] = []\npriors: list[str] = []\nsources: list[str] = []\nshards: int = 1\n"
        "controls: list[str] = []",
        WRITE
        + "for f in [root / out / kind / f'{run}-s{seed}' for kind in ('predictions', 'scores') for seed in seeds]:\n"
        + "    f.mkdir(parents=True, exist_ok=True); (f / f.parent.name[0]).write_text('p')",
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
    shutil.copy(PACKAGE / "nbs" / "study" / "Snakefile", root / "nbs" / "study")
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
    code = "import signal, sys; signal.signal(signal.SIGINT, signal.default_int_handler)"  # which a shell's background jobs have not
    code += f"; from unirg.study import {what}; {what}(sys.argv[1:])"
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
    assert ran(out) == {"prepare-clinic", "base-s1", "generate-base", "figure1"}
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
    code, out, _ = run(toy, "--set", "word=changed", "generate-base")
    assert "generate-base" in ran(out), "a result that is gone is made again"


def test_files_that_are_touched_or_whose_marks_of_being_done_are_lost_repeat_nothing(finished):
    root, _ = finished
    for path in [*(root / "archive").iterdir(), *(root / "outputs/toy/models").rglob("*"), *(root / "nbs/study").iterdir()]:
        path.touch()
    code, out, err = run(root)
    assert code == 0 and "0 tasks run, 4 already current" in out, out + err
    shutil.rmtree(root / "outputs/toy/runs/.done")
    shutil.rmtree(root / "outputs/toy/.snakemake")
    code, out, err = run(root)
    assert code == 0 and "0 tasks run, 4 already current" in out, out + err


def test_what_a_person_can_mend_is_one_line_and_exit_code_2(toy):
    for arguments, said in [(["--set", "wrod=x"], "did you mean 'word'"), (["--set", "word"], "name=value")]:
        code, _, err = run(toy, *arguments)
        assert code == 2 and said in err and len(err.strip().splitlines()) == 1
    (toy / "archive").rename(toy / "elsewhere")
    code, _, err = run(toy)
    assert code == 2 and "clinic" in err and "archive" in err and len(err.strip().splitlines()) == 1
    assert not (toy / "outputs").exists()
    (toy / "elsewhere").rename(toy / "archive")
    code, _, err = run(toy, "prepare-clinc")
    assert code == 2 and "did you mean 'prepare-clinic'" in err and len(err.strip().splitlines()) == 1


def test_everything_that_is_wrong_is_said_at_once(toy):
    text = SETTINGS.replace("[toy]", "[toy]\nspeling = 1").replace("role = train\n", "").replace("seeds = 1", "seeds = 1\nwodr = x")
    (toy / "settings.ini").write_text(text)
    code, _, err = run(toy)
    assert code == 2 and all(said in err for said in ("3 things are wrong", "speling", "wodr", "no 'role'")), err
    (toy / "settings.ini").write_text(SETTINGS.replace("[run:base]", "[run:base]\nsed = 3\nseconds = long"))
    code, _, err = run(toy)
    assert code == 2 and "sed" in err and "'long'" in err, err


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


def test_a_failed_task_names_the_culprit_stops_what_rests_on_it_and_is_run_again(toy):
    (toy / "archive" / "damaged").touch()
    code, out, err = run(toy)
    assert code == 1 and "archive/film 7 is damaged" in err and "prepare-clinic" in err
    assert len([line for line in err.strip().splitlines() if "unirg-run" in line]) == 1
    assert ran(out) == set() and not (toy / "outputs/toy/runs/prepare-clinic.json").exists()
    (toy / "archive" / "damaged").unlink()
    code, out, _ = run(toy)
    assert code == 0 and len(ran(out)) == 4


def wait_for(what, seconds=60):
    for _ in range(4 * seconds):
        if found := what():
            return found
        time.sleep(0.25)
    raise AssertionError(f"{what} did not come to pass")


def all_gone(pids):
    return not [pid for pid in pids if alive(pid)]


def at_work(root, task="base-s1"):
    "Wait until a task's kernel is at work."
    wait_for((root / f"outputs/toy/runs/.state/{task}.json").exists)
    time.sleep(4)


def test_a_killed_run_leaves_no_record_no_orphan_and_no_lock(toy):
    process = command(toy, "--set", "seconds=600")
    at_work(toy)
    code, _, err = run(toy, "--set", "seconds=600")
    assert code == 2 and "another unirg-run is at work" in err and len(err.strip().splitlines()) == 1
    children = offspring(process.pid)
    assert len(children) >= 3, "Snakemake, the task and its kernel"
    process.send_signal(signal.SIGKILL)
    process.wait()
    wait_for(lambda: all_gone(children), 10)
    assert not (toy / "outputs/toy/runs/base-s1.json").exists()
    code, out, err = run(toy, "--set", "seconds=0")
    assert code == 0 and ran(out) == {"base-s1", "generate-base"} | ({"figure1"} & ran(out)), out + err


@pytest.mark.parametrize("victim", ["snakemake", "task", "kernel"])
def test_whatever_is_killed_the_run_ends_in_a_line_and_goes_on(toy, victim):
    process = command(toy, "--set", "seconds=600")
    at_work(toy)
    children = offspring(process.pid)
    lines = {pid: Path(f"/proc/{pid}/cmdline").read_text().replace("\0", " ") for pid in children}
    words = {"snakemake": "snakemake.cli", "task": "-m unirg.study", "kernel": "ipykernel_launcher"}
    own = {pid: lines[pid] + Path(f"/proc/{pid}/environ").read_text() for pid in children}  # not those of a figure that is drawn meanwhile
    found = [pid for pid in children if words[victim] in lines[pid] and (victim == "snakemake" or "base-s1" in own[pid])]
    os.kill(next(pid for pid in found if "bash" not in lines[pid].split()[0]), signal.SIGKILL)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 1 and len([line for line in err.splitlines() if line.startswith("unirg-run: ")]) == 1, err
    assert ("snakemake" if victim == "snakemake" else "base-s1") in err, err
    wait_for(lambda: all_gone(children), 10)
    code, out, err = run(toy, "--set", "seconds=0")
    assert code == 0 and ran(out) == {"base-s1", "generate-base"} | ({"figure1"} & ran(out)), out + err


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_run_that_is_stopped_takes_everything_with_it(toy, number):
    process = command(toy, "--set", "seconds=600")
    at_work(toy)
    children = offspring(process.pid)
    process.send_signal(number)
    _, err = process.communicate(timeout=90)
    assert process.returncode in (130, 143) and "Traceback" not in err, err
    wait_for(lambda: all_gone(children), 10)


def test_a_task_elsewhere_ends_with_its_runner(toy):
    "As on a cluster: its parent lives on, but another runner has begun, or none has been heard of for long."
    from unirg.core import Settings
    from unirg.study import Study

    study = Study(Settings("toy", {"seconds": "600"}, root=toy))
    study.plan("base-s1")
    (toy / "outputs/toy/runs/prepare-clinic.json").write_text('{"outputs": {}, "marks": {}}')
    (toy / "outputs/toy/runs/.runner").write_text("mine 1")
    environment = {**os.environ, "UNIRG_ROOT": str(toy), "PYTHONPATH": str(PACKAGE), "UNIRG_RUNNER": "mine"}
    arguments = [sys.executable, "-m", "unirg.study", "runs/.done/base-s1", "runs/.orders/base-s1.json"]
    process = subprocess.Popen(arguments, cwd=toy / "outputs/toy", env=environment)
    at_work(toy)
    children = offspring(process.pid)
    assert process.poll() is None and children
    (toy / "outputs/toy/runs/.runner").write_text("another 1")
    assert process.wait(10) == 143
    wait_for(lambda: all_gone(children), 10)


def test_a_notebook_that_ends_early_or_leaves_something_out_has_failed(toy):
    parameters, _ = NOTEBOOKS["15_base"]
    for ending, said in [("import sys; sys.exit(0)", "it ended before its last cell"), ("pass", "did not make")]:
        write_notebook(toy, "15_base", parameters, ending)
        notebook = nbformat.read(toy / "nbs/study/15_base.ipynb", 4)
        notebook.cells.append(nbformat.v4.new_code_cell("1 + 1"))
        nbformat.write(notebook, toy / "nbs/study/15_base.ipynb")
        code_of_run, _, err = run(toy, "base-s1")
        assert code_of_run == 1 and said in err and not (toy / "outputs/toy/runs/base-s1.json").exists(), err


def test_a_kernel_that_dies_is_one_line_and_its_task_runs_again(toy):
    parameters, code = NOTEBOOKS["15_base"]
    write_notebook(toy, "15_base", parameters, "import os, signal; os.kill(os.getpid(), signal.SIGKILL)")
    code_of_run, out, err = run(toy)
    assert code_of_run == 1 and "base-s1" in err and "its kernel died" in err
    assert len([line for line in err.strip().splitlines() if "unirg-run" in line]) == 1 and "base-s1" not in ran(out)
    write_notebook(toy, "15_base", parameters, code)
    code_of_run, out, err = run(toy)
    assert code_of_run == 0 and "base-s1" in ran(out), err


def test_a_kernel_that_dies_before_it_begins_is_started_again(toy, tmp_path_factory, monkeypatch):
    "As one does that lost its port to another that started at the same moment."
    from unirg.study import execute

    place, result = tmp_path_factory.mktemp("site"), toy / "result.ipynb"
    dies = f"import os, sys\nif 'ipykernel_launcher' in sys.orig_argv and not os.path.exists(mark := {str(place / 'died')!r}):\n"
    (place / "sitecustomize.py").write_text(dies + "    open(mark, 'w').close(); os._exit(1)\n")
    monkeypatch.setenv("PYTHONPATH", f"{place}:{PACKAGE}")
    write_notebook(toy, "99_toy", "out: str = ''", "print('it ran')")
    execute(toy / "nbs/study/99_toy.ipynb", result, {}, toy)
    assert (place / "died").exists() and "it ran" in result.read_text()


# in the kernel's own words: where it is, what it was given
KERNEL = """
import json, os
from pathlib import Path
root = Path(os.environ['UNIRG_ROOT'])
told = {'cwd': os.getcwd(), 'threads': os.environ['OMP_NUM_THREADS'], 'word': os.environ['WORD'], 'task': os.environ['UNIRG_TASK']}
(root / 'told.json').write_text(json.dumps(told))
print('a word in the notebook')
os.write(1, b'a word in the log')
"""


def test_a_kernel_knows_where_it_is_and_its_words_are_kept(toy, monkeypatch):
    parameters, code = NOTEBOOKS["15_base"]
    write_notebook(toy, "15_base", parameters, KERNEL + code)
    monkeypatch.setenv("WORD", "hello")
    exit_code, _, err = run(toy, "base-s1")
    assert exit_code == 0, err
    assert json.loads((toy / "told.json").read_text()) == {"cwd": str(toy), "threads": "1", "word": "hello", "task": "base-s1"}
    runs = toy / "outputs/toy/runs"
    assert "a word in the notebook" in (runs / "base-s1.ipynb").read_text() and "a word in the log" in (runs / "base-s1.log").read_text()


def planned_tasks(root, profile="toy", **overrides):
    "The tasks of a study, planned."
    from planned import plan_of

    from unirg.core import Settings

    return plan_of(Settings(profile, overrides, root=root)).tasks


def test_a_source_is_shown_in_figures_only_where_its_settings_say_so(toy):
    parameters, code = NOTEBOOKS["61_figure1"]
    write_notebook(toy, "61_figure1", f"{parameters}\nopen_sources: list[str] = []", code)
    for said, shown in [("", []), ("credentialed = yes", []), ("credentialed = no", ["clinic"])]:
        (toy / "settings.ini").write_text(SETTINGS.replace("layout = table", f"layout = table\n{said}"))
        assert planned_tasks(toy)["figure1"].parameters["open_sources"] == shown


def test_a_benchmark_is_named_to_the_figures_that_show_published_numbers(toy):
    parameters, code = NOTEBOOKS["61_figure1"]
    write_notebook(toy, "61_figure1", f"{parameters}\nbenchmarks: list[str] = ['of the notebook']", code)
    published = toy / "nbs/study/data/published.csv"
    published.parent.mkdir()
    published.write_text("benchmark,board,system,measure,value,source\n")
    assert planned_tasks(toy)["figure1"].parameters["benchmarks"] == []
    (toy / "settings.ini").write_text(SETTINGS.replace("role = train", "role = train\nbenchmark = iu_xray"))
    before = planned_tasks(toy)["figure1"]
    assert before.parameters["benchmarks"] == ["clinic=iu_xray"]
    published.write_text("benchmark,board,system,measure,value,source\niu_xray,findings,theirs,bleu2,0.2,a paper\n")
    assert planned_tasks(toy)["figure1"].reads != before.reads, "another published number is another figure"


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
    assert record["parameters"]["systems"] == ["their_model"]
    assert {"outputs/toy/scores/their_model", "outputs/toy/systems/their_model"} <= set(record["inputs"])

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


def test_a_task_whose_record_is_gone_is_run_again_though_the_report_is_made(toy):
    pages = ("RESULTS.md", "report.html", "records.csv")
    code = WRITE + f"for name in {pages}: (root / out / name).write_text('r')"
    write_notebook(toy, "90_report", "out: str = ''\nunseen: list[str] = []\nsimulated: list[str] = []\ninstitutions: str = ''", code)
    (toy / "nbs/study/data").mkdir()
    for name in ("captions.toml", "results.md.jinja", "results.css"):
        (toy / "nbs/study/data" / name).write_text("")
    code, out, err = run(toy)
    assert code == 0 and "report" in ran(out), out + err
    for gone in ("runs/figure1.json", "runs/.done/figure1", "figures/fig_1a.png"):
        (toy / "outputs/toy" / gone).unlink()
    code, out, err = run(toy)
    assert "figure1" in ran(out) and "base-s1" not in ran(out), out + err
    assert (toy / "outputs/toy/figures/fig_1a.png").exists()


def test_status_names_what_changed(finished):
    root, say = finished
    assert "its settings changed: word was 'hello', is 'other'" in say("status", "--set", "word=other")[1]
    (root / "archive" / "film.txt").write_text("another film")
    assert "its inputs changed: archive" in say("status")[1]


def test_a_result_that_is_taken_as_it_is_repeats_nothing(finished):
    root, say = finished
    parameters, code = NOTEBOOKS["15_base"]
    write_notebook(root, "15_base", parameters, code + "  # a remark")
    before = record_of(root, "base-s1")
    assert "base-s1                  to run: its notebook changed" in say("status")[1]
    assert say("run", "base-s1", "--", "--touch")[0] == 0
    assert "(taken as it is, although its notebook changed)" in say("status")[1]
    code, out, _ = say("run")
    assert code == 0 and "0 tasks run" in out and record_of(root, "base-s1") == before


def test_verify_says_which_panel_rests_on_what(finished):
    root, say = finished
    code, out, _ = say("status", "--verify")
    assert code == 0 and "4 tasks and 1 panels: all as recorded" in out and "DIFFERS" not in out
    panel = out[out.index("fig_1a (png): as recorded") :]
    assert "tasks    figure1 prepare-clinic" in panel
    assert f"archive {record_of(root, 'prepare-clinic')['inputs']['archive']}" in panel
    assert "61_figure1.ipynb" in panel and "10_prepare.ipynb" in panel and "unirg.core" in panel and "15_base" not in panel


def test_verify_finds_what_times_and_sizes_hide(finished):
    root, say = finished
    assert "to run" not in say("status")[1]
    rewrite_in_secret(root / "archive" / "film.txt", "A FILM")
    rewrite_in_secret(root / "outputs/toy/scores/base-s1/s", "P")
    assert "to run" not in say("status")[1]
    code, out, _ = say("status", "--verify")
    assert code == 1
    assert "prepare-clinic           DIFFERS: its inputs changed: archive" in out
    assert "fig_1a (png): DIFFERS: prepare-clinic: its inputs changed: archive" in out
    assert "generate-base            DIFFERS: outputs/toy/scores/base-s1 changed" in out and "generate-base: outputs" not in out
    assert "prepare-clinic           to run: its inputs changed" in say("status")[1], "the next run mends it"


def test_verify_finds_a_panel_that_no_task_made(finished):
    root, say = finished
    (root / "outputs/toy/figures/fig_9z.png").write_text("from elsewhere")
    code, out, _ = say("status", "--verify")
    assert code == 1 and "fig_9z (png): DIFFERS: fig_9z.png is in no task's record" in out and "fig_1a (png): as recorded" in out


# ---------------------------------------------------------------- what settings.ini plans


@pytest.fixture
def planned(tmp_path):
    "The tasks of the real study, its settings with something more at their end."
    (tmp_path / "nbs").symlink_to(PACKAGE / "nbs")

    def plan(profile, more="", **overrides):
        (tmp_path / "settings.ini").write_text(f"{(PACKAGE / 'settings.ini').read_text()}\n{more}")
        return planned_tasks(tmp_path, profile, **overrides)

    plan.root = tmp_path
    return plan


def test_the_report_is_made_last_and_again_whenever_a_record_changed(planned):
    from unirg.study import identity

    tasks = planned("smoke")
    assert list(tasks)[-1] == "report" and set(tasks["report"].needs) == set(tasks) - {"report"}
    (runs := planned.root / "outputs/smoke/runs").joinpath("image_grounding.json").write_text('{"outputs": {}, "seconds": 1}')
    before = identity(vars(tasks["report"]), runs)["inputs"]
    (runs / "image_grounding.json").write_text('{"outputs": {}, "seconds": 2}')
    assert identity(vars(tasks["report"]), runs)["inputs"] != before


def test_figures_read_the_planned_scores_alone_and_rest_on_each_of_them(planned):
    out = planned.root / "outputs/phantom"
    for system in ("sft-s3", "rl_only-s2"):  # of an earlier plan
        (out / "scores" / system).mkdir(parents=True)
    theirs = out / "systems" / "their_model" / "rexrank.json"
    theirs.parent.mkdir(parents=True)
    theirs.write_text("{}")
    tasks = planned("phantom", consensus="sft", ground_truth_run="rl2")
    readers = {name: task for name, task in tasks.items() if "scored" in task.parameters}
    assert {"figure1", "figure2", "figure3", "figure4", "table_s1", "primary_comparison", "measures", "hacking", "practice"} == set(readers)
    for task in readers.values():
        scored = {os.path.relpath(out / "scores" / system, planned.root) for system in task.parameters["scored"]}
        assert scored <= {path for need in task.needs for path in tasks[need].makes}
        assert {"sft-s1", "sft-s2", "rl_only-s1"} <= set(task.parameters["scored"])
        assert not {"sft-s3", "rl_only-s2"} & set(task.parameters["scored"])
    assert {"their_model", "sft_consensus-s2"} <= set(tasks["figure4"].parameters["scored"])


def test_headroom_takes_the_longest_line_of_reinforcement_from_the_run_that_is_sampled(planned):
    told = planned("phantom")["headroom"].parameters
    assert (told["before"], told["runs"], told["consensus"], told["reward"]) == ("sft", ["rl1", "rl2"], "sft_consensus", "step2")
    assert told["seeds"] == [1, 2] and "rexrank" in told["sources"] and "rexrank" not in told["training"]
    tasks = planned("smoke", runs="base sft rl_only rl1 rl1_prior sft_prior", ground_truth_run="none")
    assert tasks["headroom"].parameters["runs"] == ["rl1"] and tasks["headroom"].parameters["reward"] == "step1"
    assert {"consensus-sft", "generate-sft", "generate-rl1"} <= set(tasks["headroom"].needs)
    for without in ({"consensus": "none"}, {"runs": "base sft rl_only", "ground_truth_run": "none"}):
        assert "headroom" not in planned("smoke", **without)


def test_a_policy_for_the_base_run_writes_no_other_runs_reports(planned):
    tasks = planned("smoke", policy="/data/a-policy", runs="base sft rl1 sft_prior")
    assert tasks["base-s1"].parameters["policy"] == "/data/a-policy"
    arms = {task.parameters["run"]: task.parameters["priors"] for task in tasks.values() if task.notebook == "40_generate"}
    assert arms == {"base": ["own"], "sft": ["own"], "rl1": ["own"], "sft_prior": ["own", "other", "none"]}
    assert not [name for name, task in tasks.items() if "/data/a-policy" in map(str, task.parameters.values()) and name != "base-s1"]


def test_a_run_with_fewer_seeds_is_measured_on_those_it_has(planned):
    tasks = planned("phantom", "[phantom:run:rl2]\nseeds = 2", runs="base sft rl_only rl1 rl2", ground_truth_run="rl2", sight_run="rl_only")
    assert tasks["image_grounding"].parameters["seeds"] == [1]
    for name in ("counterfactual_images", "operating_point"):
        assert tasks[name].parameters["seeds"] == [2], "rl2 is there with that seed alone"


def test_a_job_asks_a_machine_for_what_its_stage_says(planned):
    stage, more = "[smoke:stage:sft]\n", "gpus = 8\ncores = 16\nmemory_gb = 200\nhours = 30\nnodes = 2\n"
    (planned.root / "settings.ini").write_text((PACKAGE / "settings.ini").read_text().replace(stage, stage + more))
    environment = {**os.environ, "UNIRG_ROOT": str(planned.root), "PYTHONPATH": str(PACKAGE)}
    told = [*"--profile smoke sft-s1 --workers 64 -- --dry-run".split()]
    code = "import sys; from unirg.study import run; run(sys.argv[1:])"
    done = subprocess.run([sys.executable, "-c", code, *told], env=environment, capture_output=True, text=True)
    job = done.stdout[done.stdout.index("rule sft:") :].split("\n\n")[0]
    assert done.returncode == 0 and "threads: 16" in job
    assert all(word in job for word in ("gpu=8", "mem_mb=200000", "runtime=1800", "nodes=2", "tasks=2", "mpi=srun")), job


@pytest.mark.parametrize(
    "more, runs, said",
    [
        ("[run:mine]\nnotebook = 20_sft", "base sft mine", ["[run:mine] has no 'start'", "20_sft"]),
        ("[run:mine]\nnotebook = 21_sft\nstart = base", "base sft mine", ["[run:mine]", "no notebook nbs/study/21_sft.ipynb"]),
        ("[run:mine]\nnotebook = 20_sft\nstart = bsae", "base sft mine", ["[run:mine] starts from 'bsae'", "base sft mine"]),
        ("[smoke:run:sft]\nstart = rl1", "base sft rl1 rl2", ["sft-s1", "rl1-s1", "'start'"]),
        ("[smoke:run:rl1]\nstart = rl2", "base sft rl1 rl2", ["rl1-s1", "rl2-s1", "'start'"]),
        ("[smoke:run:sft]\nstart = sft", "base sft rl2 rl1", ["sft-s1 needs sft-s1"]),
        ("[smoke:run:sft]\nseeds = 3", "base sft rl2 rl1", ["[run:sft] has seed '3'"]),
    ],
)
def test_a_run_that_starts_nowhere_or_in_a_circle_is_refused_in_a_line(planned, more, runs, said):
    from unirg.core import Settings, StudyError
    from unirg.study import Study

    (planned.root / "settings.ini").write_text(f"{(PACKAGE / 'settings.ini').read_text()}\n{more}")
    try:
        told = Study(Settings("smoke", {"runs": runs, "ground_truth_run": "rl2"}, root=planned.root)).wrong
    except StudyError as error:
        told = [str(error)]
    assert all(words in told[0] for words in said) and "\n" not in told[0], told


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
        (planned.root / "evaluator.py").write_text("\n".join(f"{name} = {text!r}" for name, text in texts.items()))
        return planned("smoke", JUDGE.format(model=model, timeout=timeout) + "[stage:score]\njudge = near")

    tasks = ("generate-sft", "rl2-s1")
    before = [vars(plan()[task]) for task in tasks]
    now = plan(timeout=30)
    assert [vars(now[task]) for task in tasks] == before, "how long it is waited for is no part of what it says"
    for changed in ({"model": "two"}, {"wording": "Count errors."}):
        now = plan(**changed)
        assert all(now[task].reads["[judge:near]"] != was["reads"]["[judge:near]"] for task, was in zip(tasks, before))
    assert "[judge:near]" not in now["rl1-s1"].reads, "its reward counts by rule"


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
        tasks = planned("smoke", JUDGE.format(model=model, timeout=60).replace("rubric = evaluator.py\n", ""))
        monkeypatch.setenv("UNIRG_ROOT", str(planned.root))
        with pytest.raises(KeyboardInterrupt):
            exec("\n".join([cells[0], *(f"{name} = {value!r}" for name, value in tasks["rl2-s1"].parameters.items()), *cells[1:]]), {})
    assert went_on == [False, True, False]
