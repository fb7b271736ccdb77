"""GLIMMER's claims: de Jong et al., "GLIMMER: generalized late-interaction memory reranker" (2023), arXiv 2306.10231.

Its figures are given as numbers in the text, averages over KILT dev sets unless said otherwise; its tables 1 to 3 are
described in words only.
"""

from __future__ import annotations

from dataclasses import replace

from wellread.claims.claim import Ask, Claim, Figures, Run, Variant
from wellread.claims.lumen import CLOSE, FID
from wellread.claims.rules import Above, Cost, Near

__all__ = ["GLIMMER"]

WORDS = "in words only, the table's numbers are not in the text at hand:"
RETRIEVED, READ = 5, 2  # candidates of a training question, and how many of them are read to the end
# As the default model, which these claims start from, was taught: half of six layers live, one of them reranks.
LIVE = {"live_share": 1 / 2, "mark_matches": True}
TRAINED = {**LIVE, "rerank_share": 1 / 3, "keep": READ, "score": "question", "retrieval_prior": 1.0}
FROZEN = {**TRAINED, "train_memory": False, "question_encoder": "separate"}
# What BM25 finds, nothing put among it: finding the right passage is what reranking is for.
FOUND = Ask(top_k=10, gold=False)
SAME = "Otherwise as glimmer-speed."
SETUP = (
    "From a reader that was taught to rerank, with half of its layers live (the paper: a third). As in LUMEN, memory "
    "is frozen and the question has an encoder of its own, so that stored states can be read; one of three live layers "
    "reranks, from the mean of the question's tokens and with the retriever's order beside it (retrieval_prior = 1). "
    f"Trained with {RETRIEVED} candidates, {READ} kept; asked with what BM25 finds."
)


def _glimmer(base: dict = FROZEN, *, start: str = "base", **options: object) -> Run:
    return Run("glimmer", {**base, **options}, start=start, passages=RETRIEVED)


RERANKED, DEEP = _glimmer(), _glimmer(rerank_share=1.0)
HALF_LIVE = Run("lumen", LIVE)


def _asked(top_k: int, keep: int = READ) -> Ask:
    return replace(FOUND, top_k=top_k, options={"keep": keep})


SPEED = Claim(
    id="glimmer-speed",
    paper="glimmer",
    where="Figure 2",
    tags=("fig2",),
    says="GLIMMER is better and faster than LUMEN, which is better and faster than FiD, each with as many passages as "
    "pay.",
    variants={
        "fid": Variant(FID, series="FiD", ask=replace(FOUND, top_k=2)),
        "lumen": Variant(replace(HALF_LIVE, passages=4), series="LUMEN", ask=replace(FOUND, top_k=4)),
        "glimmer": Variant(RERANKED, series="GLIMMER", ask=FOUND),
    },
    rules=(
        Above("GLIMMER is better than LUMEN", {"glimmer": 1, "lumen": -1}),
        Above("LUMEN is better than FiD", {"lumen": 1, "fid": -1}),
        Cost("GLIMMER costs less than LUMEN", "glimmer", "lumen"),
        Cost("LUMEN costs less than FiD", "lumen", "fid"),
    ),
    figures=Figures(
        says="XXL, average over KILT dev sets at samples per TFLOP: FiD-5 69.2 at .093, LUMEN-10 71.0 at .107, "
        "GLIMMER 25 to 5 73.2 at .128",
        series={"FiD": {0.0927: 69.215}, "LUMEN": {0.1068: 70.982}, "GLIMMER": {0.1279: 73.22}},
        x_label="samples per TFLOP",
        y_label="performance",
    ),
    x_label="questions per TFLOP, counted",
    x="samples_per_tflop",
    note=f"2, 4 and 10 to {READ} passages, in the proportions of the paper's 5, 10 and 25 to 5; one task. {SETUP}",
)

