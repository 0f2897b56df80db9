"""The contracts between notebooks, package, settings and runner: each stands for something that fails in silence when it is broken."""

import ast
import json
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SUBPACKAGES = ["core", "phantom", "data", "reward", "training", "analysis", "screen", "study"]
LIBRARY = sorted(
    p
    for p in (ROOT / "nbs").rglob("*.ipynb")
    if "study" not in p.relative_to(ROOT / "nbs").parts[:-1] and ".ipynb_checkpoints" not in p.parts
)
STUDY = sorted((ROOT / "nbs" / "study").glob("*.ipynb"))


def cells(path, kind="code"):
    return [c for c in json.loads(path.read_text())["cells"] if c["cell_type"] == kind]


def source(cell):
    return "".join(cell["source"])


def names(paths):
    return [str(p.relative_to(ROOT)) for p in paths]


def test_there_are_notebooks():
    assert len(LIBRARY) > 10 and len(STUDY) > 5


def test_the_package_is_what_the_notebooks_export(tmp_path):
    shutil.copytree(ROOT / "nbs", tmp_path / "nbs")
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    (tmp_path / "unirg").mkdir()
    shutil.copy(ROOT / "unirg" / "__init__.py", tmp_path / "unirg")
    subprocess.run(
        [sys.executable, "-c", "from nbdev.doclinks import nbdev_export; nbdev_export()"], cwd=tmp_path, check=True, capture_output=True
    )
    fresh = {p.relative_to(tmp_path / "unirg"): p.read_text() for p in (tmp_path / "unirg").rglob("*.py")}
    kept = {p.relative_to(ROOT / "unirg"): p.read_text() for p in (ROOT / "unirg").rglob("*.py")}
    assert sorted(fresh) == sorted(kept)
    assert [str(p) for p in fresh if fresh[p] != kept[p]] == [], "stale modules: run `make prepare`"


def test_cleaning_the_notebooks_changes_nothing(tmp_path):
    shutil.copytree(ROOT / "nbs", tmp_path / "nbs")
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    subprocess.run(
        [sys.executable, "-c", "from nbdev.clean import nbdev_clean; nbdev_clean()"], cwd=tmp_path, check=True, capture_output=True
    )
    changed = [n for n in names(LIBRARY + STUDY) if (tmp_path / n).read_text() != (ROOT / n).read_text()]
    assert changed == [], "run `make prepare`"


@pytest.mark.parametrize("notebook", STUDY, ids=lambda p: p.stem)
def test_a_study_notebook_can_be_run_by_papermill(notebook):
    from unirg.core import parameters_of

    code = cells(notebook)
    assert parameters_of(notebook), "parameters"
    assert "parameters" in code[0]["metadata"].get("tags", []), "the parameters cell is the first code cell"
    for cell in code:
        text = source(cell)
        assert not cell["outputs"] and cell["execution_count"] is None, "outputs are not committed"
        assert "#| export" not in text, "a study notebook exports nothing"
        assert "sys.exit" not in text and not re.search(r"^\s*[!%]", text, re.M), "a failing shell line or an early exit reads as success"


@pytest.mark.parametrize("notebook", LIBRARY + STUDY, ids=lambda p: p.stem)
def test_every_notebook_names_the_kernel_python3(notebook):
    assert json.loads(notebook.read_text())["metadata"]["kernelspec"]["name"] == "python3"


def test_one_notebook_is_one_module():
    homes = [m for p in LIBRARY for c in cells(p) for m in re.findall(r"^#\| default_exp (\S+)", source(c), re.M)]
    assert len(homes) == len(LIBRARY) == len(set(homes))


def imported_subpackages(path):
    package = path.relative_to(ROOT).with_suffix("").parts
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom):
            parts = [*package[: -node.level], *(node.module or "").split(".")] if node.level else (node.module or "").split(".")
            parts = [p for p in parts if p]
            found = [[*parts, alias.name] for alias in node.names] if parts == ["unirg"] else [parts]
        elif isinstance(node, ast.Import):
            found = [alias.name.split(".") for alias in node.names]
        else:
            continue
        yield from (parts[1] for parts in found if parts[0] == "unirg" and len(parts) > 1)


def test_a_room_imports_only_from_rooms_to_its_left():
    wrong = []
    for path in (ROOT / "unirg").rglob("*.py"):
        subpackage = path.relative_to(ROOT / "unirg").with_suffix("").parts[0]
        if subpackage in SUBPACKAGES:
            wrong += [
                f"{path.name} imports {other}"
                for other in imported_subpackages(path)
                if SUBPACKAGES.index(other) > SUBPACKAGES.index(subpackage)
            ]
    assert wrong == []


