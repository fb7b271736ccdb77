"""REALM's claims: Guu et al., "REALM: Retrieval-Augmented Language Model Pre-Training" (2020), arXiv 2002.08909."""

from __future__ import annotations

from dataclasses import replace

from wellread.claims.claim import Ask, Claim, Figures, Run, Variant
from wellread.claims.rules import Above

__all__ = ["REALM"]

# The towers are the sentence encoder whole, which is a warm start; what the reader's lower half says stays as it is,
# which takes a third of a step.
OPTIONS = {"pool": "mean"}
LOWER = tuple(f"reader.encoder.layers.{layer}." for layer in range(3))
PASSAGES = ("passage_tower.",)
TOWERS = (*PASSAGES, "question_tower.")
# A small reader does not learn to copy from passages that seldom hold the answer: all runs start from one that read the
# passages their sentences were taken from.
TOLD = Run("realm", OPTIONS, start="realm", tasks={"told": 1.0}, world="articles", passages=1, freeze=(*LOWER, *TOWERS))
RETRIEVAL = Run(
    "realm", OPTIONS, start=TOLD, tasks={"spans": 1.0}, world="articles", gold=False, freeze=(*LOWER, *PASSAGES)
)
FROZEN = replace(RETRIEVAL, freeze=(*LOWER, *TOWERS))
NULL = replace(RETRIEVAL, options={**OPTIONS, "null_only": True})
SEEN = Ask(gold=False, search="own", questions="spans")
FOUND = replace(SEEN, measure="answer@5")
BLIND = replace(SEEN, search="nothing", options={"null_only": True})

OPEN = replace(RETRIEVAL, start=RETRIEVAL, tasks={"open": 1.0}, world="open", steps=0.5)
ANSWERED = Ask(gold=False, search="own", questions="open", top_k=5)

HELPS = Claim(
    id="realm-retrieval-helps",
    paper="realm",
    where="Sections 1 and 4, Tables 1 and 2",
    tags=("tab1",),
    says="A language model that retrieves fills in names and dates that it could not fill in from its weights.",
    variants={
        "start": Variant(TOLD, -1.0, ask=SEEN),
        "retrieval": Variant(RETRIEVAL, 0.0, ask=SEEN),
        "null-asked": Variant(RETRIEVAL, 2.0, ask=BLIND),
        "null-trained": Variant(NULL, 3.0, ask=BLIND),
    },
    rules=(
        Above("retrieval fills in more than its own weights without passages", {"retrieval": 1, "null-asked": -1}),
        Above("retrieval fills in more than weights trained without passages", {"retrieval": 1, "null-trained": -1}),
    ),
    figures=Figures(
        says="NQ, WebQuestions, CuratedTREC, EM: REALM 40.4, 40.7, 42.9; ORQA (whose index stays) 33.3, 36.4, 30.1; "
        "T5 of 11 billion weights, without passages, 34.5, 37.4, -",
        y_label="EM",
        series={"NQ": {0: 40.4, 3: 34.5}},
        x_label="0: REALM, 3: T5 without passages",
    ),
    x_label="-1: before pre-training, 0: retrieval, 2: asked without passages, 3: trained without passages",
    note="Ours are exact fills of held-out names and dates, whose own passage is hidden, over 2,998 passages of "
    "whole articles. The passage tower stays: only the question tower learns to find. The reader first learns to "
    "copy, from the passages that its sentences were taken from.",
)


FROZEN_RETRIEVER = Claim(
    id="realm-frozen-retriever",
    paper="realm",
    where="Section 4.3, Table 2",
    tags=("tab2",),
    says="A retriever that learns from what it is retrieved for is worth more than one that stays, for open questions "
    "too.",
    variants={
        "learning": Variant(RETRIEVAL, 0.0, ask=SEEN),
        "frozen": Variant(FROZEN, 1.0, ask=SEEN),
        "learning-found": Variant(RETRIEVAL, 0.0, "answer among five found", FOUND),
        "frozen-found": Variant(FROZEN, 1.0, "answer among five found", FOUND),
        "open-learning": Variant(OPEN, 0.0, "open questions", ANSWERED),
        "open-frozen": Variant(replace(OPEN, start=FROZEN, freeze=(*LOWER, *TOWERS)), 1.0, "open questions", ANSWERED),
    },
    rules=(
        Above("more is filled in", {"learning": 1, "frozen": -1}),
        Above("more answers are found", {"learning-found": 1, "frozen-found": -1}),
        Above("more open questions are answered", {"open-learning": 1, "open-frozen": -1}),
    ),
    figures=Figures(
        says="NQ dev, EM (retrieval recall@5): REALM 38.2 (38.5), its retriever with the baseline's encoder 37.4 "
        "(38.5), its encoder with the baseline's retriever 35.3 (13.9), the baseline, ORQA, 31.3 (13.9)",
        y_label="EM",
        series={"NQ dev": {0: 38.2, 1: 35.3}},
        x_label="0: REALM, 1: its encoder with ORQA's retriever",
    ),
    x_label="0: the question tower learns, 1: it stays",
    note="Open questions: NQ and WebQuestions over 5,000 passages. Without passages spans have nothing to be cut from, "
    "so there is no variant with the null passage only.",
)