NUMBER_RETRIEVED = Claim(
    id="glimmer-retrieved",
    paper="glimmer",
    where="Figure 3, left",
    tags=("fig3",),
    says="With the number kept fixed, quality rises strongly with the number retrieved.",
    variants={
        f"glimmer-{count}": Variant(RERANKED, count, f"GLIMMER, {READ} kept", _asked(count)) for count in (2, 5, 10, 20)
    }
    | {"lumen-2": Variant(HALF_LIVE, 2, "LUMEN", replace(FOUND, top_k=2))},
    rules=(
        Above("10 retrieved are better than 2", {"glimmer-10": 1, "glimmer-2": -1}),
        Above(f"20 retrieved are at most {CLOSE:g} points below 10", {"glimmer-20": 1, "glimmer-10": -1}, -CLOSE),
    ),
    figures=Figures(
        says="Large, 5 kept: 65.56 with 5 retrieved, 67.99 with 10, 69.83 with 25, 70.71 with 40; LUMEN-5 65.56, "
        "LUMEN-40 70.98",
        series={
            "GLIMMER, 5 kept": {5: 65.56, 10: 67.99, 25: 69.83, 40: 70.71},
            "LUMEN, all read": {5: 65.56, 40: 70.98},
        },
        x_label="passages retrieved",
        y_label="performance",
    ),
    x_label="passages retrieved",
    note=f"One training a seed, asked with different numbers. {SAME}",
)

NUMBER_KEPT = Claim(
    id="glimmer-kept",
    paper="glimmer",
    where="Figure 3, right",
    tags=("fig3",),
    says="With the number retrieved fixed, keeping more than a few passages gives little.",
    variants={
        f"keep-{count}": Variant(RERANKED, count, "GLIMMER, 10 retrieved", _asked(10, count)) for count in (1, 2, 5, 10)
    },
    rules=(
        Above("keeping 5 is better than keeping 1", {"keep-5": 1, "keep-1": -1}),
        Above(f"keeping 5 is at most {CLOSE:g} points below keeping all", {"keep-5": 1, "keep-10": -1}, -CLOSE),
    ),
    figures=Figures(
        says="Large, 25 retrieved: 66.86 with 1 kept, 69.83 with 5, 70.18 with 10, 70.16 with all",
        series={"GLIMMER, 25 retrieved": {1: 66.86, 5: 69.83, 10: 70.18, 25: 70.16}},
        x_label="passages kept",
        y_label="performance",
    ),
    x_label="passages kept",
    note=f"One training a seed, asked with different numbers. {SAME}",
)

KEPT_OF_MANY = Claim(
    id="glimmer-kept-of-many",
    paper="glimmer",
    where="Figure 5",
    tags=("fig5",),
    says="With many retrieved, keeping more of them does harm, and the best number is smaller with more reranking "
    "layers.",
    variants={
        f"{layers}-keep-{count}": Variant(run, count, f"{layers} rerank", _asked(20, count))
        for layers, run in (("one", RERANKED), ("three", DEEP))
        for count in (2, 5, 10, 20)
    },
    rules=(
        Above(
            "after three reranking layers, keeping 5 is better than keeping 20",
            {"three-keep-5": 1, "three-keep-20": -1},
        ),
        Above(
            "keeping few instead of all pays more with three reranking layers than with one",
            {"three-keep-2": 1, "three-keep-20": -1, "one-keep-2": -1, "one-keep-20": 1},
        ),
    ),
    figures=Figures(
        says="Large, 40 retrieved, 5 / 10 / 15 / 20 / 40 kept: 70.54 70.89 70.87 70.95 70.82 with 2 reranking layers, "
        "70.85 71.10 71.08 70.96 70.97 with 4",
        series={
            "2 rerank layers": {5: 70.541, 10: 70.885, 15: 70.874, 20: 70.95, 40: 70.82},
            "4 rerank layers": {5: 70.851, 10: 71.1, 15: 71.083, 20: 70.964, 40: 70.974},
        },
        x_label="passages kept",
        y_label="performance",
    ),
    x_label="passages kept",
    note=f"20 retrieved; all live layers rerank in the second line. {SAME}",
)

RERANK_SHARE = Claim(
    id="glimmer-rerank-share",
    paper="glimmer",
    where="Figure 4",
    tags=("fig4",),
    says="Some live layers are needed to rerank, and a part of them is enough.",
    variants={
        "none": Variant(HALF_LIVE, 0.0, ask=replace(FOUND, top_k=READ)),
        "third": Variant(RERANKED, 1 / 3, ask=FOUND),
        "all": Variant(DEEP, 1.0, ask=FOUND),
    },
    rules=(
        Above("one reranking layer is better than the retriever's order", {"third": 1, "none": -1}),
        Above(f"and at most {CLOSE:g} points below reranking with all live layers", {"third": 1, "all": -1}, -CLOSE),
    ),
    figures=Figures(
        says="Large, 25 to 5: 64.53 at a share of 0, 67.60 at 1/8, 69.83 at 1/4, 70.01 at 1/2, 69.94 at 1; LUMEN-25 "
        "70.16",
        series={
            "GLIMMER": {0.0: 64.53, 0.125: 67.6, 0.25: 69.83, 0.5: 70.01, 1.0: 69.94},
            "LUMEN-25": {0.0: 70.16, 1.0: 70.16},
        },
        x_label="share of live layers that rerank",
        y_label="performance",
    ),
    x_label="share of live layers that rerank (0: LUMEN with the first two)",
    note=f"Three live layers, of which one or all rerank; at 0 stands LUMEN reading the retriever's first {READ}. "
    f"{SAME}",
)

