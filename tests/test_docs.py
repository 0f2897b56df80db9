"""The site: it builds without a warning, holds every notebook and public name, loads nothing from elsewhere, and its examples run."""

import json
import os
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest

ROOT = Path(__file__).parents[1]
NOTEBOOKS = sorted(p.relative_to(ROOT / "nbs") for p in (ROOT / "nbs").rglob("*.ipynb") if ".ipynb_checkpoints" not in p.parts)
PAGES = ["index", "start", "story", "openi", "your_data", "clusters", "trl", "measures", "limits"]
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


def test_a_profile_with_credentialed_sources_is_on_no_page(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "docs"))
    from pages import executed

    with pytest.raises(ValueError, match="mimic_cxr is not marked"):
        executed("paper")


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