def _masked(task: str) -> Variant:
    return Variant(replace(RETRIEVAL, tasks={task: 1.0}), ask=SEEN)


MASKING = Claim(
    id="realm-masking",
    paper="realm",
    where="Section 4.3, Table 2",
    tags=("tab2",),
    says="Masking names and dates teaches more than masking random words or random spans.",
    variants={
        "start": Variant(TOLD, -1.0, ask=SEEN),
        "salient": replace(_masked("spans"), x=0.0),
        "random-tokens": replace(_masked("random_tokens"), x=1.0),
        "random-spans": replace(_masked("random_spans"), x=2.0),
    },
    rules=(
        Above("names and dates are filled in more often than by random words", {"salient": 1, "random-tokens": -1}),
        Above("and than by random spans", {"salient": 1, "random-spans": -1}),
    ),
    figures=Figures(
        says="NQ dev, EM (retrieval recall@5): salient 38.2 (38.5), random words 32.3 (24.2), spans 35.3 (26.1)",
        y_label="EM",
        series={"NQ dev": {0: 38.2, 1: 32.3, 2: 35.3}},
        x_label="0: salient, 1: random words, 2: random spans",
    ),
    x_label="-1: before, 0: salient, 1: random words (15 %), 2: random spans",
    note="The paper measures after fine-tuning to questions; ours are exact fills of held-out names and dates, and all "
    "three start from a reader that has learnt to copy names and dates: what random masks do is to unlearn it.",
)

# Small towers that were never trained to find anything: what the paper starts with.
SMALL = {"pool": "mean", "tower_layers": 2}
# At the budget's rate both towers forget within a hundred steps what they know, and find no answer to tell them.
LEARNS = Run(
    "realm", SMALL, start="realm", tasks={"spans": 1.0}, world="articles", gold=False, freeze=LOWER, rate=1 / 6
)
CLOZE = replace(LEARNS, tasks={"cloze": 1.0}, passages=1, batch=4.0, rate=2 / 3)
WARM = replace(LEARNS, start=CLOZE)

REFRESH = Claim(
    id="realm-refresh",
    paper="realm",
    where="Section 4.3, Table 2",
    tags=("tab2",),
    says="Training with an index that is refreshed while the passage tower learns is worth more than with a stale one.",
    variants={
        "fresh": Variant(replace(WARM, iterations=4), 0.0, ask=FOUND),
        "stale": Variant(WARM, 1.0, ask=FOUND),
    },
    rules=(Above("after training with a fresh index more answers are found", {"fresh": 1, "stale": -1}),),
    figures=Figures(
        says="NQ dev, EM (retrieval recall@5): 38.2 (38.5), with an index refreshed 30 times less often 28.7 (15.1)",
        y_label="EM",
        series={"NQ dev": {0: 38.2, 1: 28.7}},
        x_label="0: refreshed, 1: 30 times less often",
    ),
    x_label="0: refreshed three times, 1: never",
    note="Ours is the share of held-out names and dates that stand in one of five passages found, as the paper's "
    "recall@5 before fine-tuning; so few are filled in at this size that nothing can be told from it. Both are asked "
    "with a fresh index of their last weights: compared is what was learnt from fresh or from stale finds.",
)

START = Claim(
    id="realm-warm-start",
    paper="realm",
    where="Sections 3.4 and 4.3",
    tags=("sec3.4",),
    says="Towers that start from the inverse cloze task learn to find, towers that start cold are ignored.",
    variants={"warm": Variant(WARM, 0.0, ask=FOUND), "cold": Variant(LEARNS, 1.0, ask=FOUND)},
    rules=(Above("with the warm start more answers are found", {"warm": 1, "cold": -1}),),
    figures=Figures(says="a cold start leads to a vicious cycle: what is found is of no use, so nothing is learnt"),
    x_label="0: warm, 1: cold",
    note="Towers of the first two layers of the sentence encoder, which find little by themselves. Measured as in "
    "realm-refresh.",
)

REALM = (HELPS, FROZEN_RETRIEVER, MASKING, REFRESH, START)
"""REALM's claims, in the order of the paper."""
