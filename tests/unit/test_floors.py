"""Imports go down only: each part of the house may use what lies on lower floors."""

from __future__ import annotations

import ast
from pathlib import Path

import wellread

SOURCE = Path(wellread.__file__).parent
STEPS = ("corpus", "memory", "retrieval", "reading", "evaluation")
# Lowest first; parts of one floor do not use each other unless listed in NEIGHBOURS.
FLOORS = [
    ("types", "registry", "config", "bars", "locking", "extras"),
    ("nn", "losses", "data"),
    ("pictures",),
    STEPS,
    ("systems",),
    ("model",),
    ("token_encoder", "texts"),
    ("memorizing",),
    ("pipeline", "training", "continuing"),
    ("claims",),
    ("cli",),
]
NEIGHBOURS = {("losses", "nn"), ("config", "types"), ("registry", "types"), ("types", "config")}
LEVEL = {part: level for level, parts in enumerate(FLOORS) for part in parts}


def imports(file: Path) -> set[str]:
    """Every wellread module a file imports, anywhere in it."""
    found = set()
    for node in ast.walk(ast.parse(file.read_text(encoding="utf8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file} imports relatively; write the whole name"
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return {name for name in found if name.startswith("wellread.")}


def violations(files: dict[str, set[str]]) -> list[str]:
    """files: module path such as systems/lumen -> the names it imports."""
    wrong = []
    for module, names in files.items():
        part = module.split("/")[0]
        for name in names:
            other = name.split(".")[1]
            if part == "systems" and other == "systems" and module != "systems/__init__":
                target = name.split(".")[2] if len(name.split(".")) > 2 else ""
                if not target.endswith("base") and target != "SYSTEMS":
                    wrong.append(f"{module} imports {name}: systems never import each other")
            if other == part or other not in LEVEL or part not in LEVEL:
                continue
            if LEVEL[other] > LEVEL[part] or (LEVEL[other] == LEVEL[part] and (part, other) not in NEIGHBOURS):
                wrong.append(f"{module} imports {name}: imports go down only")
    return wrong


def tree() -> dict[str, set[str]]:
    files = SOURCE.rglob("*.py")
    return {str(file.relative_to(SOURCE).with_suffix("")): imports(file) for file in files if file.parent != SOURCE} | {
        file.stem: imports(file) for file in SOURCE.glob("*.py") if file.stem != "__init__"
    }


def test_imports_go_down_only():
    assert not violations(tree())


def test_every_part_has_a_floor():
    parts = {module.split("/")[0] for module in tree()}
    assert parts <= set(LEVEL), f"parts without a floor: {sorted(parts - set(LEVEL))}"


def test_the_rule_can_fail():
    assert violations({"nn/t5": {"wellread.systems.lumen"}})
    assert violations({"corpus/store": {"wellread.memory.store"}})
    assert violations({"systems/lumen": {"wellread.systems.glimmer.Glimmer"}})
    assert not violations({"systems/lumen": {"wellread.systems.base.System"}})


def test_upper_floors_name_no_system():
    from wellread.systems import SYSTEMS

    for pattern in ("pipeline.py", "training/*.py", "cli/*.py"):
        for file in SOURCE.glob(pattern):
            named = {
                node.value
                for node in ast.walk(ast.parse(file.read_text(encoding="utf8")))
                if isinstance(node, ast.Constant) and isinstance(node.value, str) and node.value in SYSTEMS
            }
            assert not named, f"{file} names {sorted(named)}"
