"""LUMEN's claims: de Jong et al., "Pre-computed memory or on-the-fly encoding?" (2023), arXiv 2301.10448.

Most of its figures are pictures without numbers in the text; of those only the shape is told here.
"""

from __future__ import annotations

from wellread.claims.claim import Ask, Claim, Figures, Run, Variant
from wellread.claims.rules import Above, Closer, Cost

__all__ = ["LUMEN"]

PICTURE = "shape only: the paper's curve is a figure without numbers. In words:"
# How much worse still counts as about as good, in points of EM.
CLOSE = 3.0
# The first lessons of a reader whose layers are new to it: the right passage alone, for twice the steps of a run.
LESSONS = {"passages": 1, "steps": 2.0}

MEMORY, SIXTH, THIRD, HALF, FID = (
    Run("memory_fid"),
    Run("lumen", {"live_share": 1 / 6}),
    Run("lumen"),
    Run("lumen", {"live_share": 1 / 2}),
    Run("fid"),
)

# The smaller size: the first half of the encoder, taught to read as the larger one was.
SMALL = Run("lumen", start="first-half", **LESSONS)
SMALL_MEMORY, SMALL_THIRD, SMALL_FID = (Run(name, start=SMALL) for name in ("memory_fid", "lumen", "fid"))

SHARES = Claim(
    id="lumen-live-share",
    paper="lumen",
    where="Figures 1 and 3",
    tags=("fig1", "fig3"),
    says="Readers get better with the share of live layers, and a third of them closes most of the gap between pure "
    "memory and FiD.",
    variants={
        "memory": Variant(MEMORY, 0.0),
        "lumen-1/6": Variant(SIXTH, 1 / 6),
        "lumen-1/3": Variant(THIRD, 1 / 3),
        "lumen-1/2": Variant(HALF, 1 / 2),
        "fid": Variant(FID, 1.0),
    },
    rules=(
        Above("FiD is better than pure memory", {"fid": 1, "memory": -1}),
        Above("a third of live layers is better than pure memory", {"lumen-1/3": 1, "memory": -1}),
        Above("a third closes more than half of the gap", {"lumen-1/3": 1, "memory": -0.5, "fid": -0.5}),
    ),
    figures=Figures(
        says=f"{PICTURE} a small share of live layers comes close to FiD, and larger models need a smaller share. "
        "Table 2 states LUMEN-XXL 57.1 and FiD-XXL 57.3 on NQ, 73.1 and 73.0 on TriviaQA (test)",
    ),
    x_label="share of live layers (0: MemoryFiD, 1: FiD)",
)

SIZES = Claim(
    id="lumen-gap-by-size",
    paper="lumen",
    where="Figure 6",
    tags=("fig6",),
    says="LUMEN with a third of live layers closes a larger part of the gap between MemoryFiD and FiD in a larger "
    "model.",
    variants={
        "memory-small": Variant(SMALL_MEMORY, 0.0, "half of the layers"),
        "lumen-small": Variant(SMALL_THIRD, 1 / 3, "half of the layers"),
        "fid-small": Variant(SMALL_FID, 1.0, "half of the layers"),
        "memory": Variant(MEMORY, 0.0, "all layers"),
        "lumen": Variant(THIRD, 1 / 3, "all layers"),
        "fid": Variant(FID, 1.0, "all layers"),
    },
    rules=(
        Closer(
            "LUMEN closes more of the gap with all layers than with half of them (percent of the gap)",
            ("memory", "lumen", "fid"),
            ("memory-small", "lumen-small", "fid-small"),
        ),
    ),
    figures=Figures(says=f"{PICTURE} the part of the gap that is closed grows with scale"),
    x_label="share of live layers (0: MemoryFiD, 1: FiD)",
    note="The two sizes differ in depth alone: the encoder, and its first half, which first learns to read the right "
    "passage for twice the budget.",
)

FLOPS_FID = Claim(
    id="lumen-flops-fid",
    paper="lumen",
    where="Figure 4",
    tags=("fig4",),
    says="For the same quality LUMEN with a third of live layers needs much less compute than FiD.",
    variants={
        "fid-small": Variant(SMALL_FID, 0.5, "FiD"),
        "fid": Variant(FID, 1.0, "FiD"),
        "lumen-small": Variant(SMALL_THIRD, 0.5, "LUMEN 1/3"),
        "lumen": Variant(THIRD, 1.0, "LUMEN 1/3"),
    },
    rules=(
        Above(f"LUMEN is at most {CLOSE:g} points below FiD", {"lumen": 1, "fid": -1}, -CLOSE),
        Cost("LUMEN costs at most .6 of FiD", "lumen", "fid", 0.6),
        Above("LUMEN is better than a FiD of half the layers", {"lumen": 1, "fid-small": -1}),
        Cost("and does not cost more than that", "lumen", "fid-small"),
    ),
    figures=Figures(says=f"{PICTURE} similar performance at lower FLOPs, the more so the larger the model"),
    x_label="GFLOPs a question, counted",
    x="gflops",
    note="The smaller size is the first half of the encoder. FLOPs are counted per question without those of memory.",
)

