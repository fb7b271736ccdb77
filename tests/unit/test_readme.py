"""README.md says what is there: its generated parts are current, its commands exist."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text(encoding="utf8")


@pytest.fixture(scope="module")
def generator():
    spec = importlib.util.spec_from_file_location("dev_readme", ROOT / "dev" / "readme.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_generated_parts_are_current(generator):
    assert generator.fill(README) == README, "run: python dev/readme.py"


def test_every_file_of_the_package_is_in_the_map(generator):
    listed = generator.the_map()
    missing = [
        str(file.relative_to(generator.SOURCE))
        for file in generator.SOURCE.rglob("*.py")
        if file.name != "__init__.py" and str(file.relative_to(generator.SOURCE)) not in listed
    ]
    assert not missing, f"files without a docstring to show: {missing}"


def test_every_verb_named_exists():
    from wellread.cli.main import VERBS

    named = set(re.findall(r"^wellread (\w+)", README, flags=re.MULTILINE))
    assert named
    assert named <= set(VERBS)


def test_every_make_target_named_exists():
    makefile = (ROOT / "Makefile").read_text(encoding="utf8")
    for target in re.findall(r"^make (\w+)", README, flags=re.MULTILINE):
        assert re.search(rf"^{target}:", makefile, flags=re.MULTILINE), target


def test_every_link_into_the_repository_leads_somewhere():
    for target in re.findall(r"\]\((?!http)([^)#]+)\)", README):
        assert (ROOT / target).exists(), target
