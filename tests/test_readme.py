"README as a newcomer reads it: short, its blocks and links working, its words free of results, its results those of the committed CSVs."

import re
import shlex
import statistics
import tomllib
from pathlib import Path

import pandas as pd
import pytest

from unirg.analysis.report import sets_of, with_results
from unirg.core import Settings, StudyError

ROOT = Path(__file__).parents[1]
TEXT = (ROOT / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```(\w+)\n(.*?)```", TEXT, re.S)
PROSE = re.sub(r"<!--.*?-->|```.*?```|!\[[^\]]*\]\([^)]*\)", "", TEXT, flags=re.S)
PARAGRAPHS = [part for part in re.split(r"\n\s*\n|\n(?=[-#|])", PROSE) if part.strip() and not part.lstrip().startswith(("|", "#"))]
COMMANDS = [line.split("#")[0].strip() for kind, block in BLOCKS if kind == "bash" for line in block.replace("\\\n", "").splitlines()]
LINKS = re.findall(r"\]\(([^)#]+)\)", TEXT)
NUMBER = re.compile(r"(?<![\w.])[-+]?\d[\d,]*(?:\.\d+)?")


def words(text):
    return [word for word in text.split() if re.search(r"\w", word)]


def test_it_is_a_page():
    assert len(words(TEXT)) <= 900 and len(TEXT.splitlines()) <= 150
    assert max(len(words(part)) for part in PARAGRAPHS) <= 60
    plain = re.sub(r"\]\([^)]*\)|[`*|_]", "", "\n\n".join(PARAGRAPHS))
    sentences = [one for one in re.split(r"(?<=[.!?:])\s+", plain) if words(one)]
    assert len(sentences) > 20 and statistics.median(len(words(one)) for one in sentences) <= 15


def test_the_first_command_comes_soon_and_the_warning_before_it():
    before = TEXT[: TEXT.index("```")]
    assert len(words(before)) <= 120 and "not for clinical use" in before and before.count("![") == 1


def test_its_parts_stand_in_order():
    heads = ["Start", "The answer", "Try a trained policy", "Your own data", "The paper's profile on GPUs", "The rewards in TRL"]
    assert re.findall(r"^## (.+)$", TEXT, re.M) == [*heads, "What is where", "Limits", "Cite"]
    assert TEXT.index("**SFT + RL**") < TEXT.index("\n|"), "the key of run names comes before the first table"


def test_the_answer_is_five_rows_by_three_columns_at_most():
    table = re.search(r"<!-- answer of .*?(\n\|.*?)\n\n", TEXT, re.S)[1].strip().splitlines()
    assert len(table) - 2 <= 5 and all(line.count("|") == 5 for line in table)


@pytest.mark.parametrize("link", sorted(set(LINKS)))
def test_a_link_leads_somewhere(link):
    assert link.startswith("https://") or (ROOT / link).exists()


@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_is_there(command):
    scripts = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["scripts"]
    name, *arguments = command.split()
    if name == "make":
        assert re.search(rf"^{arguments[0]}:", (ROOT / "Makefile").read_text(), re.M)
        return
    assert name.startswith(".venv/bin/") and Path(name).name in {*scripts, "pip"}
    settings = (ROOT / "settings.ini").read_text() + "\n".join(block for kind, block in BLOCKS if kind == "ini")
    if "--profile" in arguments:
        assert f"[{arguments[arguments.index('--profile') + 1]}]" in settings


def test_the_commands_of_generate_are_known_and_the_first_one_runs_without_training(capsys, monkeypatch):
    from unirg.training.submission import main

    with pytest.raises(SystemExit) as ended:
        main(["--help"])
    film, submission = [one for one in COMMANDS if "unirg-generate" in one]
    known = capsys.readouterr().out
    assert ended.value.code == 0 and all(option in known for option in re.findall(r"--\w+", film + submission))
    monkeypatch.chdir(ROOT)
    main(shlex.split(film)[1:])
    assert "Findings:" in capsys.readouterr().out


def test_the_settings_shown_are_understood(tmp_path):
    (block,) = [block for kind, block in BLOCKS if kind == "ini"]
    (tmp_path / "settings.ini").write_text((ROOT / "settings.ini").read_text() + "\n" + block)
    settings = Settings("my_study", root=tmp_path)
    name = settings.get("sources")
    assert settings.section(f"source:{name}")["layout"] == "table" and settings.reader_options(name)["patient_id"] == "mrn"
    assert any(one.endswith(f"--profile my_study prepare-{name}") for one in COMMANDS)


def test_the_python_block_runs():
    (block,) = [block for kind, block in BLOCKS if kind == "python"]
    assert len([line for line in block.splitlines() if line.strip()]) <= 13
    made = {}
    exec(block, made)
    assert made["facts"]("Small left effusion, increased.")[0].change and callable(made["train"])
    assert made["chexpert_labels"]("Possible pneumonia.")["Pneumonia"] == -1
    right, wrong = made["reward"](["Lungs are clear.", "Large effusion."], reference=["Clear lungs."] * 2)
    assert right > wrong


def test_it_is_what_the_committed_tables_say():
    assert with_results(TEXT, ROOT) == TEXT, "run `make readme`"


def test_every_number_of_the_answer_stands_in_its_csv():
    block = re.search(r"<!-- answer of (\w+):.*?-->\n(.*?)!\[", TEXT, re.S)
    table = pd.read_csv(ROOT / "outputs" / block[1] / "figures" / "fig_answer.csv")
    table = table[table.family == "primary"]
    values = table.select_dtypes("number").to_numpy().ravel()
    tokens = NUMBER.findall(re.sub(r"F1", "", block[2]))
    for token in tokens:
        half = 0.5 * 10 ** -len(token.partition(".")[2]) + 1e-9
        assert any(abs(value - float(token.replace(",", ""))) <= half for value in values), token
    assert len(tokens) > 20


BEGIN = TEXT.index("<!-- answer of")
DIGITS = [BEGIN + found.start() for found in re.finditer(r"\d", TEXT[BEGIN : TEXT.index("<!-- end", BEGIN)])]


@pytest.mark.parametrize("at", DIGITS[5::7])
def test_a_changed_digit_is_seen(at):
    changed = TEXT[:at] + str((int(TEXT[at]) + 1) % 10) + TEXT[at + 1 :]
    assert with_results(changed, ROOT) == TEXT != changed


def test_words_outside_the_blocks_hold_no_result():
    "Numbers by hand are those of machines, versions and settings."
    outside = re.sub(r"<!-- (\w+) of .*?<!-- end -->|```.*?```|\]\([^)]*\)", "", TEXT, flags=re.S)
    assert not re.findall(r"\d+\.\d{2,}(?!\d*\])|\d ?%", re.sub("2601.17151|Python 3.11", "", outside))


def test_readme_without_its_blocks_is_an_error():
    with pytest.raises(StudyError, match="no block"):
        with_results("# nothing", ROOT)


def test_a_profile_says_which_sets_are_unseen_and_which_are_made():
    sets = sets_of(ROOT, "phantom")
    assert "rexrank" in sets.unseen and "rexrank" in sets.simulated and "covid_cases" not in sets.simulated


@pytest.mark.parametrize("page", ["README.md", "docs/clusters.md"])
def test_an_installation_on_gpus_takes_the_weights_that_looks_want(page):
    "MiniLM's: a training that ends for want of them would do so after days of preparing."
    blocks = re.findall(r"```\w*\n(.*?)```", (ROOT / page).read_text(encoding="utf-8"), re.S)
    installs = [block for block in blocks if re.search(r"\[gpu\b", block)]
    assert installs and all("minilm" in block for block in installs)
