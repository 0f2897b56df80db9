"""Pages that the build makes: every notebook, and the reference, which is read from the modules without importing them."""

import ast
import io
import json
import os
import re
import tokenize
from pathlib import Path

import nbformat
from docutils.nodes import SkipNode  # noqa: F401  (conf.py raises it)

from unirg.core import Settings
from unirg.reward.composite import MEASURES

ROOT = Path(__file__).resolve().parents[1]
NOTEBOOKS, PACKAGE = ROOT / "nbs", ROOT / "unirg"
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
) -> str:  # the page, a notebook too
    "A notebook as a page: nbdev's directives go, outputs stay, but for widgets, which want scripts from elsewhere."
    book = nbformat.read(notebook, as_version=4)
    cells = []
    for cell in book.cells:
        if cell.cell_type == "code":
            if re.match(r"#\| *(default_exp|hide)\b", cell.source):
                continue
            cell.source = re.sub(r"^#\|.*\n?", "", cell.source, flags=re.M)
            for output in cell.outputs:
                output.get("data", {}).pop("application/vnd.jupyter.widget-view+json", None)
            cell.metadata = nbformat.from_dict({})
        cells.append(cell)
    first = next(cell for cell in cells if cell.cell_type == "markdown")
    head, _, rest = first.source.partition("\n")
    first.source = f"{head}{title}\n{rest}\n\n{note}"
    book.cells, book.metadata = cells, nbformat.from_dict({"kernelspec": book.metadata.get("kernelspec", {})})
    return nbformat.writes(book).replace(f"{ROOT}/", "")  # no path of this machine


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


def executed(profile: str) -> dict[str, list[Path]]:
    "Executed notebooks by study notebook, one seed of each run; raises `ValueError` for a profile with credentialed sources."
    settings = Settings(profile, root=ROOT)
    for source in settings.listed("sources"):
        if settings.section(f"source:{source}").get("credentialed") != "no":
            raise ValueError(f"{profile}: {source} is not marked 'credentialed = no'; its notebooks go on no page")
    made = {name for name in settings.listed("sources") if settings.section(f"source:{name}").get("root", "").startswith("{out}/")}
    shown = {f"prepare-{name}" for name in made} if made else {f"prepare-{name}" for name in settings.listed("sources")}
    found, seen = {}, set()
    for path in sorted((ROOT / "outputs" / profile / "runs").glob("[!.]*.ipynb")):
        ran = json.loads(path.read_text(encoding="utf-8"))["metadata"].get("papermill", {})
        run = re.sub(r"-s\d+$", "", path.stem)
        if run not in seen and not ran.get("exception") and (path.stem in shown or not path.stem.startswith("prepare-")):
            found.setdefault(Path(ran.get("input_path") or path.stem).stem, []).append(path)
            seen.add(run)
    return found


def study_pages() -> dict[str, str]:
    "Study notebooks as they were executed where they were, else as they are."
    profiles = os.environ.get("UNIRG_DOCS_PROFILES", "phantom").split()
    runs = {profile: executed(profile) for profile in profiles}
    pages, lines, entries = {}, [], []
    for notebook in sorted(NOTEBOOKS.glob("study/*.ipynb")):
        name, (title, said) = notebook.stem, heading(notebook)
        tasks = [(profile, path) for profile in profiles for path in runs[profile].get(name, [])]
        lines += [f"- [{title}]({name}.ipynb): {said}"]
        entries += [f"{title.split(':')[0]} <{name}>"]
        if not tasks:
            pages[f"study/{name}.ipynb"] = page(notebook, f"Source: `nbs/study/{name}.ipynb`, without outputs.")
        for i, (profile, path) in enumerate(tasks):
            place = f"{name}-{profile}-{path.stem}" if i else name
            added = f" ({profile}, {path.stem})" if len(tasks) > 1 else ""
            note = f"Source: `nbs/study/{name}.ipynb`. Executed as task `{path.stem}` of profile `{profile}`."
            pages[f"study/{place}.ipynb"] = page(path, note, added)
            if i:
                lines += [f"  - [{path.stem} of {profile}]({place}.ipynb)"]
                entries += [f"{path.stem} <{place}>"]
    told = (
        "Each notebook is a task of the study. Those that were executed on this machine are shown with their outputs, one seed of each "
        "run. The others are shown as they are in the repository. The phantom's films, patients and reports are simulated."
    )
    pages["study/index.md"] = "\n".join(["# The study's notebooks", "", told, "", *lines, "", tree(*entries)])
    return pages


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
    return pages | {"reference/index.md": "\n".join([*lines, "", tree(*found)])}
