"""ReAtt's claims: Jiang et al., "Retrieval as Attention" (2022), arXiv 2212.02027."""

from __future__ import annotations

from dataclasses import replace

from wellread.claims.claim import Ask, Claim, Figures, Run, Variant
from wellread.claims.rules import MEDIAN, Above, Best

__all__ = ["REATT"]

HEADS = 12
RECALL = "recall@20"
# Half of the layers are in memory, as in the paper, and stay as they are: a step then costs a third, and one memory
# serves all runs. Nothing says which passage is right: what was found is read.
OPTIONS = {"train_memory": False, "question_encoder": "separate", "mark_matches": True}
START = Run("reatt", OPTIONS, steps=0.0, gold=False)
BASELINE = Run("reatt", OPTIONS, gold=False, passages=4, iterations=2, delayed=("cross_document",))
FID = Run("fid", gold=False, passages=4)
OWN = Ask(top_k=5, gold=False, search="own", measure=RECALL)
READ = Ask(top_k=5, gold=False, search="own")
WORDS, VECTORS = replace(OWN, search="lexical"), replace(OWN, search="dense")


def _head(number: int) -> Variant:
    return Variant(replace(START, options={**OPTIONS, "head": number}), float(number), "a head", OWN)


HEADS_AS_THEY_ARE = {f"head-{number}": _head(number) for number in range(HEADS)}

AS_IS = Claim(
    id="reatt-heads",
    paper="reatt",
    where="Section 2.3",
    tags=("sec2.3",),
    says="A few heads of a model that was never trained to retrieve relate questions to their passages, and the best "
    "of them is worse than BM25.",
    variants={**HEADS_AS_THEY_ARE, "bm25": Variant(START, -1.0, "BM25", WORDS)},
    rules=(
        Best("the best head finds more than the middle one", tuple(HEADS_AS_THEY_ARE), MEDIAN),
        Best("BM25 finds more than the best head", tuple(HEADS_AS_THEY_ARE), "bm25", below=True),
    ),
    figures=Figures(
        says="T5-large on NQ: 4 of 24 heads have correlations with relevance of .137, .097, .082 and .059; the best "
        "one alone has a top-10 accuracy of 43.5, BM25 55.5",
        y_label="top-10 accuracy",
        series={"best head": {0: 43.5}, "BM25": {0: 55.5}},
    ),
    x_label="head",
    note="Every head of the first live layer searches squad's passages by itself; the paper chooses one by its "
    "correlation with relevance among BM25's passages. The reader has learned to read squad's passages, not to find "
    "them.",
)

TRAINING = Claim(
    id="reatt-training",
    paper="reatt",
    where="Tables 1 and 2",
    tags=("tab1", "tab2"),
    says="Trained on answers alone, without a word on which passages are relevant, the attention of one layer becomes "
    "a retriever that is better than BM25, and reads as well as a reader of its own.",
    variants={
        **HEADS_AS_THEY_ARE,
        "trained": Variant(BASELINE, 1.0, "recall@20", OWN),
        "bm25": Variant(START, 2.0, "recall@20", WORDS),
        "minilm": Variant(START, 3.0, "recall@20", VECTORS),
        "reads-own": Variant(BASELINE, 1.0, "EM", READ),
        "reads-bm25": Variant(BASELINE, 1.5, "EM", Ask(top_k=5, gold=False)),
        "fid-bm25": Variant(FID, 2.0, "EM", Ask(top_k=5, gold=False)),
    },
    rules=(
        Best("training finds more than the best head did", tuple(HEADS_AS_THEY_ARE), "trained", 10.0, below=True),
        Above("the trained model finds more than BM25", {"trained": 1, "bm25": -1}),
        Above("the trained model finds more than MiniLM", {"trained": 1, "minilm": -1}),
        Above("reading its finds costs at most 3 points against FiD", {"reads-own": 1, "fid-bm25": -1}, -3.0),
    ),
    figures=Figures(
        says="NQ, recall@20: BM25 63.8, ColBERT-NQ 85.6, ReAtt (4 iterations from BM25) 86.0; the ablations' T5 "
        "before any training 53.6. EM: FiD 51.4, FiD-KD 54.4, ReAtt 54.7",
        y_label="recall@20",
        series={"NQ": {0: 53.6, 1: 86.0, 2: 63.8}},
        x_label="0: before training, 1: ReAtt, 2: BM25",
    ),
    x_label="ReAtt: 1, BM25: 2 (EM: FiD on BM25), MiniLM: 3; the heads before training: 0 to 11",
    note="All passages of squad (3,326), where BM25 is stronger than on Wikipedia. MiniLM, the sentence encoder that "
    "ours begins with, was trained on a billion pairs; its last three layers are not used by our search. The memory "
    "encoder stays as it was.",
)


def _without(**changes: object) -> Variant:
    return Variant(replace(BASELINE, **changes), 0.0, RECALL, OWN)


WITHOUT_LOSS = replace(BASELINE, options={**OPTIONS, "distillation_weight": 0.0}, delayed=())
NO_LOSS = tuple(f"no-cross-document, head {number}" for number in range(HEADS))


