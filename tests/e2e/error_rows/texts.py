"""Mistakes with texts that are continued or scored."""

from __future__ import annotations

from error_rows.chunks import cut
from error_rows.kit import Place, Row


def language_model(place: Place) -> None:
    """A tiny language model whose chunks have 4 tokens, with the tokenizer of the world's model."""
    from wellread.model import build_model, save_model
    from wellread.nn.building import build_from

    nets = build_from("scratch", kind="decoder", tokenizer=place.folder / "model", dim=16, layers=1, heads=2)
    save_model(place.folder / "speaker", build_model("retro", {"chunk_tokens": 4}, *nets))


def texts_and_model(place: Place) -> None:
    cut(place)
    language_model(place)


def text_recipe(place: Place) -> None:
    place.write(
        "texts.toml", '[system]\nname = "retro"\n[texts]\nchunks = "texts"\nk = -1\n[data]\ncorpus = "corpus"\n'
    )


TOPICS: dict[str, list[Row]] = {
    "Texts": [
        Row(
            "texts-and-questions",
            "questions and texts to evaluate at once",
            "eval --model model --questions questions.jsonl --texts texts",
            r"--questions and --texts: give one of them, questions to answer or texts to score\.",
        ),
        Row(
            "continue-reader",
            "a text for a model that answers questions",
            "continue 'The largest planet' --model model",
            r"\w+ is no language model that continues texts; see `wellread systems`\.",
        ),
        Row(
            "ask-language-model",
            "a question for a model that continues texts",
            "ask 'Which planet?' --model speaker --corpus corpus --index index",
            r"retro continues texts and answers no questions; use wellread continue, or wellread eval with --texts\.",
            language_model,
        ),
        Row(
            "continue-nothing",
            "an empty text to continue",
            "continue ' ' --model speaker",
            r"text=' ' is empty; give a text to continue\.",
            language_model,
        ),
        Row(
            "texts-of-another-tokenizer",
            "texts that were cut with another tokenizer than the model's",
            "eval --model other --texts texts",
            r"the chunks in \S*texts were cut with another tokenizer than this model's; cut them with it: "
            r"wellread chunks cut CORPUS --tokenizer MODEL\.",
            lambda place: (texts_and_model(place), _with_other_words(place)),
        ),
        Row(
            "overlap-without-neighbours",
            "overlap with neighbours that are not given",
            "eval --model speaker --texts texts --overlap",
            r"--overlap needs neighbours to compare with; give --neighbours\.",
            texts_and_model,
        ),
        Row(
            "recipe-of-texts",
            "a recipe with texts and questions, and a wrong number of neighbours",
            "train texts.toml --out run",
            r"\[data\] is given beside \[texts\]; a run reads questions or texts\.; data\.index and .*; texts\.k=-1; "
            r"it must be at least 0\.",
            text_recipe,
        ),
        Row(
            "decoder-from-nowhere",
            "a language model from a folder that does not exist",
            "init --system retro --from nowhere --out new-model",
            r"source='nowhere' is no folder; give a hub folder, a \.gguf file, 'default' or 'scratch'\.",
        ),
    ],
}


def _with_other_words(place: Place) -> None:
    from wellread.model import build_model, save_model
    from wellread.nn.building import build_from

    nets = build_from("scratch", kind="decoder", texts=["other words"], vocab_size=260, dim=16, layers=1, heads=2)
    save_model(place.folder / "other", build_model("retro", {"chunk_tokens": 4}, *nets))
