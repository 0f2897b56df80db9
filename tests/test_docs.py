"""The site: it builds without a warning, holds every notebook and public name, loads nothing from elsewhere, and its examples run."""

import base64
import io
import json
import os
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

import nbformat
import pandas as pd
import pytest
from PIL import Image
from training_toys import toy_studies

from unirg.analysis.report import Sets
from unirg.core import Settings, write_json
from unirg.data.studies import Studies

ROOT = Path(__file__).parents[1]
NOTEBOOKS = sorted(p.relative_to(ROOT / "nbs") for p in (ROOT / "nbs").rglob("*.ipynb") if ".ipynb_checkpoints" not in p.parts)
PAGES = ["index", "start", "story", "claims", "openi", "your_data", "clusters", "trl", "measures", "limits"]
LOADS = {"script": "src", "img": "src", "iframe": "src", "source": "src", "video": "src", "audio": "src", "embed": "src", "object": "data"}


class Page(HTMLParser):
    "What a page loads, links to and names."

    def __init__(self, path):
        super().__init__()
        self.loads, self.links, self.ids, self.alts, self.text = [], [], set(), [], []
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag, attrs):
        attrs = dict(attrs)
        if tag in LOADS and attrs.get(LOADS[tag]):
            self.loads.append(attrs[LOADS[tag]])
        if tag == "link" and attrs.get("rel") not in ("index", "search", "next", "prev", "canonical"):
            self.loads.append(attrs["href"])
        if tag == "a" and attrs.get("href"):
            self.links.append(attrs["href"])
        if tag == "img":
            self.alts.append(attrs.get("alt"))
        self.ids.update(value for key, value in attrs.items() if key in ("id", "name") and value)

    def handle_data(self, data):
        self.text.append(data)


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    out = tmp_path_factory.mktemp("site")
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "sphinx", "-q", "-W", "--keep-going", "-d", str(out / "doctrees"), "docs", str(out / "html")]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    return out / "html"


@pytest.fixture(scope="module")
def pages(site):
    return {path.relative_to(site).as_posix(): Page(path) for path in sorted(site.rglob("*.html"))}


def test_every_page_and_every_notebook_is_reached_from_the_side_bar(pages):
    reached = {link.split("#")[0] for link in pages["index.html"].links}
    wanted = [f"{name}.html" for name in PAGES if name != "index"]
    wanted += [(path if path.parts[0] == "study" else "library" / path).with_suffix(".html").as_posix() for path in NOTEBOOKS]
    assert [name for name in wanted if name not in reached or name not in pages] == []


def test_a_notebook_page_has_its_prose_and_code_without_directives(pages):
    for path in NOTEBOOKS:
        text = "".join(pages[(path if path.parts[0] == "study" else "library" / path).with_suffix(".html").as_posix()].text)
        cells = json.loads((ROOT / "nbs" / path).read_text())["cells"]
        title = "".join(next(cell["source"] for cell in cells if cell["cell_type"] == "markdown")).split("\n")[0].lstrip("# ")
        assert title.replace("`", "") in text.replace("’", "'"), path
        assert "#| export" not in text and "default_exp" not in text, path
        lines = [line for cell in cells if cell["cell_type"] == "code" for line in "".join(cell["source"]).splitlines()]
        defined = [line for line in lines if re.match(r"(def|class) \w+.*:$", line)]
        assert [line for line in defined if line not in text] == [], path


def test_no_page_loads_anything_from_elsewhere(site, pages):
    foreign = {(name, load) for name, page in pages.items() for load in page.loads if urlsplit(load).netloc or load.startswith("//")}
    assert foreign == set()
    for sheet in site.rglob("*.css"):
        loaded = re.findall(r"url\(\s*[\"']?([^\"')]+)|@import\s+[\"']([^\"']+)", sheet.read_text(encoding="utf-8"))
        assert [url for pair in loaded for url in pair if urlsplit(url).netloc or url.startswith("//")] == [], sheet


def test_no_link_within_the_site_is_dead(site, pages):
    dead = []
    for name, page in pages.items():
        for link in page.links + page.loads:
            parts = urlsplit(link)
            if parts.scheme or parts.netloc:
                continue
            target = (site / name).parent / unquote(parts.path) if parts.path else site / name
            where = target.resolve().relative_to(site.resolve()).as_posix()
            if not target.is_file():
                dead.append((name, link))
            elif parts.fragment and where in pages and unquote(parts.fragment) not in pages[where].ids:
                dead.append((name, link))
    assert dead == []


def test_every_page_says_that_it_is_not_for_clinical_use(pages):
    assert [name for name, page in pages.items() if "not for clinical use" not in " ".join(page.text).lower()] == []


def test_every_picture_has_words_in_its_place(pages):
    assert [name for name in PAGES if not all(pages[f"{name}.html"].alts)] == []
    assert len(pages["story.html"].alts) == 10


