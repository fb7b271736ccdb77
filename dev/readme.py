"""Fill the generated parts of README.md: the map of the files and the table of results.

command:  python dev/readme.py            (a test fails while README.md is out of date)
"""

from __future__ import annotations

import ast
import re
from pathlib import Path

ROOT = Path(__file__).parents[1]
SOURCE = ROOT / "src" / "wellread"
RESULTS = ROOT / "results" / "squad.md"


def first_line(file: Path) -> str:
    """The first line of a module's docstring."""
    text = ast.get_docstring(ast.parse(file.read_text(encoding="utf8"))) or ""
    return text.splitlines()[0] if text else ""


def the_map() -> str:
    """One line per file."""
    lines = ["```"]
    for file in sorted(SOURCE.rglob("*.py"), key=lambda file: (len(file.relative_to(SOURCE).parts) > 1, str(file))):
        if line := first_line(file):
            lines.append(f"{file.relative_to(SOURCE)!s:<34} {line}")
    return "\n".join([*lines, "```"])


def the_results() -> str:
    """What the benchmark wrote, below a heading of its own."""
    return RESULTS.read_text(encoding="utf8").partition("\n")[2].strip() if RESULTS.is_file() else ""


def fill(text: str) -> str:
    """README text with both parts as they should be."""
    for name, content in (("map", the_map()), ("results", the_results())):
        block = f"<!-- {name} -->\n{content}\n<!-- end of {name} -->"
        pattern = rf"<!-- {name} -->(?:.*?<!-- end of {name} -->)?"
        text = re.sub(pattern, lambda _, block=block: block, text, flags=re.DOTALL)
    return text


if __name__ == "__main__":
    readme = ROOT / "README.md"
    readme.write_text(fill(readme.read_text(encoding="utf8")), encoding="utf8")
