"""Pages that the build makes: every notebook, and the reference, which is read from the modules without importing them.

`python docs/pages.py PROFILE [FOLDER]` keeps a study's executed notebooks in docs/executed, so that the site has them wherever it is built.
"""

import ast
import base64
import io
import json
import os
import re
import sys
import tokenize
from pathlib import Path

import nbformat
import pandas as pd
from docutils.nodes import SkipNode  # noqa: F401  (conf.py raises it)
from PIL import Image, ImageChops, ImageStat

from unirg.analysis.report import SIGNS, Sets, decide, number, sets_of
from unirg.core import Settings, read_json
from unirg.reward.composite import MEASURES

ROOT = Path(__file__).resolve().parents[1]
NOTEBOOKS, PACKAGE, KEPT = ROOT / "nbs", ROOT / "unirg", ROOT / "docs" / "executed"
SUBPACKAGES = {
    "core": "Settings, seeds, whole writes",
    "phantom": "Films from X-ray physics, patients, dictation, archives on disk",
    "data": "Archives and tables to one schema",
    "reward": "Facts from text, measures, the composite reward",
    "training": "SFT, GRPO, generation, consensus",
    "analysis": "Statistics, panels, the report",
    "study": "The commands that run the study",
}


def write_pages(
    docs: Path,  # the folder of conf.py; library/, study/ and reference/ below it are the build's own
) -> None:
    "Write every page that has changed, remove those that no notebook or module stands behind."
    made = {**library_pages(), **study_pages(), **reference_pages()}
    for name, text in made.items():
        path = docs / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if not path.is_file() or path.read_text(encoding="utf-8") != text:
            path.write_text(text, encoding="utf-8")
    for subpackage in ("library", "study", "reference"):
        for path in (docs / subpackage).rglob("*.*"):
            if path.relative_to(docs).as_posix() not in made:
                path.unlink()


# ---------------------------------------------------------------- notebooks


def page(
    notebook: Path,
    note: str,  # what stands under the title
    title: str = "",  # added to the title, where several pages have one notebook
    fold: bool = False,  # parameters and imports: one reads results
) -> str:  # the page, a notebook too
    "A notebook as a page: nbdev's directives go, outputs stay, but for widgets, which want scripts from elsewhere."
    book = nbformat.read(notebook, as_version=4)
    cells = []
    for cell in book.cells:
        if cell.cell_type == "code":
            if re.match(r"#\| *(default_exp|hide)\b", cell.source):
                continue
            cell.source = re.sub(r"^#\|.*\n?", "", cell.source, flags=re.M)
            cell.outputs = shown_outputs(cell.outputs)
            set_up = set(cell.metadata.get("tags", [])) & {"parameters", "injected-parameters"} or re.match(r"(import|from) ", cell.source)
            cell.metadata = nbformat.from_dict({"tags": ["hide-input"] if fold and set_up else []})
        cells.append(cell)
    first = next(cell for cell in cells if cell.cell_type == "markdown")
    head, _, rest = first.source.partition("\n")
    first.source = f"{head}{title}\n{rest}\n\n{note}"
    book.cells, book.metadata = cells, nbformat.from_dict({"kernelspec": book.metadata.get("kernelspec", {})})
    return nbformat.writes(book).replace(f"{ROOT}/", "")  # no path of this machine


def shown_outputs(outputs: list) -> list:
    "What a page shows of a cell: no widget, for it wants scripts from elsewhere, and no picture twice."
    shown, seen = [], []
    for output in outputs:
        data = output.get("data", {})
        if "text/markdown" in data:  # a part of a page: its links to the rest lead nowhere
            data["text/markdown"] = re.sub(r"\[([^\]]+)\]\(#[^)]*\)", r"\1", "".join(data["text/markdown"]))
        picture = Image.open(io.BytesIO(base64.b64decode(data["image/png"]))).convert("L") if "image/png" in data else None
        told = output.output_type, data.get("text/plain")  # of a figure its size and axes: a cell's last line and its end show the same one
        again = picture and any(alike(picture, other) or (told[0] != said[0] and told[1] == said[1] is not None) for other, said in seen)
        if "application/vnd.jupyter.widget-view+json" not in data and not again:
            seen += [(picture, told)] if picture else []
            shown.append(output)
    return shown


