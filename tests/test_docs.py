"""Pages written by commands name what the tests hold, links lead somewhere, and commands of the pages can be run."""

import importlib.util
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import encoders
import pytest
import torch

from attention_guidance.commands.cli import _parser, main
from attention_guidance.patterns import get_pattern
from benchmarks import forked

ROOT = Path(__file__).parents[1]
PAGES = [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), *(ROOT / "benchmarks").rglob("*.md")]
PAGES.sort()


def test_support_names_every_encoder():
    page = (ROOT / "docs" / "support.md").read_text(encoding="utf-8")
    encoders_part, ways_part = page.split("## Ways of training")
    rows = re.findall(r"^\| (\w+) \| (yes|NO)", encoders_part, re.MULTILINE)
    assert "NO" not in ways_part
    assert [name for name, _ in rows] == [*encoders.GUIDABLE, *encoders.OUTSIDE]
    assert {answer for _, answer in rows} == {"yes"}


def test_support_lists_every_way_of_training(monkeypatch):
    """Each row of the table is there, and the tests behind it are where `docs/tables.py` looks for them."""
    monkeypatch.syspath_prepend(ROOT / "docs")
    ways = importlib.import_module("tables").WAYS
    rows = (ROOT / "docs" / "support.md").read_text(encoding="utf-8").split("## Ways of training")[1]
    assert re.findall(r"^\| (.+?) \| yes \|", rows, re.MULTILINE) == list(ways)
    for test in {test for tests, _ in ways.values() for test in tests}:
        file, _, name = test.partition("::")
        assert name.startswith("*") or re.search(rf"\b{name}", (ROOT / file).read_text(encoding="utf-8")), test


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page):
    links = re.findall(r"\]\((?!https?:)([^)#]+)", page.read_text(encoding="utf-8"))
    assert [link for link in links if not (page.parent / link).exists()] == []


def test_settings_are_those_declared():
    """`python docs/settings.py` writes the page again."""
    command = [sys.executable, str(ROOT / "docs" / "settings.py"), "--check"]
    done = forked.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_what_is_promised_is_tested():
    """docs/reliability.md names files of tests, or single tests, for each promise."""
    page = (ROOT / "docs" / "reliability.md").read_text(encoding="utf-8").split("## What was measured")[0]
    named = set(re.findall(r"`([\w/]+\.py)(?:::(\w+))?`", page))
    assert len(named) > 30
    for file, test in named:
        path = ROOT / file if file.startswith("tests/") else ROOT / "tests" / "commands" / file
        assert re.search(rf"def {test or 'test_'}", path.read_text(encoding="utf-8")), (file, test)
    assert all(re.search(r"`(\w|/)+\.py|make ", row) for row in re.findall(r"^\| [A-Z].*", page, re.MULTILINE))


@pytest.mark.parametrize(
    ("name", "least"),
    [
        ("pretraining.convergence", 9),
        ("cost.product", 9),
        ("downstream.low_resource", 6),
        ("reliability.summary", 10),
        ("downstream.minimal_pairs", 4),
        ("heads.ablation", 8),
    ],
)
def test_tables_are_what_is_kept(name, least):
    command = [sys.executable, "-m", f"benchmarks.{name}", "--show"]
    shown = forked.run(command, capture_output=True, text=True, check=True, cwd=ROOT).stdout.splitlines()
    pages = "".join(page.read_text(encoding="utf-8") for page in PAGES)
    assert len(shown) >= least
    assert [line for line in shown if line not in pages] == []


def test_benchmarks_that_pages_name_are_there():
    """And `benchmarks/README.md` lists all that have a command line."""
    pages = {page: page.read_text(encoding="utf-8") for page in PAGES}
    named = {name for text in pages.values() for name in re.findall(r"python -m (benchmarks(?:\.\w+)+)", text)}
    assert len(named) > 10
    assert [name for name in named if importlib.util.find_spec(name) is None] == []
    rows = [row for row in pages[ROOT / "benchmarks" / "README.md"].splitlines() if ".jsonl)" in row]
    listed = [name for row in rows for name in re.findall(r"`([\w.]+)`", row.split(" | ")[1])]
    sources = [path for path in (ROOT / "benchmarks").glob("*/*.py") if "ArgumentParser(" in path.read_text()]
    assert sorted(listed) == sorted(f"{path.parent.name}.{path.stem}".removesuffix(".__main__") for path in sources)