SEPARATE = Claim(
    id="glimmer-reranker",
    paper="glimmer",
    where="Table 1",
    tags=("tab1",),
    says="Reranking with the live layers themselves is about as good as with layers of their own, which need "
    "pretrained weights: from scratch they are much worse.",
    variants={
        "shared": Variant(RERANKED, 0.0, ask=FOUND),
        "separate": Variant(_glimmer(reranker="separate"), 1.0, ask=FOUND),
        "from-scratch": Variant(_glimmer(reranker="separate", start="new-ranker"), 2.0, ask=FOUND),
    },
    rules=(
        Above(f"shared is at most {CLOSE:g} points below separate", {"shared": 1, "separate": -1}, -CLOSE),
        Above("shared is better than from scratch", {"shared": 1, "from-scratch": -1}),
    ),
    figures=Figures(says=f"{WORDS} separate comparable to shared, from scratch significantly lower"),
    x_label="0 shared, 1 separate, 2 separate from scratch",
    note=SAME,
)

# NQ is half of the questions, so that the double budget shows as many of them as training on NQ alone.
MIXED = {"nq": 0.5, "squad": 0.25, "slots": 0.25}
NQ = Ask(questions="nq")
SHARES = (0.0, 1 / 24, 1 / 8, 1 / 6, 1 / 4, 1 / 3, 1 / 2, 3 / 4, 1.0)


def _tasks(system: str, options: dict, *, mixed: bool) -> Run:
    return Run(system, options, tasks=MIXED if mixed else {"nq": 1.0}, world="wide", steps=2.0 if mixed else 1.0)


MULTITASK = Claim(
    id="glimmer-multitask",
    paper="glimmer",
    where="Figures 6 and 7",
    tags=("fig6", "fig7"),
    says="Training on many tasks helps all readers, LUMEN more than FiD, most where few layers are live.",
    variants={
        f"{name} {'mixed' if mixed else 'nq'}": Variant(
            _tasks(system, options, mixed=mixed), x, "several tasks" if mixed else "NQ only", NQ
        )
        for name, system, options, x in (
            ("lumen-1/6", "lumen", {"live_share": 1 / 6, "train_memory": True}, 1 / 6),
            ("lumen-1/3", "lumen", {"train_memory": True}, 1 / 3),
            ("fid", "fid", {}, 1.0),
        )
        for mixed in (False, True)
    },
    rules=(
        Above("several tasks help with 1/6 live", {"lumen-1/6 mixed": 1, "lumen-1/6 nq": -1}),
        Above("several tasks help with 1/3 live", {"lumen-1/3 mixed": 1, "lumen-1/3 nq": -1}),
        Above(
            "they help 1/6 live more than FiD",
            {"lumen-1/6 mixed": 1, "lumen-1/6 nq": -1, "fid mixed": -1, "fid nq": 1},
        ),
    ),
    figures=Figures(
        says="Large, EM on NQ dev, NQ only and what KILT adds (figure 6): LUMEN 1/8 51.18 + 6.8, 1/3 58.34 + 2.68, "
        "FiD 59.11 + 1.69; figure 7, over live shares from 0 to 1: NQ only 45.6 to 55.6, KILT 50.9 to 57.8",
        series={
            "KILT (fig. 7)": dict(zip(SHARES, (50.9, 51.1, 54.7, 56.4, 56.9, 57.6, 57.5, 57.6, 57.8))),
            "NQ only (fig. 7)": dict(zip(SHARES, (45.6, 45.5, 48.5, 50.5, 53.4, 55.2, 56.1, 55.7, 55.6))),
        },
        x_label="share of live layers",
    ),
    x_label="share of live layers (1: FiD)",
    note="NQ with distant labels, squad and slot filling instead of KILT, searched in Wikipedia; memory is trained in "
    "all, as in the paper. Twice the steps with several tasks, half of the questions NQ. The start model has read "
    "squad before.",
)