def alike(one: Image.Image, other: Image.Image) -> bool:
    "Whether two drawings are of one figure: its legend may have moved a line."
    if any(abs(a - b) > 0.05 * a for a, b in zip(one.size, other.size)):
        return False
    apart = ImageChops.difference(one.resize((32, 32)), other.resize((32, 32)))
    return ImageStat.Stat(apart).mean[0] < 4  # of 255


def heading(notebook: Path) -> tuple[str, str]:
    "Title and description of a notebook, from its first cell of prose."
    cells = json.loads(notebook.read_text(encoding="utf-8"))["cells"]
    text = "".join(next(cell["source"] for cell in cells if cell["cell_type"] == "markdown"))
    said = re.search(r"^(?:> |\*\*Question\*\*: )(.+?)(?:\n\n|\Z)", text, re.M | re.S)
    return text.split("\n")[0].lstrip("# "), " ".join(said[1].split()) if said else ""


def tree(*names: str) -> str:
    "A toctree that shows only in the side bar."
    return "\n".join(["```{toctree}", ":hidden:", "", *names, "```", ""])


def module_of(notebook: Path) -> str:
    "The module that a library notebook exports, such as reward.composite."
    return re.search(r"#\| *default_exp ([\w.]+)", notebook.read_text(encoding="utf-8"))[1]


def library() -> list[Path]:
    "The library's notebooks, by subpackage."
    found = sorted(path for path in NOTEBOOKS.rglob("*.ipynb") if path.parent.name not in ("study", ".ipynb_checkpoints"))
    subpackages = {path: module_of(path).split(".")[0] for path in found}
    return sorted(found, key=lambda path: [*SUBPACKAGES, subpackages[path]].index(subpackages[path]))


def library_pages() -> dict[str, str]:
    "Every library notebook, and an index of each subpackage."
    pages, subpackages = {}, {}
    for notebook in library():
        module, name = module_of(notebook), notebook.relative_to(NOTEBOOKS).with_suffix("").as_posix()
        up = "../" * (name.count("/") + 1)
        note = f"Source: `nbs/{name}.ipynb`. Reference: [unirg.{module}]({up}reference/{module}.md)."
        pages[f"library/{name}.ipynb"] = page(notebook, note)
        subpackages.setdefault(module.split(".")[0], []).append((name, *heading(notebook)))
    lines = ["# The library, a notebook a module", ""]
    lines += ["Each page is the source of a module: prose, a small piece of code, an example whose value is its test.", ""]
    entries = []
    for subpackage in subpackages:
        entries += [f"{subpackage}/index" if len(subpackages[subpackage]) > 1 else subpackages[subpackage][0][0]]
        lines += [f"## {subpackage}", "", SUBPACKAGES.get(subpackage, ""), ""]
        lines += [f"- [{title}]({name}.ipynb): {said}" for name, title, said in subpackages[subpackage]] + [""]
        if len(subpackages[subpackage]) > 1:
            listed = [f"- [{title}](../{name}.ipynb): {said}" for name, title, said in subpackages[subpackage]]
            inner = tree(*(f"../{name}" for name, _, _ in subpackages[subpackage]))
            pages[f"library/{subpackage}/index.md"] = "\n".join(
                [f"# {subpackage}", "", SUBPACKAGES.get(subpackage, ""), "", *listed, "", inner]
            )
    pages["library/index.md"] = "\n".join([*lines, tree(*entries)])
    return pages


def closed_sources(settings: Settings) -> list[str]:
    "Sources whose films and texts are not for everybody."
    return [name for name in settings.listed("sources") if settings.section(f"source:{name}").get("credentialed") != "no"]