def test_the_story_shows_panels_that_git_keeps_and_types_no_result():
    text = (ROOT / "docs" / "story.md").read_text()
    shown = re.findall(r"\.\./(outputs/\S+\.(?:png|csv))", text)
    kept = subprocess.run(["git", "ls-files", "outputs"], cwd=ROOT, capture_output=True, text=True).stdout.split()
    assert len(shown) == 20 and (not kept or set(shown) <= set(kept))
    prose = re.sub(r"```\{figure\}.*|:width:.*|\{download\}.*|## \d+\.|Panel \w+|COVID-19|[Ss]tep \d", "", text)
    assert re.findall(r"\d", prose) == []


@pytest.mark.parametrize(
    "name, said",
    [
        ("unirg.reward.composite.Composite", "1: similarity only, 2: with the error term"),
        ("unirg.reward.composite.parse_weights", "raises StudyError"),
        ("unirg.data.radiographs.load_radiograph", "raises RadiographError"),
        ("unirg.data.iu_xray.Report", "CXR1000_IM-0003-1001"),
        ("unirg.core.study_root", "the current folder if None"),
        ("unirg.reward.metrics.label_cosine", "-1..1"),
    ],
)
def test_the_reference_has_signatures_parameters_and_errors(pages, name, said):
    page = pages[f"reference/{name.removeprefix('unirg.').rpartition('.')[0]}.html"]
    assert name in page.ids
    assert said.lower() in " ".join("".join(page.text).split()).lower()


def test_the_reference_has_every_public_function_and_class(pages):
    import ast

    for path in sorted((ROOT / "unirg").rglob("*.py")):
        parsed = ast.parse(path.read_text())
        module = ".".join(path.relative_to(ROOT).with_suffix("").parts)
        kept = [node for node in parsed.body if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__"]
        public = set(ast.literal_eval(kept[0].value)) if kept else set()
        defined = {node.name for node in parsed.body if isinstance(node, ast.FunctionDef | ast.ClassDef)} & public
        if defined:
            ids = pages[f"reference/{module.removeprefix('unirg.')}.html"].ids
            assert {name for name in defined if f"{module}.{name}" not in ids} == set()


def test_the_page_of_measures_names_all_of_them():
    from unirg.reward.composite import COMPONENTS, MEASURES

    named = set(re.findall(r"`(\w+)`", (ROOT / "docs" / "measures.md").read_text()))
    assert {*MEASURES, *COMPONENTS} - named == set()


# ---------------------------------------------------------------- executed notebooks


def executed_notebook(folder, name, *outputs, end="2026-01-01", source="3_figure"):
    "A notebook as papermill leaves it, below <root>/outputs/<profile>/runs."
    book = nbformat.v4.new_notebook()
    book.cells = [nbformat.v4.new_markdown_cell(f"# {name}: a title\nWords."), nbformat.v4.new_code_cell("figure", outputs=list(outputs))]
    book.metadata = nbformat.from_dict({"kernelspec": {"name": "python3", "display_name": "Python 3"}})
    book.metadata["papermill"] = {"input_path": f"elsewhere/nbs/study/{source}.ipynb", "end_time": end, "exception": None}
    folder.mkdir(parents=True, exist_ok=True)
    nbformat.write(book, folder / f"{name}.ipynb")
    write_json(folder / f"{name}.json", {"commit": "abc1234-dirty"})


def drawn(grey=120, size=(900, 300), kind="display_data"):
    data = io.BytesIO()
    image = Image.new("RGB", size, (grey, grey, grey))
    image.paste((200, 30, 30), (20, 20, 20 + grey, 200))
    image.save(data, "PNG")
    return nbformat.v4.new_output(kind, {"image/png": base64.b64encode(data.getvalue()).decode(), "text/plain": "<Figure>"})


def printed(text):
    return nbformat.v4.new_output("stream", name="stdout", text=text)


@pytest.fixture
def pages_module(monkeypatch, tmp_path):
    monkeypatch.syspath_prepend(str(ROOT / "docs"))
    import pages

    monkeypatch.setattr(pages, "KEPT", tmp_path / "kept")
    return pages


def outputs_of(path):
    return [output for cell in nbformat.read(path, 4).cells for output in cell.get("outputs", [])]


def test_executed_notebooks_are_kept_small_whole_and_without_a_place(pages_module, tmp_path):
    out = tmp_path / "study" / "outputs" / "phantom"
    progress = "128/590 reports, 7.7 a second, 1 min left\n"
    executed_notebook(out / "runs", "sft-s1", drawn(), printed(f"{progress}{progress}the reward took 3%\n"), source="20_sft")
    executed_notebook(out / "runs", "sft-s2", drawn(), source="20_sft")
    executed_notebook(out / "runs", "rl1-s1", drawn(), end=None, source="30_rl")
    executed_notebook(out / "runs", "prepare-covid_cases", printed("x"), source="10_prepare")
    executed_notebook(out / "runs", "prepare-iu_xray", printed(f"{out.parents[1]}/outputs/phantom/data"), source="10_prepare")
    pages_module.keep("phantom", out)
    kept = {path.stem: path for path in (tmp_path / "kept" / "phantom").iterdir()}
    assert set(kept) == {"sft-s1", "prepare-iu_xray"}, "one seed of a run, what ended, and of the sources those that are made"
    picture, text = outputs_of(kept["sft-s1"])
    assert text.text == "the reward took 3%" and list(picture.data) == ["image/png"]
    assert Image.open(io.BytesIO(base64.b64decode(picture.data["image/png"]))).size == (900, 300)
    assert outputs_of(kept["prepare-iu_xray"])[0].text == "outputs/phantom/data"
    assert pages_module.commit_of(kept["sft-s1"]) == "abc1234-dirty"
    shown = pages_module.executed("phantom", tmp_path / "kept" / "phantom")
    stems = {name: [path.stem for path in paths] for name, paths in shown.items()}
    assert stems == {"20_sft": ["sft-s1"], "10_prepare": ["prepare-iu_xray"]}


@pytest.mark.parametrize(
    "outputs, number",
    [
        ([drawn(), drawn()], 1),
        ([drawn(kind="execute_result"), drawn(size=(905, 302))], 1),
        ([drawn(40), drawn(200)], 2),
        ([drawn(40, kind="execute_result"), drawn(200)], 1),
        ([drawn(40, size=(300, 300)), drawn(40)], 2),
        ([drawn(), printed("a"), drawn()], 2),
        ([printed("a"), printed("a")], 2),
        ([nbformat.v4.new_output("display_data", {"application/vnd.jupyter.widget-view+json": {}, "text/plain": "0%"}), drawn()], 1),
    ],
)
def test_a_page_shows_a_picture_once_and_no_widget(pages_module, outputs, number):
    assert len(pages_module.shown_outputs(outputs)) == number


def test_a_notebook_that_saves_a_panel_and_names_it_shows_it_once(tmp_path):
    "The notebook's own doing: `save_panel` closes the figure, which the inline backend would show a second time."
    from nbclient import NotebookClient

    source = (
        "%matplotlib inline\nimport pandas as pd, matplotlib.pyplot as plt\nfrom unirg.analysis.figures import save_panel\n"
        f"figure, ax = plt.subplots(figsize=(2, 1))\nmade = save_panel(figure, pd.DataFrame({{'a': [1]}}), {str(tmp_path)!r}, 'x')\nfigure"
    )
    book = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(source)])
    NotebookClient(book, kernel_name="python3", timeout=120).execute()
    pictures = [output for output in book.cells[0].outputs if "image/png" in output.get("data", {})]
    assert len(pictures) == 1 and (tmp_path / "fig_x.png").is_file()