def _options(**options: object) -> Variant:
    return _without(options={**OPTIONS, **options})


ABLATIONS = Claim(
    id="reatt-ablations",
    paper="reatt",
    where="Table 3",
    tags=("tab3",),
    says="Retrieval needs the cross-document loss most; in-batch passages, iterations and larger batches help; a small "
    "bi-encoder hurts retrieval.",
    variants={
        "baseline": _without(),
        **{
            name: Variant(WITHOUT_LOSS, 1.0, name, replace(OWN, options={"head": number}))
            for number, name in enumerate(NO_LOSS)
        },
        "no-in-batch": _options(random_passages=False),
        "one-iteration": _without(iterations=1),
        "B-small": _options(live_share=5 / 6),
        "B-large": _options(live_share=1 / 6),
        "batch-half": _without(batch=0.5),
        "alpha-1": _options(distillation_weight=1.0),
    },
    rules=(
        Best("without the cross-document loss no head finds as much", NO_LOSS, "baseline", below=True),
        Above("without in-batch passages it finds less", {"baseline": 1, "no-in-batch": -1}),
        Above("without iterations it finds less", {"baseline": 1, "one-iteration": -1}),
        Above("with a bi-encoder of one layer it finds less", {"baseline": 1, "B-small": -1}),
        Above("with half of the batch it finds less", {"baseline": 1, "batch-half": -1}),
        Above("with a weight of 1 it finds less", {"baseline": 1, "alpha-1": -1}),
    ),
    figures=Figures(
        says="NQ, recall@20 and EM: baseline 82.5, 46.3; without cross-document loss 71.5, 46.0; without in-batch "
        "80.3, 46.7; without iterations 82.0, 45.0; B = 6 of 24 62.4, 40.3; B = 18 79.3, 35.2; half of the batch 82.1, "
        "45.7; alpha 1 80.9, 47.3",
        y_label=RECALL,
        series={"NQ": {-1: 71.5, 0: 82.5, 1: 80.3, 2: 82.0, 3: 62.4, 4: 79.3, 5: 82.1, 6: 80.9}},
        x_label="the variants, in order; -1: without the loss",
    ),
    x_label="the variants, in order; -1: without the loss",
    note="Without the cross-document loss no head is picked, so all twelve are asked; with one iteration none is for "
    "good. What is in memory stays as it is, so that the rows of B differ in what is trained, too: with a bi-encoder "
    "of one layer the five above it, with one of five layers one; in the paper all layers are. Half of the batch sees "
    "half as many questions in as many steps.",
)
PLACES = {name: float(place) for place, name in enumerate(n for n in ABLATIONS.variants if n not in NO_LOSS)}
ABLATIONS = replace(
    ABLATIONS,
    variants={name: replace(variant, x=PLACES.get(name, -1.0)) for name, variant in ABLATIONS.variants.items()},
)

MASKED = Run(
    "reatt", OPTIONS, start=BASELINE, tasks={"masked": 1.0}, world="scifact", gold=False, passages=4, steps=0.6
)
LABELLED = replace(MASKED, tasks={"labels": 1.0})
RANKED = Ask(top_k=5, gold=False, search="own", measure="ndcg@10", questions="scifact")

ADAPTATION = Claim(
    id="reatt-adaptation",
    paper="reatt",
    where="Tables 4 and 6",
    tags=("tab4", "tab6"),
    says="A model trained on questions retrieves better in a new domain once it was trained on masked sentences of its "
    "documents, and nothing else; or on relevance labels, turned into documents to be written.",
    variants={
        "before": Variant(BASELINE, 0.0, ask=RANKED),
        "adapted": Variant(MASKED, 1.0, ask=RANKED),
        "labels": Variant(LABELLED, 1.5, ask=RANKED),
        "bm25": Variant(START, 2.0, ask=replace(RANKED, search="lexical")),
    },
    rules=(
        Above("adapting by documents alone lifts nDCG@10", {"adapted": 1, "before": -1}),
        Above("adapting by relevance labels lifts nDCG@10", {"labels": 1, "before": -1}),
    ),
    figures=Figures(
        says="nDCG@10 before and after: SciFact 71.0, 71.2; TREC-COVID 62.6, 76.0; CQADupStack 33.3, 36.6; SCIDOCS "
        "14.8, 15.8; BM25 66.5, 65.6, 29.9, 15.8. MS MARCO by relevance labels: 32.3, 39.9",
        y_label="nDCG@10",
        series={"SciFact": {0: 71.0, 1: 71.2, 2: 66.5}, "TREC-COVID": {0: 62.6, 1: 76.0, 2: 65.6}},
        x_label="0: before, 1: adapted, 2: BM25",
    ),
    x_label="0: before, 1: adapted by documents, 1.5: by labels, 2: BM25",
    note="SciFact's test claims over its 5,183 abstracts; ours starts from a thousand questions about other texts, "
    "the paper's from NQ. Of a document to be written the first 19 tokens are, its title mostly. Adaptation by "
    "questions (tables 4 and 5) is the training that all of them begin with.",
)

REATT = (AS_IS, TRAINING, ABLATIONS, ADAPTATION)
"""ReAtt's claims, in the order of the paper."""
