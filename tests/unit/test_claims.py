"""Claims as data: every variant is a system that can be built, every rule speaks of variants, the page is current."""

from __future__ import annotations

import importlib.util
from dataclasses import replace
from pathlib import Path

import pytest

from wellread.claims import CLAIMS, find_claims
from wellread.claims.claim import Claim, Run
from wellread.claims.rows import NOT_RUN, OTHER, description, read_rows, state, table, variants_digest, write_row
from wellread.claims.rules import Cost
from wellread.claims.run import panels
from wellread.claims.starts import STARTS, layers_of, with_layers
from wellread.claims.worlds import DEV, WORLDS
from wellread.config import from_mapping
from wellread.systems import SYSTEMS

ROOT = Path(__file__).parents[2]


def chain(run: Run) -> list[Run]:
    """A run and those it needs."""
    earlier = [] if isinstance(run.start, str) else chain(run.start)
    return [run, *earlier, *([] if run.transfer is None else chain(run.transfer[0]))]


def runs(claim) -> list[Run]:
    return [run for variant in claim.variants.values() for run in chain(variant.run)]


# Claims about language models have a form, and tests, of their own.
OF_QUESTIONS = [claim for claim in CLAIMS.values() if isinstance(claim, Claim)]
VARIANTS = [(claim, name) for claim in OF_QUESTIONS for name in claim.variants]


@pytest.mark.parametrize(("claim", "name"), VARIANTS, ids=[f"{claim.id}-{name}" for claim, name in VARIANTS])
def test_every_variant_can_be_built(tiny, claim, name):
    variant = claim.variants[name]
    for run in chain(variant.run):
        system = tiny.system(run.system, "bert", layers=6, **with_two_heads(run.options))
        assert isinstance(run.start, Run) or run.start in STARTS
        assert run.world in WORLDS
        if run.transfer is not None:
            assert set(run.transfer[1]) <= set(system.parts())
    options = with_two_heads({**variant.run.options, **variant.ask.options})
    asked = tiny.system(variant.run.system, "bert", layers=6, **options)
    # A claim about the number kept means that number.
    assert getattr(asked.config, "keep", 1) <= (variant.ask.top_k or variant.run.passages or 2)
    assert variant.ask.questions in DEV


def with_two_heads(options):
    """The tiny reader has two heads only."""
    return {name: min(value, 1) if name == "head" else value for name, value in options.items()}


@pytest.mark.parametrize("claim", CLAIMS.values(), ids=CLAIMS)
def test_rules_and_figures_speak_of_what_is_there(claim):
    assert claim.rules
    for rule in claim.rules:
        assert rule.names <= set(claim.variants)
    assert claim.figures.says
    assert claim.paper in ("lumen", "glimmer", "reatt", "realm", "retro", "reveal")
    assert claim.id.startswith(claim.paper)
    assert all(variant.x != other.x for variant, other in pairs(claim)), "two points of a line in one place"


def pairs(claim):
    values = list(claim.variants.values())
    same = [(one, two) for place, one in enumerate(values) for two in values[:place] if one.series == two.series]
    return same if claim.x == "given" else []


def test_options_are_those_of_the_systems():
    for claim in OF_QUESTIONS:
        for run in runs(claim):
            from_mapping(SYSTEMS[run.system].Config, run.options, where="system")


def test_values_go_on_from_a_warm_start_that_made_as_many():
    for name in ("reveal-latents", "reveal-regularisers"):
        for variant in CLAIMS[name].variants.values():
            options, before = variant.run.options, variant.run.start.options
            assert options["reencoded"] == 0
            assert options["renewed"] > 0
            kept = ("num_latents", "decorrelation_weight", "alignment_weight")
            assert [options.get(each) for each in kept] == [before.get(each) for each in kept]


def test_every_figure_and_table_of_the_papers_is_tried():
    papers = ("lumen", "glimmer", "reatt")
    places = {paper: {tag for claim in find_claims([paper]) for tag in claim.tags} for paper in papers}
    assert places["lumen"] == {f"fig{number}" for number in (1, 3, 4, 5, 6, 7, 8, 9, 10)} | {"tab1"}
    assert places["glimmer"] == {f"fig{number}" for number in (2, 3, 4, 5, 6, 7)} | {"tab1", "tab2", "tab3"}
    # Table 5 takes RAG apart, which is not built here.
    assert places["reatt"] == {"sec2.3", *(f"tab{number}" for number in (1, 2, 3, 4, 6))}


def test_claims_share_runs():
    """Most runs belong to several claims: what makes the whole affordable."""
    third = [claim.id for claim in OF_QUESTIONS if Run("lumen") in runs(claim)]
    assert len(third) >= 5


@pytest.mark.parametrize(
    ("names", "found"),
    [
        (["lumen-attention"], ["lumen-attention"]),
        (["lumen", "fig1"], ["lumen-live-share"]),
        (["LUMEN", "Fig9", "tab1"], ["lumen-memory-depth", "lumen-attention"]),
        (["glimmer", "tab1", "lumen", "fig9"], ["lumen-attention", "glimmer-reranker"]),
        (["lumen-attention", "glimmer", "tab2"], ["lumen-attention", "glimmer-trained-memory"]),
        (["all"], list(CLAIMS)),
        (["lumen", "glimmer", "reatt", "realm", "retro", "reveal"], list(CLAIMS)),
    ],
)
def test_claims_are_found(names, found):
    assert [claim.id for claim in find_claims(names)] == found