@pytest.mark.parametrize("profile", ["openi", "paper", "references"])
def test_notebooks_of_sources_that_are_not_for_everybody_are_shown_as_kept_and_never_as_run(pages_module, tmp_path, monkeypatch, profile):
    (tmp_path / "settings.ini").write_text((ROOT / "settings.ini").read_text())
    monkeypatch.setattr(pages_module, "ROOT", tmp_path)
    for name in (profile, "phantom"):
        executed_notebook(tmp_path / "outputs" / name / "runs", "figure1", drawn())
    closed = pages_module.closed_sources(Settings(profile, root=tmp_path))
    own, kept = tmp_path / "outputs" / profile / "runs", tmp_path / "kept" / profile
    assert pages_module.runs_of(profile) == (kept if closed else own)
    assert bool(closed) == (profile != "references")


def test_a_notebook_that_holds_their_words_is_not_kept(pages_module, tmp_path, monkeypatch):
    settings = "[ours]\nsources = hospital\n[source:hospital]\nlayout = table\ncredentialed = yes\nroot = hospital\n"
    (tmp_path / "settings.ini").write_text(settings)
    monkeypatch.setattr(pages_module, "ROOT", tmp_path)
    out = tmp_path / "outputs" / "ours"
    toy_studies(out / "data" / "hospital", 8)
    text = " ".join(Studies.load(out / "data" / "hospital").table["findings"][:8])
    executed_notebook(out / "runs", "figure1", printed("counts alone"), source="61_figure1")
    executed_notebook(out / "runs", "figure2", printed(text), source="62_figure2")
    with pytest.raises(ValueError, match=r"figure2.*held words"):
        pages_module.keep("ours", out)
    assert not (tmp_path / "kept" / "ours" / "figure2.ipynb").exists() and (tmp_path / "kept" / "ours" / "figure1.ipynb").exists()