def test_the_first_program_runs_as_it_stands(capsys):
    """README's first block of Python, pasted into an empty file; here with fewer steps."""
    program = re.search(r"```python\n(.+?)```", (ROOT / "README.md").read_text(encoding="utf-8"), re.DOTALL)[1]
    assert "range(300)" in program
    torch.manual_seed(0)
    exec(program.replace("range(300)", "range(12)"), {"__name__": "__main__"})
    first, *layers = capsys.readouterr().out.splitlines()
    assert first.startswith("6 of 8 heads of BertForMaskedLM guided: weight 0.1")
    assert [re.sub(r" \d\.\d{4}", " x", layer) for layer in layers] == [
        f"  layer {n}: next@0 x, previous@1 x, first@2 x" for n in range(2)
    ]


def commands_of(text: str) -> list[list[str]]:
    """The words of every complete command that begins a line of the text; `...` stands for the rest of one."""
    lines = text.replace("\\\n", " ").splitlines()
    commands = [shlex.split(line, comments=True) for line in lines if re.match(r" *attention-guidance [a-z]", line)]
    return [words[1:] for words in commands if "..." not in words]


def helps() -> dict[str, str]:
    """What --help prints above its flags, of every command that has examples."""
    actions = _parser()._subparsers._group_actions[0].choices
    return {name: parser.description for name, parser in actions.items() if commands_of(parser.description or "")}


EXAMPLES = {
    f"{source}: {' '.join(words)}": words
    for source, text in ({page.name: page.read_text(encoding="utf-8") for page in PAGES} | helps()).items()
    for words in commands_of(text)
}


@pytest.mark.parametrize("words", EXAMPLES.values(), ids=EXAMPLES)
def test_commands_are_accepted(words):
    """Every argument is a flag's or looks like a path or a name: what a line says beside its command is a comment."""
    arguments = vars(_parser().parse_args(words))
    given = [value for name in ("corpus", "model", "runs", "data") for value in _texts(arguments.get(name))]
    assert [value for value in given if not re.search(r"[./-]|^[A-Z]+$", value)] == []


IMPORTS = {
    f"{page.name}: {line}": line
    for page in PAGES
    for block in re.findall(r"```python\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL)
    for line in re.findall(r"^(?:from|import) .*", block, re.MULTILINE)
}


@pytest.mark.parametrize("line", IMPORTS.values(), ids=IMPORTS)
def test_imports_of_python_blocks_work(line):
    exec(compile(line, "docs", "exec"), {})


def _texts(value):
    return [str(part) for part in value] if isinstance(value, list) else [str(value)] if value else []


def test_patterns_that_help_names_exist():
    """`--heads` lists the patterns by name; `offset:K` stands for any number."""
    help_text = _parser()._subparsers._group_actions[0].choices["pretrain"].format_help()
    listed = re.search(r"Patterns: (.*?), a class of", re.sub(r"\s+", " ", help_text))[1]
    tokenizers_own = {"delimiter", "period"}
    names = {name.split()[0].replace("K", "-2") for name in listed.split(", ")} - tokenizers_own
    assert {get_pattern(name).name for name in names} >= {"up", "down", "left", "right", "class_token"}


@pytest.mark.skipif(shutil.which("make") is None, reason="needs make")
@pytest.mark.parametrize("stopped", [False, True], ids=["first time", "after a stop"])
def test_make_demo_trains(stopped, tmp_path, monkeypatch):
    """The command of `make demo` reaches the training, in a folder that is new and in one with a run to resume."""
    trained = []
    monkeypatch.setattr(
        "attention_guidance.commands.pretraining.compare.compare", lambda config, output, **how: trained.append(config)
    )
    for name in ("Makefile", "pyproject.toml", "constraints.txt"):
        shutil.copy(ROOT / name, tmp_path)
    monkeypatch.chdir(tmp_path)
    if stopped:
        (tmp_path / "demo/seed-1").mkdir(parents=True)
        (tmp_path / "demo/seed-1/run.yaml").write_text("preset: tiny\nseed: 1\n")
    shown = subprocess.run(["make", "-n", "demo"], capture_output=True, text=True, check=True).stdout
    (line,) = re.findall(r"^\S*/(attention-guidance compare .*)", shown.replace("\\\n", " "), re.MULTILINE)
    with pytest.raises(SystemExit) as ended:
        main(shlex.split(line)[1:])
    assert ended.value.code == 0
    assert [(config.preset, config.seed) for config in trained] == [("tiny", 1)]
