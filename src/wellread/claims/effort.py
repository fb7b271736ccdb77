"""What a training takes, guessed from its sizes before anything is trained."""

from __future__ import annotations

from wellread.systems.base import System
from wellread.training.config import Recipe

__all__ = ["minutes_of", "training_flops"]

# What a step costs is guessed from these sizes (squad's) and this speed: bf16 on one core of an AMD EPYC with AVX-512.
QUESTION_TOKENS, PASSAGE_TOKENS, TARGET_TOKENS = 15, 157, 6
FLOPS_PER_SECOND = 100e9
FORWARD_AND_BACKWARD = 3


def minutes_of(flops: float) -> float:
    """On one core."""
    return flops / FLOPS_PER_SECOND / 60


def training_flops(recipe: Recipe, system: System) -> float:
    """Of a training, roughly: layers, cross-attention, decoder and output layer, forward and backward."""
    reader, passages = system.reader, recipe.data.top_k
    if not hasattr(reader, "decoder"):
        return _read_apart(recipe, system)
    width, depth = reader.encoder.dim, reader.decoder.num_layers
    layer, cross, decode = (2 * weights * width**2 for weights in (12, 2 * depth, 14 * depth))
    said = TARGET_TOKENS * (decode + 2 * reader.decoder.vocab_size * width)
    memory = 0.0
    if recipe.data.memory is None:
        backward = FORWARD_AND_BACKWARD if system.train_memory else 1
        memory = passages * PASSAGE_TOKENS * system.cut * layer * backward
    live = passages * (QUESTION_TOKENS + PASSAGE_TOKENS) * (reader.encoder.num_layers - system.cut) * layer
    question = QUESTION_TOKENS * system.cut * layer
    attended = passages * (QUESTION_TOKENS + PASSAGE_TOKENS) * cross
    alone = attended + passages * said if hasattr(system, "scorer") else 0.0  # every passage against the answer
    once = FORWARD_AND_BACKWARD * (live + question + attended + said) + memory + alone
    return once * recipe.training.batch_size * recipe.training.steps


def _read_apart(recipe: Recipe, system: System) -> float:
    """Of a training where every passage is read apart, with its key made anew, and the null passage beside them."""
    layers, width = system.reader.encoder.num_layers, system.reader.encoder.dim
    read = recipe.data.top_k * (QUESTION_TOKENS + PASSAGE_TOKENS) + QUESTION_TOKENS
    once = (read + recipe.data.top_k * PASSAGE_TOKENS) * layers * 24 * width**2
    return FORWARD_AND_BACKWARD * once * recipe.training.batch_size * recipe.training.steps