def test_no_two_modules_import_each_other():
    "At any depth, imports within functions included: a circle means that neither can be read, tested or replaced without the other."
    from unirg.core import modules_of

    package = ROOT / "unirg"
    paths = {".".join(p.relative_to(ROOT).with_suffix("").parts): p for p in package.rglob("*.py") if p.name != "__init__.py"}
    reached = {name: {*modules_of(path.read_text(), name)} for name, path in paths.items()}
    circles = {tuple(sorted(other for other in found if name in reached.get(other, ()))) for name, found in reached.items()} - {()}
    assert len(paths) > 30 and circles == set()


def test_nothing_in_training_or_reward_reads_the_truth():
    reading = re.compile(r"read_truth|truth(_studies)?\.parquet|phantom\.(archives|atlas)|rerender")
    places = [
        *(ROOT / "unirg" / "reward").glob("*.py"),
        *(ROOT / "unirg" / "training").glob("*.py"),
        *(ROOT / "unirg" / "data").glob("*.py"),
    ]
    notebooks = [p for p in STUDY if not p.name.startswith(("05", "06", "70", "71", "72", "73", "74"))]
    guilty = [p.name for p in places if reading.search(p.read_text())] + [
        p.name for p in notebooks if any(reading.search(source(c)) for c in cells(p))
    ]
    assert places and guilty == []


def test_importing_the_package_loads_neither_torch_nor_transformers():
    light = [
        "unirg",
        *(
            ".".join(p.relative_to(ROOT).with_suffix("").parts)
            for subpackage in ("core.py", "phantom", "data", "reward", "analysis", "study.py")
            for p in ([ROOT / "unirg" / subpackage] if subpackage.endswith(".py") else (ROOT / "unirg" / subpackage).glob("[a-z]*.py"))
        ),
    ]
    code = (
        "import sys, importlib\nfor m in sys.argv[1:]: importlib.import_module(m)\n"
        "print([m for m in ('torch', 'transformers', 'trl') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code, *light], capture_output=True, text=True, cwd=ROOT, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize("profile", ["smoke", "phantom", "phantom_full"])
def test_every_setting_is_taken_and_every_need_is_made(profile):
    from planned import plan_of

    from unirg.core import Settings

    plan = plan_of(Settings(profile, root=ROOT))  # raises for a setting nobody takes and a need nobody makes
    assert {"phantom", "sft-s1", "rl1-s1", "rl2-s1", "rl_only-s1"} <= set(plan.tasks)


def test_the_paper_profile_asks_for_its_roots():
    from planned import plan_of

    from unirg.core import Settings, StudyError

    with pytest.raises(StudyError, match="root"):
        plan_of(Settings("paper", root=ROOT))


def test_package_metadata_is_sane():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert project["name"] == "unirg" and project["requires-python"] == ">=3.11" and project["dynamic"] == ["version"]


def test_the_tree_names_no_path_of_a_machine():
    tracked = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout.split("\n")
    wrong = []
    for name in tracked:
        path = ROOT / name
        if (
            name
            and path.is_file()
            and path.suffix in {".py", ".ipynb", ".md", ".toml", ".ini", ".txt", ".json", ""}
            and path.stat().st_size < 1_000_000
        ):
            wrong += [name for word in ("/wo" + "rk/", "/ro" + "ot/", "/ho" + "me/") if word in path.read_text(errors="ignore")]
    assert wrong == []


@pytest.mark.parametrize(
    "document", ["README.md", "LICENSE", "CHANGELOG.md", "CONTRIBUTING.md", "settings.ini", "constraints.txt", "outputs/README.md"]
)
def test_the_documents_are_there(document):
    assert (ROOT / document).stat().st_size > 100


def test_readme_says_what_it_is_not():
    assert "not for clinical use" in (ROOT / "README.md").read_text().lower()


@pytest.mark.parametrize("subpackage", ["phantom", "data", "reward", "training", "analysis"])
def test_a_rooms_names_are_where_a_reader_looks_for_them(subpackage):
    "Each is what its module has, no name is hidden by a module, and the subpackage itself loads nothing."
    code = (
        f"import sys, importlib, unirg.{subpackage} as subpackage\n"
        f"print([m for m in sys.modules if m.startswith('unirg.{subpackage}.') or m in ('torch', 'numpy', 'pandas')])\n"
        "for home, names in subpackage._HOMES.items():\n"
        "    module = importlib.import_module(f'{subpackage.__name__}.{home}')\n"
        "    assert all(getattr(subpackage, name) is getattr(module, name) for name in names.split()), home\n"
        "assert subpackage.__all__ == [name for names in subpackage._HOMES.values() for name in names.split()]\n"
        f"from unirg.{subpackage} import *\nassert all(callable(globals()[name]) or name.isupper() for name in subpackage.__all__)\n"
        "try:\n    subpackage.nothing\nexcept AttributeError as error:\n    print(error)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == ["[]", f"module 'unirg.{subpackage}' has no attribute 'nothing'"]