@pytest.mark.parametrize(
    ("names", "says"),
    [
        (
            ["lumen-livshare"],
            r"claim 'lumen-livshare' is unknown; `wellread reproduce` lists them. Did you mean 'lumen-l",
        ),
        (["zzz"], r"claim 'zzz' is unknown; `wellread reproduce` lists them.$"),
        (["fig1"], r"fig1 of which paper\? Name it first: lumen fig1, or glimmer fig1."),
        (["glimmer", "fig8"], r"no claim of glimmer stands at fig8; use one of: fig2, fig3"),
    ],
)
def test_claims_that_are_not_found(names, says):
    with pytest.raises(ValueError, match=says):
        find_claims(names)


def test_other_depths(tiny):
    config = tiny.reader("t5", layers=6).config
    assert layers_of(config) == 6
    small = with_layers(config, 2)
    assert layers_of(small) == 2
    assert small.decoder == config.decoder


# -- rows and pages --------------------------------------------------------------------------------------------


def row_of(claim) -> dict:
    """A row with made-up numbers."""
    variants = [
        {
            "variant": name,
            "series": variant.series,
            "x": variant.x,
            "em": 10.0 + place,
            "interval": [5.0, 20.0],
            "gflops": 1.0 + place,
            "samples_per_tflop": 1000 / (1 + place),
        }
        for place, (name, variant) in enumerate(claim.variants.items())
    ]
    counted = [isinstance(rule, Cost) for rule in claim.rules]
    return {
        "claim": claim.id,
        "says": claim.says,
        "variants": variants_digest(claim),
        "verdict": "undecided",
        "rules": [
            {"says": rule.says, "verdict": "undecided", "value": 0.5, "interval": [0.5, 0.5] if each else [None, None]}
            for rule, each in zip(claim.rules, counted)
        ],
        "rows": variants,
        "budget": {"steps": 3, "batch_size": 2, "questions": 4},
        "seeds": [0, 1],
        "hardware": "a machine",
        "date": "2000-01-01",
        "command": f"wellread reproduce {claim.id}",
    }


@pytest.mark.parametrize("claim", CLAIMS.values(), ids=CLAIMS)
def test_every_claim_can_be_drawn(claim):
    drawn = panels(claim, row_of(claim))
    assert len(drawn) == (2 if claim.figures.series else 1)
    assert sum(len(line.x) for line in drawn[-1].lines.values()) == len(claim.variants)
    for line in drawn[-1].lines.values():
        assert list(line.x) == sorted(line.x)
        assert line.low is not None


def test_a_row_of_another_claim_is_no_verdict():
    claim = CLAIMS["glimmer-speed"]
    row = row_of(claim)
    assert state(row, claim) == row["verdict"]
    rules = [{**row["rules"][0], "says": "something else"}, *row["rules"][1:]]
    for changed in ({"says": "Else."}, {"rules": rules}, {"rows": row["rows"][1:]}):
        assert state(row | changed, claim) == OTHER
    name, variant = next(iter(claim.variants.items()))
    other = replace(variant, run=replace(variant.run, options={**variant.run.options, "keep": 3}))
    assert state(row, replace(claim, variants={**claim.variants, name: other})) == OTHER


def test_rows_are_kept_and_told(tmp_path):
    claim = CLAIMS["glimmer-speed"]
    write_row(tmp_path / "deep", row_of(claim))
    rows = read_rows(tmp_path / "deep")
    assert list(rows) == [claim.id]
    told = {each["claim"].split("`")[1]: each for each in table(rows)}
    assert list(told) == list(CLAIMS)
    assert told["lumen-attention"]["verdict"] == NOT_RUN
    assert told["lumen-attention"]["ours"] == ""
    assert "fid 10.0 (5.0 to 20.0), 1 GFLOP; lumen 11.0" in told[claim.id]["ours"]
    assert "LUMEN is better than FiD: undecided, 0.50 (interval unknown)" in told[claim.id]["rules"]
    assert "GLIMMER costs less than LUMEN: undecided, 0.50;" in told[claim.id]["rules"]
    assert told[claim.id]["size"].startswith("3 steps of 2 questions, 2 seeds, 4 dev questions")


def test_results_speak_of_their_claims_in_the_words_of_now():
    """A row that does not is told anew by the command it was made with, which trains nothing a second time."""
    rows = read_rows(ROOT / "results" / "claims")
    rows = {name: row for name, row in rows.items() if state(row, CLAIMS[name]) != OTHER}
    words = {name: description(CLAIMS[name]) for name in rows}
    assert rows
    assert [(name, key) for name in rows for key in words[name] if rows[name][key] != words[name][key]] == []


@pytest.fixture(scope="module")
def generator():
    spec = importlib.util.spec_from_file_location("dev_claims", ROOT / "dev" / "claims.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_page_is_current(generator):
    assert generator.DOCS.read_text(encoding="utf8") == generator.render(read_rows(generator.ROWS)), (
        "run: python dev/claims.py"
    )


def test_the_page_tells_what_was_run(generator):
    nothing = generator.render({})
    assert f"Of {len(CLAIMS)} claims: {len(CLAIMS)} not run." in nothing
    assert all(f"`{name}`" in nothing for name in CLAIMS)
    page = generator.render({"lumen-attention": row_of(CLAIMS["lumen-attention"])})
    assert f"Of {len(CLAIMS)} claims: 1 undecided, {len(CLAIMS) - 1} not run." in page
    assert "(../results/claims/lumen-attention.svg)" in page
    assert "`wellread reproduce lumen-attention`: [row]" in page
