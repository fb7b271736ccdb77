"""Mappings -> dataclasses with every mistake at once; settings, TOML files and tables of names."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import pytest

from wellread.config import ConfigError, from_mapping, parse_conditions, parse_settings, read_toml, require, to_mapping
from wellread.registry import Registry


@dataclass(frozen=True)
class Inner:
    size: int
    share: float = 0.5

    def __post_init__(self) -> None:
        require(0 <= self.share <= 1, f"share={self.share}; it must be between 0 and 1.")


@dataclass(frozen=True)
class Outer:
    name: str
    inner: Inner = Inner(1)
    kind: Literal["a", "b"] = "a"
    layers: int | None = None
    place: Path | None = None
    parts: tuple[str, ...] = ()
    inners: list[Inner] = field(default_factory=list)
    tables: Mapping[str, Inner] = field(default_factory=dict)
    anything: Any = None
    on: bool = False


def problems(mapping: Any, where: str = "") -> list[str]:
    with pytest.raises(ConfigError) as caught:
        from_mapping(Outer, mapping, where=where)
    return caught.value.problems


def test_every_kind_of_field_is_filled():
    mapping = {
        "name": "x",
        "inner": {"size": 2, "share": 1},
        "kind": "b",
        "layers": 3,
        "place": "here/there",
        "parts": ["p", "q"],
        "inners": [{"size": 4}],
        "tables": {"t": {"size": 5}},
        "anything": {"deep": [1]},
        "on": True,
    }
    value = from_mapping(Outer, mapping)
    assert value == Outer(
        "x", Inner(2, 1.0), "b", 3, Path("here/there"), ("p", "q"), [Inner(4)], {"t": Inner(5)}, {"deep": [1]}, True
    )
    assert type(value.inner.share) is float  # 1 was written


def test_a_mapping_made_of_a_value_reads_back():
    value = Outer("x", Inner(2), place=Path("here"), parts=("p",), tables={"t": Inner(5)})
    assert from_mapping(Outer, to_mapping(value)) == value
    assert from_mapping(Outer, to_mapping(Outer("x"))) == Outer("x")


def test_all_mistakes_are_told_at_once():
    told = problems(
        {"nmae": "x", "kind": "c", "inner": {"share": "half"}, "parts": "p", "inners": [{"size": 1.5}], "on": 1}
    )
    assert told == [
        "nmae is unknown; did you mean 'name'?",
        "kind='c' is not allowed; use one of: a, b.",
        "inner.share='half' is str; it must be float.",
        "inner.size is missing; it has no default.",
        "parts='p' must be a list.",
        "inners[0].size=1.5 is float; it must be int.",
        "on=1 is int; it must be bool.",
        "name is missing; it has no default.",
    ]


def test_all_mistakes_are_lines_of_the_message():
    with pytest.raises(ValueError, match=r"^a is unknown; known keys: name, .*\nname is missing; it has no default\.$"):
        from_mapping(Outer, {"a": 1})


@pytest.mark.parametrize(
    ("mapping", "told"),
    [
        ({"name": "x", "layers": "3"}, "layers='3' is str; it must be int."),
        ({"name": "x", "layers": True}, "layers=True is bool; it must be int."),
        ({"name": None}, "name=None is NoneType; it must be str."),
        ({"name": "x", "place": 3}, "place=3 is int; it must be Path."),
        ({"name": "x", "parts": ["p", 1]}, "parts[1]=1 is int; it must be str."),
        ({"name": "x", "inner": 3}, "inner=3 is not a table; write [inner] and its keys."),
        ({"name": "x", "tables": 3}, "tables=3 is not a table; write [tables.NAME] and its keys."),
        ({"name": "x", "tables": {"t": {"siez": 1}}}, "tables.t.siez is unknown; did you mean 'size'?"),
        ({"name": "x", "inner": {"size": 1, "share": 2}}, "inner: share=2.0; it must be between 0 and 1."),
        ({"name": "x", "inner": {"size": True}}, "inner.size=True is bool; it must be int."),
        ({"name": "x", "kind": ["a"]}, "kind=['a'] is not allowed; use one of: a, b."),
    ],
)
def test_each_mistake_says_where_and_what(mapping, told):
    assert told in problems(mapping)


def test_places_begin_with_where():
    assert problems({"name": "x", "inner": {}}, where="part") == ["part.inner.size is missing; it has no default."]
    with pytest.raises(ConfigError, match=r"^part: share=3.0; it must be between 0 and 1\.$"):
        from_mapping(Inner, {"size": 1, "share": 3.0}, where="part")
    with pytest.raises(ConfigError, match=r"^share=3.0; it must be between 0 and 1\.$"):
        from_mapping(Inner, {"size": 1, "share": 3.0})


def test_what_is_no_table_is_told():
    assert problems([1]) == ["Outer=[1] is not a table; write [Outer] and its keys."]


def test_checks_of_a_part_wait_for_its_types():
    assert problems({"name": "x", "inner": {"size": "?", "share": 9}}) == ["inner.size='?' is str; it must be int."]


def test_require_raises_the_message():
    require(True, "never")
    with pytest.raises(ValueError, match=r"^keep=9 is too much$"):
        require(False, "keep=9 is too much")


def test_toml_files_are_read(tmp_path):
    file = tmp_path / "recipe.toml"
    file.write_text('name = "é"\n[inner]\nsize = 3\n', encoding="utf8")
    assert from_mapping(Outer, read_toml(file)) == Outer("é", Inner(3))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"a = 1\nb = = 2\n", r"recipe\.toml is not valid TOML: .*line 2"),
        ("a = 'é'".encode("latin1"), r"recipe\.toml is not valid TOML: .*utf-8"),
        (None, r"recipe .*recipe\.toml does not exist; give the path of a \.toml file"),
    ],
)
def test_bad_toml_files_are_named(tmp_path, content, message):
    if content is not None:
        (tmp_path / "recipe.toml").write_bytes(content)
    with pytest.raises(ValueError, match=message):
        read_toml(tmp_path / "recipe.toml")


def test_settings_are_toml_or_text():
    settings = ["a=0.5", " b = 3", "c=shared", "d=true", 'e=["x", "y"]', "f=", "g=x=y", "h='1'", "a=1"]
    expected = {"a": 1, "b": 3, "c": "shared", "d": True, "e": ["x", "y"], "f": "", "g": "x=y", "h": "1"}
    assert parse_settings(settings) == expected
    assert parse_settings([]) == {}


def test_conditions_are_numbers_and_what_was_written():
    told = parse_conditions(["stock=96", "price=64.50", "city=Brno", 'tags=["a", 7]', "new=true"])
    wanted = {"stock": [96, "96"], "price": [64.5, "64.50", "64.5"], "city": ["Brno"], "tags": ["a", 7, "7"]}
    assert told == wanted | {"new": [True, "true", "True"]}
    assert parse_conditions(["a=1", "a=x"]) == {"a": [1, "1", "x"]}


@pytest.mark.parametrize("setting", ["live_share", "=5", " =5", ""])
def test_settings_without_a_key_or_value_are_refused(setting):
    with pytest.raises(ValueError, match=rf"setting '{setting}' is not KEY=VALUE; write for example live_share=0\.5"):
        parse_settings([setting])


# -- tables of names -------------------------------------------------------------------------------------------


def table() -> Registry:
    return Registry("codec", {"int8": "pathlib:Path", "broken": "no_such_module_of_anyone:Thing"})


def test_entries_are_imported_when_asked_for():
    codecs = table()  # the broken entry harms nobody who does not ask for it
    assert codecs["int8"] is Path
    assert list(codecs) == ["int8", "broken"]
    assert len(codecs) == 2
    assert "int8" in codecs
    assert "int9" not in codecs
    assert codecs.path("broken") == "no_such_module_of_anyone:Thing"
    with pytest.raises(ModuleNotFoundError):
        codecs["broken"]


@pytest.mark.parametrize("ask", [Registry.__getitem__, Registry.path])
def test_unknown_names_are_told_with_what_there_is(ask):
    with pytest.raises(ValueError, match=r"codec='int9' is unknown; use one of: int8, broken\. Did you mean 'int8'\?$"):
        ask(table(), "int9")
    with pytest.raises(ValueError, match=r"codec='zzz' is unknown; use one of: int8, broken\.$"):
        ask(table(), "zzz")
    with pytest.raises(ValueError, match=r"codec=None is unknown"):
        ask(table(), None)