def executed(
    profile: str,
    runs: Path,  # the folder of its executed notebooks
) -> dict[str, list[Path]]:
    "Executed notebooks by study notebook, one seed of each run, and of the sources only those that are made or the study's only ones."
    settings = Settings(profile, root=ROOT)
    sources = settings.listed("sources")
    made = [name for name in sources if settings.section(f"source:{name}").get("root", "").startswith("{out}/")]
    shown, found, seen = {f"prepare-{name}" for name in made or sources}, {}, set()
    for path in sorted(runs.glob("[!.]*.ipynb")):
        ran = json.loads(path.read_text(encoding="utf-8"))["metadata"].get("papermill", {})
        run = re.sub(r"-s\d+$", "", path.stem)
        done = ran.get("end_time") and not ran.get("exception")
        if run not in seen and done and (path.stem in shown or not path.stem.startswith("prepare-")):
            found.setdefault(Path(ran.get("input_path") or path.stem).stem, []).append(path)
            seen.add(run)
    return found


def runs_of(profile: str) -> Path:
    "Where executed notebooks are: this machine's, or those that were kept; of sources that are not for everybody only the latter."
    own = ROOT / "outputs" / profile / "runs"
    return own if any(own.glob("*.ipynb")) and not closed_sources(Settings(profile, root=ROOT)) else KEPT / profile


def keep(
    profile: str,
    out: Path,  # the profile's folder, where the study was run
) -> None:
    "Copy executed notebooks to docs/executed, small; raises `ValueError` where one holds words of a source that is not for everybody."
    from unirg.data.leaks import scan_for_credentialed_content
    from unirg.data.studies import Studies

    places = [out / "data" / name for name in closed_sources(Settings(profile, root=ROOT))]
    if gone := [place for place in places if not place.is_dir()]:
        raise ValueError(f"{gone[0]} is not there, so its words cannot be looked for in the notebooks")
    (KEPT / profile).mkdir(parents=True, exist_ok=True)
    for path in (KEPT / profile).glob("*.ipynb"):
        path.unlink()
    kept = []
    for path in [path for paths in executed(profile, out / "runs").values() for path in paths]:
        book = nbformat.read(path, as_version=4)
        for cell in book.cells:
            cell.metadata = nbformat.from_dict({"tags": cell.metadata.get("tags", [])})
            if cell.cell_type == "code":
                cell.outputs = [smaller(output) for output in shown_outputs(cell.outputs)]
        task = {"input_path": book.metadata.papermill["input_path"].rpartition("/")[2], "commit": commit_of(path)}
        task["end_time"] = book.metadata.papermill["end_time"]
        book.metadata = nbformat.from_dict({"kernelspec": book.metadata.kernelspec, "papermill": task})
        kept.append(KEPT / profile / path.name)
        kept[-1].write_text(nbformat.writes(book).replace(f"{out.resolve().parents[1]}/", "") + "\n", encoding="utf-8")
    closed = [Studies.load(place).table for place in places]
    for found in scan_for_credentialed_content(kept, closed) if closed else []:
        if found["phrases"]:
            Path(found["file"]).unlink()
            raise ValueError(f"{found['file']} held words of a source that is not for everybody, and is not kept")
        print(f"{found['file']}: {found['films']} picture(s) may be films: look at them")


def smaller(output):
    "An output with its pictures in few colours, and progress without its steps: a tenth of the bytes."
    if output.output_type == "stream":
        lines = output.text.splitlines(keepends=True)
        output.text = "".join(line for line in lines if not re.search(r" a second, .* left", line)).strip("\n")
    if len(output.get("data", {})) > 1:
        output.data.pop("text/plain", None)  # the page takes the table or the picture
    if picture := output.get("data", {}).get("image/png"):
        image, data = Image.open(io.BytesIO(base64.b64decode(picture))).convert("RGB"), io.BytesIO()
        image.quantize(64, dither=Image.Dither.NONE).save(data, "PNG", optimize=True)
        output.data["image/png"] = base64.b64encode(data.getvalue()).decode()
    return output


def commit_of(path: Path) -> str:
    "The commit that an executed notebook was run at, from the notebook if it was kept, else from the record beside it."
    if commit := json.loads(path.read_text(encoding="utf-8"))["metadata"].get("papermill", {}).get("commit"):
        return commit
    return read_json(record).get("commit") or "" if (record := path.with_suffix(".json")).is_file() else ""