def test_without_the_prepared_texts_nothing_of_them_is_kept(pages_module, tmp_path, monkeypatch):
    (tmp_path / "settings.ini").write_text("[ours]\nsources = hospital\n[source:hospital]\nlayout = table\nroot = hospital\n")
    monkeypatch.setattr(pages_module, "ROOT", tmp_path)
    executed_notebook(tmp_path / "outputs" / "ours" / "runs", "figure1", printed("counts"), source="61_figure1")
    with pytest.raises(ValueError, match=r"hospital.*cannot be looked for"):
        pages_module.keep("ours", tmp_path / "outputs" / "ours")
    assert not (tmp_path / "kept").exists()


KEPT = sorted((ROOT / "docs" / "executed").rglob("*.ipynb"))


def test_what_is_kept_is_of_both_profiles_small_and_of_notebooks_that_are_there():
    assert {path.parent.name for path in KEPT} == {"phantom", "openi"} and len(KEPT) > 50
    assert sum(path.stat().st_size for path in KEPT) < 4.5e6, "some 3 MB as git packs them"
    names = {path.stem for path in (ROOT / "nbs" / "study").glob("*.ipynb")}
    kept = {Path(json.loads(path.read_text())["metadata"]["papermill"]["input_path"]).stem for path in KEPT}
    assert kept <= names and {"61_figure1", "62_figure2", "66_primary_comparison", "20_sft", "30_rl"} <= kept


def test_of_the_real_collection_nothing_but_drawings_is_kept():
    "Pictures with films in them are of the phantom alone."
    from unirg.data.leaks import looks_like_a_radiograph, pictures_in

    films = [path.stem for path in KEPT if path.parent.name == "openi" and any(map(looks_like_a_radiograph, pictures_in(path)))]
    assert set(films) <= {"figure1"}, "panel 1b: boxes with words, looked at"


# ---------------------------------------------------------------- claims


CLAIM = {"run": "rl2", "against": "sft", "dataset": "seen", "measure": "composite_step1", "difference": 0.02, "difference_low": 0.01}
CLAIM |= {"difference_high": 0.03, "p_holm": 0.01}


@pytest.mark.parametrize(
    "rows, status",
    [
        ([{}], "shown"),
        ([{}, {"difference_low": -0.01}], "shown in part"),
        ([{"p_holm": 0.2}], "undecided"),
        ([{"difference": -0.02, "difference_low": -0.03, "difference_high": -0.01}], "the opposite"),
        ([{}, {"difference": -0.02, "difference_low": -0.03, "difference_high": -0.01}], "mixed"),
    ],
)
def test_a_claims_status_follows_from_its_rows(pages_module, tmp_path, monkeypatch, rows, status):
    monkeypatch.setattr(pages_module, "CLAIMS", [("A claim", "fig_x", {"against": "sft"})])
    pd.DataFrame([CLAIM | row for row in [*rows, {"against": "another"}]]).to_csv(tmp_path / "fig_x.csv", index=False)
    line = pages_module.claims_table(tmp_path, Sets({})).splitlines()[2]
    assert line.endswith(f"| {status} |") and line.count("Trained on, pooled") == len(rows)


def test_a_claim_that_no_row_speaks_of_is_an_error(pages_module, tmp_path, monkeypatch):
    monkeypatch.setattr(pages_module, "CLAIMS", [("A claim", "fig_x", {"against": "nobody"})])
    pd.DataFrame([CLAIM]).to_csv(tmp_path / "fig_x.csv", index=False)
    with pytest.raises(ValueError, match="nobody"):
        pages_module.claims_table(tmp_path, Sets({}))


def test_the_examples_of_rewards_in_trl_run(tmp_path):
    model = "Qwen/Qwen3-VL-2B-Instruct"
    text = (ROOT / "docs" / "trl.md").read_text()
    blocks = re.findall(r"```python\n(.*?)```", text, re.S)
    assert len(blocks) == 4 and sum(model in block for block in blocks) == 1
    # a policy of the same form that is made here stands for the one from the hub, and a film of one grey for film.png
    made = (
        "from unirg.training.policy import build_tiny_policy\nfrom PIL import Image\n"
        "build_tiny_policy(['Findings: Small left pleural effusion. No pneumothorax.'] * 4, 'tiny')\n"
        "Image.new('L', (64, 64), 90).save('film.png')\n"
    )
    asked = "\n".join(blocks).replace(model, "tiny").replace("max_steps=2", "max_steps=2, use_cpu=True, bf16=False")
    script = made + asked + "\nprint('rewarded', trainer.state.log_history[0]['reward'])\n"
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, "-c", script], cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    assert re.search(r"^rewarded 0\.\d+", done.stdout, re.M)
