# What REALM's recipes and claims read: two small parts of a Wikipedia, sentences with something masked, and memories.
#
# command:  sh recipes/realm/data.sh            (about a minute; what is there is made again)
# before:   WELLREAD_DATA; runs/wiki18 (corpus and lexical index), which benchmarks/whole_wiki.py makes
set -e
out=runs/realm
rm -rf $out/articles $out/corpus $out/cold $out/articles-memory $out/cold-memory $out/cloze.jsonl.gz
python recipes/realm/select_passages.py --corpus runs/wiki18/corpus --index runs/wiki18/index --out $out
cat $out/nq_train.jsonl $out/webquestions_train.jsonl $out/curatedtrec_train.jsonl > $out/open_train.jsonl
cat $out/nq_dev.jsonl $out/webquestions_test.jsonl > $out/open_dev.jsonl

# Names and dates masked in sentences whose own passage is hidden; the last 800 are held out.
masked() {
    wellread questions masked $out/articles "$@" --limit 10000 --per-passage 3 --hide-own --tokenizer default \
        --most-tokens 46 --most-words 32
}
masked --finder rules --out $out/masked_all.jsonl
head -n -800 $out/masked_all.jsonl > $out/masked.jsonl
tail -n 800 $out/masked_all.jsonl > $out/heldout.jsonl
# The same with the passages the sentences were taken from as what is to be read.
sed -E 's/"positive": \[\](.*), "hidden": (\["[^"]*"\])/"positive": \2\1/' $out/masked.jsonl > $out/told.jsonl

# As many with random words masked, and with random spans, from passages of which nothing is held out.
many=$(wc -l < $out/masked.jsonl)
sed -E 's/.*"hidden": \["([^"]*)"\].*/"\1"/' $out/heldout.jsonl | sort -u > $out/heldout.ids
for finder in random-tokens random-spans; do
    share=$([ $finder = random-tokens ] && echo "--share 0.15" || true)
    masked --finder $finder $share --out $out/$finder-all.jsonl
    grep -vFf $out/heldout.ids $out/$finder-all.jsonl | head -n "$many" > $out/$finder.jsonl
done

# Sentences whose passage is to be found, for the warm start.
wellread questions cloze $out/articles --out $out/cloze.jsonl.gz

# The sentence encoder as both towers and reader, untrained, and what it reads in both corpora.
wellread init --system realm --set pool=mean --set tower_layers=6 --frame 'question={question}' \
    --frame 'passage={title} [SEP] {text}' --frame question_tokens=48 --frame passage_tokens=80 \
    --frame answer_tokens=12 --out $out/cold
wellread memorize $out/articles --model $out/cold --precision bf16 --out $out/articles-memory
wellread memorize $out/corpus --model $out/cold --precision bf16 --out $out/cold-memory