def study_pages() -> dict[str, str]:
    "Study notebooks as they were executed where they were, else as they are."
    profiles = os.environ.get("UNIRG_DOCS_PROFILES", "phantom openi").split()
    runs = {profile: executed(profile, runs_of(profile)) for profile in profiles}
    pages, lines, entries, more = {}, [], [], {}
    for notebook in sorted(NOTEBOOKS.glob("study/*.ipynb")):
        name, (title, said) = notebook.stem, heading(notebook)
        tasks = [(profile, path) for profile in profiles for path in runs[profile].get(name, [])]
        entries += [f"{title.split(':')[0]} <{name}>"]
        if not tasks:
            pages[f"study/{name}.ipynb"] = page(notebook, f"Source: `nbs/study/{name}.ipynb`, without outputs.")
        links = {}
        for i, (profile, path) in enumerate(tasks):
            place = f"{name}-{profile}-{path.stem}" if i else name
            added = f" ({profile}, {path.stem})" if len(tasks) > 1 else ""
            simulated = " **Simulated data: the phantom.**" if profile.startswith("phantom") else ""
            at = f" at commit `{commit.split('-')[0]}`" if (commit := commit_of(path)) else ""
            note = f"Source: `nbs/study/{name}.ipynb`. Executed as task `{path.stem}` of profile `{profile}`{at}.{simulated}"
            pages[f"study/{place}.ipynb"] = page(path, note, added, fold=True)
            links.setdefault(profile, []).append(f"[{path.stem}]({place}.ipynb)")
            if i:
                more.setdefault(profile, []).append((path.stem, place))
        ran = "".join(f"\\\n  {profile}: {' · '.join(found)}" for profile, found in links.items())
        lines += [f"- [{title}]({name}.ipynb): {said}{ran}"]
    for profile, found in more.items():
        listed = [f"- [{task}]({place}.ipynb)" for task, place in found]
        inner = tree(*(f"{task} <{place}>" for task, place in found))
        pages[f"study/more-{profile}.md"] = "\n".join([f"# More tasks of {profile}", "", *listed, "", inner])
        entries += [f"more-{profile}"]
    told = (
        "Each notebook is a task of the study, shown with the outputs of one seed of each run where it was executed, else as it is in the "
        "repository. The phantom's films, patients and reports are simulated. Of Open-I no film and no report is shown."
    )
    pages["study/index.md"] = "\n".join(["# The study's notebooks", "", told, "", *lines, "", tree(*entries)])
    return pages


# ---------------------------------------------------------------- claims

CLAIMS = [  # what the paper claims, the panel, and the rows of its CSV that are the same comparison
    ("RL after SFT writes better reports than SFT", "fig_answer", {"family": "primary", "against": "sft", "measure": "composite_step1"}),
    ("They hold fewer errors", "fig_answer", {"family": "primary", "against": "sft", "measure": "judged_errors"}),
    ("RL does more than SFT that goes on for the same compute (the paper has no such control)", "fig_answer",
     {"family": "primary", "against": "sft_matched", "measure": "composite_step1"}),
    ("The second step of RL, with its error term, leaves fewer errors than the first", "table_claims", {"claim": "steps"}),
    ("A combined reward does better on balance than one measure alone", "table_claims", {"claim": "combined"}),
    ("RL given the prior does better than SFT without it", "fig_3a", {"run": "rl1_prior", "against": "sft", "measure": "composite_step1"}),
]  # fmt: skip
NOT_RUN = [
    "First on ReXrank's board with an 8B model",
    "Better at archives of patients left out of training",
    "Errors counted by a large language model as the judge",
]
STATUS = {"▲": "shown", "▼": "the opposite", "○": "undecided"}


