"""REVEAL's claims: Hu et al., "REVEAL: Retrieval-Augmented Visual-Language Pre-Training" (2023), arXiv 2212.05221."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from wellread.claims.claim import Ask, Claim, Figures, Run, Variant
from wellread.claims.rules import Above

__all__ = ["REVEAL"]

# The nets of recipes/reveal/parts/system.toml. The patches are those of efficientnet-lite0+colours.
OPTIONS: dict[str, Any] = {
    "sources": ["facts", "things", "pictures"],
    "num_latents": 8,
    "picture_dim": 1328,
    "picture_colours": 48,
    "patches": 49,
    "words": True,
    "temperature": 0.03,
    "contrastive_weight": 0.3,
}
WARMED = Run(
    "reveal",
    {**OPTIONS, "reencoded": 0, "renewed": 1, "generation_weight": 0.0, "contrastive_weight": 1.0},
    tasks={"vqa": 1.0},
    world="pictures",
    passages=3,
    batch=4.0,
    rate=5 / 3,
)
BASELINE = Run("reveal", OPTIONS, start=WARMED, tasks={"vqa": 1.0}, world="pictures", passages=4, rate=2 / 3)
COLD = replace(BASELINE, start="base")
READ = Ask(top_k=4, gold=False, search="own", questions="vqa")


def _with(**options: Any) -> Run:
    return replace(BASELINE, options={**OPTIONS, **options})


def _asked(**changes: Any) -> Variant:
    return Variant(BASELINE, ask=replace(READ, **changes))


MEMORY = Claim(
    id="reveal-memory-helps",
    paper="reveal",
    where="Section 4; appendix C",
    tags=("sec4",),
    says="A memory of knowledge answers questions about pictures that the same model cannot answer without it.",
    variants={
        "with-memory": Variant(BASELINE, 1.0, ask=READ),
        "without": Variant(_with(fusion="none"), 0.0, ask=READ),
        "memory-taken-away": Variant(BASELINE, 0.5, ask=replace(READ, options={"fusion": "none"})),
    },
    rules=(
        Above("the memory helps a model that was trained with it", {"with-memory": 1, "without": -1}),
        Above("taken away after training, its answers are gone", {"with-memory": 1, "memory-taken-away": -1}),
    ),
    figures=Figures(says="OK-VQA: REVEAL-Base with all sources 55.2; the text has no figure of it without memory"),
    x_label="0: trained and asked without memory, 0.5: asked without, 1: with",
    note="Countries of the dev questions are not in the training questions: what is known of them is in the memory "
    "alone. Answers are whole strings, any of several.",
)

NUMBERS = (1, 2, 4, 8, 16)
K = Claim(
    id="reveal-k",
    paper="reveal",
    where="Appendix B, table 1 (columns)",
    tags=("apptab1",),
    says="More retrieved entries help, and the gain from the last doubling is small.",
    variants={f"k-{count}": replace(_asked(top_k=count), x=float(count)) for count in NUMBERS},
    rules=(
        Above("four entries are more than one", {"k-4": 1, "k-1": -1}),
        Above("the last doubling gives at most 2 points", {"k-8": 1, "k-16": -1}, -2.0),
    ),
    figures=Figures(
        says="OK-VQA, c = 32, K = 10, 20, 50, 100: 51.3, 53.7, 54.8, 55.2",
        series={"c = 32": {10: 51.3, 20: 53.7, 50: 54.8, 100: 55.2}},
        x_label="K",
        y_label="accuracy",
    ),
    x_label="K, asked; trained with 4",
    note="One entry holds the answer of our questions; theirs need several.",
)


def _values(number: int, *, compress: str = "perceiver", **options: Any) -> Variant:
    """Values alone are read; the warm start makes as many, under the same losses."""
    options |= {"num_latents": number}
    warmed = replace(WARMED, options={**WARMED.options, **options})
    run = replace(_with(compress=compress, reencoded=0, renewed=2, **options), start=warmed)
    return Variant(run, float(number), ask=READ)


LATENTS = Claim(
    id="reveal-latents",
    paper="reveal",
    where="Appendix B, table 1 (rows)",
    tags=("apptab1",),
    says="A Perceiver's value tokens are better than the first tokens of the encoder, and a middle number is enough.",
    variants={
        "c-4": _values(4),
        "c-8": _values(8),
        "c-16": _values(16),
        "first-8": replace(_values(8, compress="first"), series="first tokens"),
    },
    rules=(
        Above("the Perceiver's tokens are better than the first ones", {"c-8": 1, "first-8": -1}),
        Above("twice as many tokens give at most 2 points", {"c-8": 1, "c-16": -1}, -2.0),
    ),
    figures=Figures(
        says="OK-VQA, K = 10: c = 16, 32, 64: 50.7, 51.3, 50.9; the first 32 tokens 49.7",
        series={"Perceiver": {16: 50.7, 32: 51.3, 64: 50.9}, "first tokens": {32: 49.7}},
        x_label="c",
        y_label="accuracy",
    ),
    x_label="c",
    note="Without the text of the best entries (reencoded = 0), as in the paper: values alone are read. Each c has a "
    "warm start of its own; the first tokens go on from that of c = 8. A Perceiver with random weights has seen a few "
    "thousand questions here; theirs was pre-trained on millions.",
)

REGULARISERS = Claim(
    id="reveal-regularisers",
    paper="reveal",
    where="Appendix B, table 1 (rows)",
    tags=("apptab1",),
    says="Decorrelation and alignment of the value tokens both help.",
    variants={
        "both": _values(8),
        "no-decorrelation": _values(8, decorrelation_weight=0.0),
        "no-alignment": _values(8, alignment_weight=0.0),
    },
    rules=(
        Above("decorrelation helps", {"both": 1, "no-decorrelation": -1}),
        Above("alignment helps", {"both": 1, "no-alignment": -1}),
    ),
    figures=Figures(
        says="OK-VQA, K = 10: both 51.3, without L_decor 50.8, without L_align 50.9",
        series={"c = 32": {0: 51.3, 1: 50.8, 2: 50.9}},
        x_label="0: both, 1: without L_decor, 2: without L_align",
        y_label="accuracy",
    ),
    x_label="0: both, 1: without decorrelation, 2: without alignment",
    note="Values alone are read. A loss is left out of the warm start too.",
)
REGULARISERS = replace(
    REGULARISERS,
    variants={name: replace(each, x=float(place)) for place, (name, each) in enumerate(REGULARISERS.variants.items())},
)

WARM = Claim(
    id="reveal-warm-start",
    paper="reveal",
    where="Appendix C, table 2",
    tags=("apptab2",),
    says="Without the contrastive warm start the retriever finds little, and answers suffer.",
    variants={
        "warm": Variant(BASELINE, 1.0, ask=READ),
        "cold": Variant(replace(COLD, options={**OPTIONS, "contrastive_weight": 0.0}), 0.0, ask=READ),
    },
    rules=(Above("the warm start helps", {"warm": 1, "cold": -1}),),
    figures=Figures(
        says="OK-VQA, pre-trained on WIT: 51.1, without L_contra 47.6",
        series={"WIT": {1: 51.1, 0: 47.6}},
        x_label="0: without, 1: with",
        y_label="accuracy",
    ),
    x_label="0: without, 1: with",
    note="Without the warm start nothing but the answers teaches the retriever (contrastive_weight = 0).",
)

SOURCES = Claim(
    id="reveal-sources",
    paper="reveal",
    where="Appendix D, table 3 (columns)",
    tags=("apptab3",),
    says="All sources together are better than each alone, and the gate finds the right one.",
    variants={
        "all": Variant(BASELINE, 0.0, ask=READ),
        "facts": replace(_asked(sources=("facts",)), x=1.0),
        "things": replace(_asked(sources=("things",)), x=2.0),
        "pictures": replace(_asked(sources=("pictures",)), x=3.0),
        "no-gate": replace(_asked(options={"gated": False}), x=4.0),
    },
    rules=(
        *(Above(f"all sources are more than {name}", {"all": 1, name: -1}) for name in ("facts", "things", "pictures")),
        Above("with the gate more than without it", {"all": 1, "no-gate": -1}),
    ),
    figures=Figures(
        says="All four sources together are best for REVEAL-Base on OK-VQA, and each one adds to the others"
    ),
    x_label="0: all, 1: facts, 2: things, 3: pictures, 4: all without the gate",
    note="One training; what is searched differs.",
)

VISUAL = Claim(
    id="reveal-visual-only",
    paper="reveal",
    where="Appendix D, table 3",
    tags=("apptab3",),
    says="A retriever of picture and question together is better than a frozen image encoder alone.",
    variants={
        "both": Variant(BASELINE, 1.0, ask=READ),
        "looks": replace(_asked(search="visual"), x=0.0),
    },
    rules=(Above("picture and question together are better than looks", {"both": 1, "looks": -1}),),
    figures=Figures(
        says="OK-VQA, from all sources: frozen ViT 50.4, trained ViT 53.0, REVEAL 55.2",
        series={"all": {0: 50.4, 0.5: 53.0, 1: 55.2}},
        x_label="0: frozen ViT, 0.5: trained ViT, 1: REVEAL",
        y_label="accuracy",
    ),
    x_label="0: looks alone, frozen, 1: REVEAL",
    note="Entries without a picture cannot be found by looks. The trained image encoder is not tried: ours is frozen.",
)

FUSION = Claim(
    id="reveal-fusion",
    paper="reveal",
    where="Appendix F; section 3.3",
    tags=("appF",),
    says="p(z | x) inside the fusion layers teaches the retriever: with it, answers alone make a better one.",
    variants={
        "attentive": Variant(_with(contrastive_weight=0.0), 1.0, ask=READ),
        "plain": Variant(_with(contrastive_weight=0.0, fusion="plain"), 0.0, ask=READ),
    },
    rules=(Above("attentive fusion is better than plain fusion", {"attentive": 1, "plain": -1}),),
    figures=Figures(
        says="A picture in the paper: attentive fusion is best of the ways to train a retriever from answers"
    ),
    x_label="0: plain, 1: attentive",
    note="After the same warm start both go on without the contrastive loss.",
)

REVEAL = (MEMORY, K, LATENTS, REGULARISERS, WARM, SOURCES, VISUAL, FUSION)
"""REVEAL's claims, the whole before its parts."""