MEMORY = Claim(
    id="glimmer-trained-memory",
    paper="glimmer",
    where="Table 2",
    tags=("tab2",),
    says="Training the memory encoder matters: with a frozen one GLIMMER is clearly worse.",
    variants={
        "frozen": Variant(_glimmer(TRAINED, train_memory=False), 0.0, ask=FOUND),
        "trained": Variant(_glimmer(TRAINED), 1.0, ask=FOUND),
    },
    rules=(Above("trained is better than frozen", {"trained": 1, "frozen": -1}),),
    figures=Figures(says=f"{WORDS} a significant factor"),
    x_label="0 frozen, 1 trained",
    note="On one task. The memory encoder reads the question in both, as in the paper. Otherwise as glimmer-speed.",
)

OWN_QUESTION = Claim(
    id="glimmer-question-encoder",
    paper="glimmer",
    where="Table 3",
    tags=("tab3",),
    says="With a trained memory encoder, reading the question with it costs little against a question encoder of its "
    "own.",
    variants={
        "shared": Variant(_glimmer(TRAINED), 0.0, ask=FOUND),
        "separate": Variant(_glimmer(TRAINED, question_encoder="separate"), 1.0, ask=FOUND),
    },
    rules=(Above(f"shared is at most {CLOSE:g} points below separate", {"shared": 1, "separate": -1}, -CLOSE),),
    figures=Figures(says=f"{WORDS} a small cost in performance"),
    x_label="0 shared, 1 separate",
    note="On one task. Otherwise as glimmer-speed.",
)

WEIGHT = Claim(
    id="glimmer-distillation-weight",
    paper="glimmer",
    where="Table 3",
    tags=("tab3",),
    says="A reranking loss that weighs much less or much more than 1 makes GLIMMER worse.",
    variants={
        "0.1": Variant(_glimmer(distillation_weight=0.1), -1.0, ask=FOUND),
        "1": Variant(RERANKED, 0.0, ask=FOUND),
        "10": Variant(_glimmer(distillation_weight=10.0), 1.0, ask=FOUND),
    },
    rules=(
        Above("1 is better than .1", {"1": 1, "0.1": -1}),
        Above("1 is better than 10", {"1": 1, "10": -1}),
    ),
    figures=Figures(says=f"{WORDS} over- or under-weighting leads to lower performance"),
    x_label="log10 of the weight of the distillation loss",
    note=f"The weights .1 and 10 are ours. {SAME}",
)

TEMPERATURE = Claim(
    id="glimmer-temperature",
    paper="glimmer",
    where="Table 3",
    tags=("tab3",),
    says="A lower temperature of scores and perplexities helps.",
    variants={
        "0.1": Variant(_glimmer(distillation_temperature=0.1), 0.1, ask=FOUND),
        "1": Variant(RERANKED, 1.0, ask=FOUND),
    },
    rules=(Above("a temperature of .1 is better than 1", {"0.1": 1, "1": -1}),),
    figures=Figures(says=f"{WORDS} a lower temperature does help"),
    x_label="temperature",
    note=f"The lower temperature of .1 is ours. {SAME}",
)

POOLING = Claim(
    id="glimmer-score",
    paper="glimmer",
    where="Table 3",
    tags=("tab3",),
    says="A score from the first token is about as good as one from the mean of all tokens.",
    variants={
        "first": Variant(_glimmer(score="first"), 0.0, ask=FOUND),
        "question": Variant(RERANKED, 1.0, ask=FOUND),
        "mean": Variant(_glimmer(score="mean"), 2.0, ask=FOUND),
    },
    rules=(Near(f"first and mean are within {CLOSE:g} points", {"first": 1, "mean": -1}, CLOSE),),
    figures=Figures(says=f"{WORDS} they perform similarly"),
    x_label="0 first token, 1 mean of the question (not in the paper), 2 mean of all",
    note=SAME,
)

GLIMMER = (
    SPEED,
    NUMBER_RETRIEVED,
    NUMBER_KEPT,
    KEPT_OF_MANY,
    RERANK_SHARE,
    SEPARATE,
    MULTITASK,
    MEMORY,
    OWN_QUESTION,
    WEIGHT,
    TEMPERATURE,
    POOLING,
)