def claims_table(
    figures: Path,  # of the committed profile
    sets: Sets,
) -> str:  # Markdown
    "The paper's claims beside ours, each with its sign; a claim is shown in part where only some of its comparisons are."
    lines = ["| The paper's claim | On the phantom | Status |", "|---|---|---|"]
    for claim, panel, asked in CLAIMS:
        rows, cells, signs = pd.read_csv(figures / f"{panel}.csv"), [], []
        for column, value in asked.items():
            rows = rows[rows[column] == value]
        if rows.empty:
            raise ValueError(f"{panel}.csv has no row of {asked}: docs/pages.py names it as a claim")
        for row in rows.to_dict("records"):
            signs.append(SIGNS[decide(row, up_is_better=row["measure"] == "balance")])
            bounds = f"[{number(row['difference_low'], True)}, {number(row['difference_high'], True)}]"
            against = f", against {row['against'].removeprefix('rl_')} alone" if row.get("claim") == "combined" else ""
            cells.append(f"{signs[-1]} {number(row['difference'], True)} {bounds} {sets.name(row['dataset'])}{against}")
        status = STATUS[signs[0]] if len(set(signs)) == 1 else "shown in part" if "▲" in signs and "▼" not in signs else "mixed"
        lines.append(f"| {claim} | {'<br>'.join(cells)} (`{panel}.csv`) | {status} |")
    return "\n".join([*lines, *(f"| {claim} | | not run by us |" for claim in NOT_RUN)]) + "\n"


# ---------------------------------------------------------------- reference


def plain(text: str) -> str:
    "Text whose signs mean nothing to markdown, outside code."
    parts = re.split(r"(`[^`]*`)", " ".join(text.split()))
    return "".join(part if part[:1] == "`" else re.sub(r"([*_<>\[\]{}$|\\`#])", r"\\\1", part) for part in parts)


def comments_of(source: str) -> dict[int, str]:
    "The comment on each line."
    tokens = tokenize.generate_tokens(io.StringIO(source).readline)
    return {t.start[0]: t.string.lstrip("#! ") for t in tokens if t.type == tokenize.COMMENT and not t.string.startswith("# %%")}


def parameters(
    named: list[tuple[str, int]],  # parameters or fields with their lines
    end: int,  # the line behind the last
    comments: dict[int, str],
) -> list[str]:
    "Field list of the parameters that have a comment, which stands on a parameter's own lines."
    stops = [line for _, line in named[1:]] + [end]
    said = [(name, [comments[k] for k in range(line, stop) if k in comments]) for (name, line), stop in zip(named, stops)]
    return [f":param {name}: {plain(' '.join(texts))}" for name, texts in said if texts]


def brief(default: ast.expr) -> ast.expr:
    "A default that a signature can show."
    return ast.Constant(...) if any(isinstance(part, ast.comprehension | ast.Lambda) for part in ast.walk(default)) else default


def function(node, comments: dict[int, str], method: bool = False) -> tuple[str, list[str]]:
    "Signature and description of a function or method."
    args = node.args
    if method and args.args and not any(getattr(d, "id", "") == "staticmethod" for d in node.decorator_list):
        args.args = args.args[1:]
    args.defaults = [brief(default) for default in args.defaults]
    args.kw_defaults = [default and brief(default) for default in args.kw_defaults]
    every = [*args.posonlyargs, *args.args, args.vararg, *args.kwonlyargs, args.kwarg]
    named = [(arg.arg, arg.lineno) for arg in every if arg]
    body = [plain(ast.get_docstring(node) or ""), ""]
    body += parameters(named, node.returns.lineno if node.returns else node.body[0].lineno, comments)
    if node.returns and node.returns.end_lineno in comments:
        body += [f":returns: {plain(comments[node.returns.end_lineno])}"]
    returns = f" -> {ast.unparse(node.returns)}" if node.returns and node.name != "__init__" else ""
    return f"({ast.unparse(args)}){returns}", body


def directive(kind: str, name: str, body: list[str], depth: int = 4, options: tuple[str, ...] = ()) -> list[str]:
    return [f"{'`' * depth}{{py:{kind}}} {name}", *options, "", *body, "`" * depth, ""]


