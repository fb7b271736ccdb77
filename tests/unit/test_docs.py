"""The pages of docs/ and the headers of the recipes: commands that exist, files that exist, an example that works."""

from __future__ import annotations

import importlib
import re
import shlex
from itertools import pairwise
from pathlib import Path

import click
import pytest

from wellread.training.recipes import load_recipe

ROOT = Path(__file__).parents[2]
NAMES = ("training", "retrieval", "memory", "systems", "retro", "reveal", "pictures")
PAGES = [ROOT / "docs" / f"{name}.md" for name in NAMES]
PAGES += [ROOT / "README.md", ROOT / "recipes" / "papers" / "README.md"]
HEADED = sorted((ROOT / "recipes").rglob("*.toml"))


def lines_of(path: Path) -> list[str]:
    """The lines of a page's shell blocks, or of a recipe's header, with continued lines joined."""
    text = path.read_text(encoding="utf8")
    if path.suffix == ".md":
        text = "".join(re.findall(r"^```sh\n(.*?)^```", text, flags=re.DOTALL | re.MULTILINE))
    else:
        text = re.sub(r"^#\s+(\w+:\s+)?", "", text, flags=re.MULTILINE)
    return text.replace("\\\n", " ").splitlines()


def commands_of(path: Path) -> list[list[str]]:
    """The words after `wellread` of every command."""
    found = (re.search(r"(?:^|\$\(which )wellread\)? (.*)", line) for line in lines_of(path))
    return [shlex.split(match[1], comments=True) for match in found if match]


def unknown_options(words: list[str]) -> list[str]:
    """What a command line names that the command does not have."""
    from wellread.cli.main import VERBS

    if words[0] not in VERBS:
        return [words[0]]
    command = importlib.import_module(VERBS[words[0]][0]).command
    rest = words[1:]
    if isinstance(command, click.Group):
        if rest[0] not in command.commands:
            return rest[:1]
        command, rest = command.commands[rest[0]], rest[1:]
    known = {name for parameter in command.params for name in (*parameter.opts, *parameter.secondary_opts)}
    return [word for word in rest if word.startswith("--") and word.partition("=")[0] not in known]


@pytest.mark.parametrize("path", [*PAGES, *HEADED], ids=lambda path: str(path.relative_to(ROOT)))
def test_commands_name_verbs_and_options_that_exist(path):
    commands = commands_of(path)
    assert commands or path.parent.name == "parts" or path in PAGES
    assert {" ".join(words): wrong for words in commands if (wrong := unknown_options(words))} == {}


def test_the_check_of_commands_can_fail():
    assert unknown_options(["aks", "Which?"]) == ["aks"]
    assert unknown_options(["train", "r.toml", "--ste", "x=1"]) == ["--ste"]
    assert unknown_options(["memory", "forget", "memory"]) == ["forget"]
    assert commands_of(ROOT / "docs" / "training.md")[-1] == ["train", "recipes/example.toml"]  # behind torchrun


@pytest.mark.parametrize("path", PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_recipes_take_the_settings_they_are_given(path, monkeypatch):
    for name in ("WELLREAD_DATA", "WELLREAD_PAPERS", "T5"):
        monkeypatch.setenv(name, "somewhere")
    for words in commands_of(path):
        if words[0] == "train" and (ROOT / words[1]).is_file():
            load_recipe(ROOT / words[1], [value for option, value in pairwise(words) if option == "--set"])


@pytest.mark.parametrize("path", PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_links_and_paths_lead_somewhere(path):
    text = path.read_text(encoding="utf8")
    for target in re.findall(r"\]\((?!http)([^)#]+)\)", text):
        assert (path.parent / target).exists(), target
    for named in re.findall(r"\b(?:src|tests|recipes|docs)/[\w/.-]+\.\w+", text):
        assert (ROOT / named).exists(), named


def test_the_system_of_the_page_is_one(tiny, tmp_path, monkeypatch):
    """docs/systems.md: its file is a system that reads `keep` passages, and its line is one of the table's form."""
    text = (ROOT / "docs" / "systems.md").read_text(encoding="utf8")
    file, line = re.findall(r"^```python\n(.*?)^```", text, flags=re.DOTALL | re.MULTILINE)
    (tmp_path / "example_of_the_page.py").write_text(file, encoding="utf8")
    monkeypatch.syspath_prepend(tmp_path)
    module = importlib.import_module("example_of_the_page")
    system = module.Few(module.FewConfig(keep=3), tiny.reader("t5"))
    inputs, candidates = tiny.batch()
    reading = system.read(inputs, candidates)
    assert reading.kept.tolist() == [[0, 1, 2]] * 2  # scores fall from the first on
    assert system.stores == {"tokens"}
    assert system.generate(inputs, candidates, max_tokens=3).tokens.shape[0] == 2
    assert system.log_likelihood(inputs, candidates, *tiny.target()).shape == (2,)
    assert re.fullmatch(r'"(\w+)": "wellread\.systems\.\1:Few",', line.strip())
    with pytest.raises(ValueError, match="keep=0; it must be at least 1"):
        module.FewConfig(keep=0)


def test_nothing_is_said_to_come_from_a_registry():
    """Extras are installed in a copy of the repository: `pip install wellread` finds nothing."""
    files = [*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("src/wellread/**/*.py")]
    advice = re.compile(r"pip install\b[^\n]*\bwellread\b(?!'s repository)|wellread\[")
    assert not [file.name for file in files if advice.search(file.read_text(encoding="utf8"))]