FLOPS_MEMORY = Claim(
    id="lumen-flops-memory",
    paper="lumen",
    where="Figure 5",
    tags=("fig5",),
    says="LUMEN with a third of live layers is much better than MemoryFiD, even than a larger MemoryFiD.",
    variants={
        "memory-small": Variant(SMALL_MEMORY, 0.5, "MemoryFiD"),
        "memory": Variant(MEMORY, 1.0, "MemoryFiD"),
        "lumen-small": Variant(SMALL_THIRD, 0.5, "LUMEN 1/3"),
        "lumen": Variant(THIRD, 1.0, "LUMEN 1/3"),
    },
    rules=(
        Above("LUMEN is better than MemoryFiD of the same size", {"lumen": 1, "memory": -1}),
        Above("LUMEN with half of the layers is better than MemoryFiD with all", {"lumen-small": 1, "memory": -1}),
    ),
    figures=Figures(
        says=f"{PICTURE} LUMEN 1/3 Base, Large, XL much stronger than MemoryFiD Large, XL, XXL for any FLOP value"
    ),
    x_label="GFLOPs a question, counted",
    x="gflops",
    note="The paper compares at equal FLOPs, which it reaches with wider models. Here both have one width and one "
    "small decoder, every MemoryFiD costs less than any LUMEN, and the verdict is about quality between sizes alone.",
)

# A reader whose encoder is as pretrained and whose decoder can read, taught by squad in several ways.
FROZEN, TRAINED = {}, {"train_memory": True}
SIXTH_FROZEN, SIXTH_TRAINED = {"live_share": 1 / 6}, {"live_share": 1 / 6, "train_memory": True}
LIVE, WITH_MEMORY = ("live", "question"), ("memory", "live", "question")


def _taught(system: str, options: dict) -> Run:
    """Trained on the large task, whose parts are transferred."""
    return Run(system, options, start="pretrained", **LESSONS)


def _small_task(system: str, options: dict, source: dict | None = None, parts: tuple[str, ...] = ()) -> Run:
    """Trained on the small task. source: options of the run on the large task that parts come from."""
    transfer = None if source is None else (_taught(system, source), parts)
    return Run(system, options, start="pretrained", transfer=transfer, tasks={"few_slots": 1.0}, world="wide")


SLOTS = Ask(questions="slots")

TRANSFER = Claim(
    id="lumen-transfer",
    paper="lumen",
    where="Figure 7",
    tags=("fig7",),
    says="Live layers trained on a related task help on a small one, most where few layers are live and hardly in "
    "FiD; there a memory encoder trained before it is frozen helps too.",
    variants={
        "lumen-1/6": Variant(_small_task("lumen", SIXTH_FROZEN), 1 / 6, "no transfer", SLOTS),
        "lumen-1/6 live": Variant(_small_task("lumen", SIXTH_FROZEN, SIXTH_FROZEN, LIVE), 1 / 6, "live", SLOTS),
        "lumen-1/6 memory": Variant(
            _small_task("lumen", SIXTH_FROZEN, SIXTH_TRAINED, WITH_MEMORY), 1 / 6, "live and memory", SLOTS
        ),
        "lumen-1/3": Variant(_small_task("lumen", FROZEN), 1 / 3, "no transfer", SLOTS),
        "lumen-1/3 live": Variant(_small_task("lumen", FROZEN, FROZEN, LIVE), 1 / 3, "live", SLOTS),
        "lumen-1/3 memory": Variant(
            _small_task("lumen", FROZEN, TRAINED, WITH_MEMORY), 1 / 3, "live and memory", SLOTS
        ),
        "fid": Variant(_small_task("fid", {}), 1.0, "no transfer", SLOTS),
        "fid live": Variant(_small_task("fid", {}, {}, ("live",)), 1.0, "live", SLOTS),
    },
    rules=(
        Above("live layers help with 1/3 live", {"lumen-1/3 live": 1, "lumen-1/3": -1}),
        Above("live layers help with 1/6 live", {"lumen-1/6 live": 1, "lumen-1/6": -1}),
        Above(
            "they help 1/6 live more than FiD",
            {"lumen-1/6 live": 1, "lumen-1/6": -1, "fid live": -1, "fid": 1},
        ),
        Above("memory helps further with 1/6 live", {"lumen-1/6 memory": 1, "lumen-1/6 live": -1}),
    ),
    figures=Figures(
        says=f"{PICTURE} from NQ to TriviaQA and WebQuestions gains are large for LUMEN 1/8 and minimal for FiD, "
        "larger for WebQuestions; memory helps where few layers are live only",
    ),
    x_label="share of live layers (1: FiD)",
    note="From squad (twice the budget) to slot filling with 500 training questions. The encoder starts as "
    "pretrained, the decoder as in the start model for all; the question encoder goes with the live layers. 1/6 "
    "stands for the paper's 1/8.",
)