def class_entry(node: ast.ClassDef, comments: dict[int, str]) -> list[str]:
    "A class: how it is made, its fields, its public methods and properties."
    methods = [item for item in node.body if isinstance(item, ast.FunctionDef | ast.AsyncFunctionDef)]
    fields = [item for item in node.body if isinstance(item, ast.AnnAssign) and isinstance(item.target, ast.Name)]
    made, body, ends = "", [plain(ast.get_docstring(node) or ""), ""], [item.end_lineno + 1 for item in fields]
    if init := next((item for item in methods if item.name == "__init__"), None):
        made, about = function(init, comments, method=True)
        body += about
    elif fields:
        made = f"({', '.join(ast.unparse(item) for item in fields)})"
        for item, end in zip(fields, ends):
            body += parameters([(item.target.id, item.lineno)], end, comments)
    body += [""]
    for item in methods:
        marks = {getattr(d, "id", getattr(d, "attr", "")) for d in item.decorator_list}
        if item.name.startswith("_") and (item.name != "__call__" or not ast.get_docstring(item)):
            continue
        signature, about = function(item, comments, method=True)
        if marks & {"property", "cached_property"}:
            kind = (f":type: {json.dumps(ast.unparse(item.returns))}",) if item.returns else ()
            body += directive("property", item.name, about, 4, kind)
        else:
            options = tuple(f":{mark}:" for mark in sorted(marks & {"classmethod", "staticmethod"}))
            body += directive("method", item.name + signature, about, 4, options)
    return directive("class", node.name + made, body, 6)


def module_page(path: Path, module: str, notebook: str) -> str:
    "The public names of a module, in its own order."
    source = path.read_text(encoding="utf-8")
    parsed, comments = ast.parse(source), comments_of(source)

    def targets(node):
        return [ast.unparse(target) for target in (node.targets if isinstance(node, ast.Assign) else [node.target])]

    assigned = {name: node for node in parsed.body if isinstance(node, ast.Assign | ast.AnnAssign) for name in targets(node)}
    public = set(ast.literal_eval(assigned["__all__"].value)) if "__all__" in assigned else set()
    lines = [f"# unirg.{module}", "", plain(ast.get_docstring(parsed) or ""), "", f"Notebook: [{module}](../library/{notebook}.ipynb).", ""]
    lines += [f"```{{py:module}} unirg.{module}", "```", ""]
    for node in parsed.body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.name in public:
            signature, body = function(node, comments)
            lines += directive("function", node.name + signature, body)
        elif isinstance(node, ast.ClassDef) and node.name in public:
            lines += class_entry(node, comments)
        elif isinstance(node, ast.Assign | ast.AnnAssign):
            for name in sorted(public.intersection(targets(node))):
                value = ast.unparse(node.value) if node.value else ""
                options = (f":value: {json.dumps(value)}",) if 0 < len(value) < 200 else ()
                lines += directive("data", name, [plain(comments.get(node.end_lineno, ""))], 4, options)
    return "\n".join(lines)


def reference_pages() -> dict[str, str]:
    "A page a module."
    pages, lines = {}, ["# Reference", ""]
    lines += ["Public names with their signatures. A parameter's line says its shape, unit or range. The text says what is raised.", ""]
    found = {}
    for notebook in library():
        module = module_of(notebook)
        path = PACKAGE / f"{module.replace('.', '/')}.py"
        found[module] = module_page(path, module, notebook.relative_to(NOTEBOOKS).with_suffix("").as_posix())
        lines += [f"- [unirg.{module}]({module}.md): {plain(ast.get_docstring(ast.parse(path.read_text(encoding='utf-8'))) or '')}"]
    pages |= {f"reference/{module}.md": text for module, text in found.items()}
    pages["reference/measures.txt"] = "".join(f"`{name}`\n: {plain(said)}\n\n" for name, said in MEASURES.items())
    pages["reference/claims.txt"] = claims_table(ROOT / "outputs" / "phantom" / "figures", sets_of(ROOT, "phantom"))
    return pages | {"reference/index.md": "\n".join([*lines, "", tree(*found)])}


if __name__ == "__main__":
    keep(sys.argv[1], Path(sys.argv[2]) if len(sys.argv) > 2 else ROOT / "outputs" / sys.argv[1])
