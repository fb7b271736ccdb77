"""Mistakes with memories."""

from __future__ import annotations

from dataclasses import replace

from error_rows.kit import ASK, Place, Row, cut_short, more


def later_memory(place: Place) -> None:
    from wellread.memory.manifest import Manifest

    folder = place.own("memory")
    replace(Manifest.read(folder), format=2).write(folder)


def flip_a_letter(place: Place) -> None:
    (file,) = (place.own("memory") / "rows.lance" / "data").iterdir()
    raw = file.read_bytes()
    assert raw.count(b"largest planet") == 1
    file.write_bytes(raw.replace(b"largest planet", b"largest plbnet"))


def cut_rows_short(place: Place) -> None:
    (file,) = (place.own("memory") / "rows.lance" / "data").iterdir()
    cut_short(file)


TOPICS: dict[str, list[Row]] = {
    "Memory": [
        Row(
            "memory-missing",
            "a memory that does not exist",
            "ask 'Which planet?' --model model --memory nowhere",
            r"nowhere is not a memory \(it has no memory\.json\); build one with `wellread memorize`\.",
        ),
        Row(
            "not-a-memory",
            "a folder that is no memory",
            "memory info corpus",
            r"corpus is not a memory \(it has no memory\.json\); build one with `wellread memorize`\.",
        ),
        Row(
            "memory-of-another-model",
            "a memory that another model made",
            "ask 'Which planet?' --model other-model --memory memory",
            r"the memory does not fit the model: encoder is '\S+' in the memory and '\S+' in the model\. "
            r"Memorize the corpus again with this model, or load the model the memory was made with\.",
        ),
        Row(
            "memory-format",
            "a memory of another version of wellread",
            ASK,
            r"memory/memory\.json has format 2; this wellread reads format 1\. "
            r"Install the wellread that wrote it, or memorize the corpus again\.",
            later_memory,
        ),
        Row(
            "unknown-codec",
            "a codec that does not exist",
            "memorize corpus --model model --codec int9 --out new",
            r"codec='int9' is unknown; use one of: bf16, int8, pq8, pq16\. Did you mean 'int8'\?",
        ),
        Row(
            "codec-changed",
            "another codec for a memory that is there",
            "memorize corpus --model model --codec int8 --out memory",
            r"memory holds a memory begun with other arguments: codec='int8' \(it has 'bf16'\)\. "
            r"Give the same again to continue it, or choose another directory\.",
            lambda place: place.own("memory"),
        ),
        Row(
            "memory-over-else",
            "a folder of something else as --out",
            "memorize corpus --model model --out corpus",
            r"corpus is no memory and holds 'corpus\.json'; give a new directory\.",
        ),
        Row(
            "memory-retriever",
            "a retriever that does not exist",
            "memorize corpus --model model --retriever bm25 --out new",
            r"retriever='bm25' is unknown; use one of: lexical, dense, visual, reatt, vectors, reveal, hybrid, given\.",
        ),
        Row(
            "memory-add-taken",
            "adding a passage whose id is taken",
            "memory add memory more --model model",
            r"passage id='io' is in memory memory with another text; replace it with `wellread memory update`\.",
            lambda place: (place.own("memory"), more(place, "io")),
        ),
        Row(
            "memory-sync-with-another-corpus",
            "another corpus for a memory that is brought up to date",
            "memory sync memory more --model model",
            r"none of the 6 passages of memory is in the corpus, so all would be deleted; check the corpus, or, where "
            r"every text has changed, add --replace-all\.",
            lambda place: (place.own("memory"), more(place, "pluto")),
        ),
        Row(
            "memory-update-unknown",
            "replacing a passage that is not there",
            "memory update memory more --model model",
            r"passage id='pluto' is not in memory memory; put it there with `wellread memory add`\.",
            lambda place: (place.own("memory"), more(place, "pluto")),
        ),
        Row(
            "memory-delete-unknown",
            "deleting a passage that is not there",
            "memory delete memory pluto",
            r"passages 'pluto' are not in memory memory \(6 passages\); nothing was deleted\. "
            r"`wellread memory list memory` tells the ids, `wellread memory delete memory --where file=FILE` forgets "
            r"what came from a file, `wellread memory sync` what is no longer in a corpus\.",
        ),
        Row(
            "memory-delete-nowhere",
            "deleting what came from a file that the memory has nothing of",
            "memory delete memory --where file=pluto.txt",
            r"no passage of memory memory has file=pluto\.txt; `wellread memory list memory` tells ids and files\.",
            lambda place: place.own("memory"),
        ),
        Row(
            "memory-cut-short",
            "asking a memory that was copied in part",
            ASK,
            r"memory memory cannot be read \(.*\); `wellread memory verify memory` names what is damaged\. "
            r"Restore it from a copy or memorize again\.",
            cut_rows_short,
        ),
        Row(
            "memory-flipped",
            "looking for damage where a byte was flipped",
            "memory verify memory",
            r"memory: 6 passages, 1 damaged: jupiter",
            flip_a_letter,
            code=1,
        ),
    ],
}