LESSON = _taught("lumen", FROZEN)
SHALLOW = Run("fid", start="first-third", **LESSONS)

DEPTH = Claim(
    id="lumen-memory-depth",
    paper="lumen",
    where="Table 1",
    tags=("tab1",),
    says="A memory encoder twice as deep as the live one, put under a FiD, makes it better without more live FLOPs.",
    variants={
        "fid": Variant(Run("fid", start=SHALLOW), 0.0),
        "lumen-deep": Variant(Run("lumen", start=LESSON), 1.0),
    },
    rules=(
        Above("LUMEN with the memory encoder is better", {"lumen-deep": 1, "fid": -1}),
        Cost(
            "LUMEN costs at most 1.15 of FiD (its question encoder is as deep as the memory)", "lumen-deep", "fid", 1.15
        ),
    ),
    figures=Figures(
        says="FiD Base 47.3 (NQ), 64.4 (TriviaQA); LUMEN Base 24-12 48.9, 65.4",
        series={"NQ": {0: 47.3, 1: 48.9}, "TriviaQA": {0: 64.4, 1: 65.4}},
        x_label="0 FiD, 1 LUMEN with a deeper memory encoder",
    ),
    x_label="0 FiD of a third of the layers, 1 LUMEN with two thirds in memory",
    note="Not pretrained as such shapes: FiD has the first third of the pretrained layers, LUMEN all of them with a "
    "third live. Both learn to read the right passage for twice the budget first, with the start model's decoder.",
)

CONDITIONING = Claim(
    id="lumen-conditioning",
    paper="lumen",
    where="Figure 8",
    tags=("fig8",),
    says="Neither letting the memory encoder see the question nor fine-tuning it makes LUMEN as good as FiD; both are "
    "needed, and seeing the question gives more.",
    variants={
        "lumen": Variant(THIRD, 0.0),
        "fine-tuned": Variant(Run("lumen", {"train_memory": True}), 1.0),
        "conditioned": Variant(Run("lumen", {"condition_memory": True, "question_encoder": "shared"}), 2.0),
        "fid": Variant(FID, 3.0),
    },
    rules=(
        Above("FiD is better than LUMEN with fine-tuned memory", {"fid": 1, "fine-tuned": -1}),
        Above("FiD is better than LUMEN with conditioned memory", {"fid": 1, "conditioned": -1}),
        Above("conditioning gives more than fine-tuning", {"conditioned": 1, "fine-tuned": -1}),
    ),
    figures=Figures(
        says=f"{PICTURE} neither comes close to FiD by itself, conditioning may help more than fine-tuning"
    ),
    x_label="0 LUMEN 1/3, 1 memory fine-tuned, 2 memory conditioned, 3 FiD (both)",
    note="At a live share of 1/3; the paper draws curves over the share.",
)

SIGHT = Claim(
    id="lumen-attention",
    paper="lumen",
    where="Figure 9",
    tags=("fig9",),
    says="What live layers give comes mostly from passages that see the question (mem2q); the question that sees the "
    "passages (q2mem) helps as well.",
    variants={
        "memory": Variant(MEMORY, 0.0),
        "no mem2q": Variant(Run("lumen", {"mem2q": False}), 1.0),
        "no q2mem": Variant(Run("lumen", {"q2mem": False}), 2.0),
        "lumen": Variant(THIRD, 3.0),
    },
    rules=(
        Above("passages that see the question are needed", {"lumen": 1, "no mem2q": -1}),
        Above("they matter more than the other direction", {"no q2mem": 1, "no mem2q": -1}),
        Above("the other direction helps as well", {"lumen": 1, "no q2mem": -1}),
    ),
    figures=Figures(
        says=f"{PICTURE} conditioning the passage on the question is critical, the other direction still helpful"
    ),
    x_label="0 MemoryFiD, 1 no mem2q, 2 no q2mem, 3 both (LUMEN 1/3)",
)

QUESTION = Claim(
    id="lumen-question-encoder",
    paper="lumen",
    where="Figure 10",
    tags=("fig10",),
    says="A question encoder that is fine-tuned is much better than the frozen memory encoder reading the question.",
    variants={
        "frozen": Variant(Run("lumen", {"question_encoder": "shared"}, start="plain-question"), 0.0),
        "tuned": Variant(Run("lumen", start="plain-question"), 1.0),
    },
    rules=(Above("fine-tuned is better than frozen", {"tuned": 1, "frozen": -1}),),
    figures=Figures(says=f"{PICTURE} fine-tuning the question encoder improves performance significantly"),
    x_label="0 frozen, 1 fine-tuned",
    note="Both start with the memory encoder as question encoder, at a live share of 1/3: what the start model's own "
    "question encoder had learned is left aside.",
)

LUMEN = (SHARES, SIZES, FLOPS_FID, FLOPS_MEMORY, TRANSFER, DEPTH, CONDITIONING, SIGHT, QUESTION)
