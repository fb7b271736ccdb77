# The corpora and the folder of pictures of REVEAL's recipes.
#
# command:  sh recipes/reveal/corpora.sh
# before:   WELLREAD_DATA; pip install '.[vision]'
set -e
knowledge="$WELLREAD_DATA/images/knowledge.jsonl.gz"
images="$WELLREAD_DATA/images/images.parquet"
# Pictures that are asked about are no entries: of the dev part, only the reference flags are.
set -- --source "facts=$knowledge?kind=country" --source "things=$knowledge?kind=synset" \
    --source "pictures=$images?split=train" --source "pictures=$images?style=reference" \
    --illustrate "$images?style=reference" --illustrate "$images?split=train"

wellread pictures "$images" --out runs/reveal/pictures
wellread corpus "$@" --out runs/reveal/small

python recipes/reveal/choose.py --out runs/reveal/chosen
chosen=runs/reveal/chosen
wellread corpus "$@" --source wikipedia=$chosen/pages.jsonl --source freebase=$chosen/freebase.jsonl \
    --source wordnet=$chosen/wordnet.jsonl --source questions=pairs:$chosen/pairs.jsonl --out runs/reveal/taught
wellread corpus "$@" --source wikipedia=$chosen/pages-many.jsonl \
    --source "freebase=$WELLREAD_DATA/kg/fb15k237_train.jsonl.gz" \
    --source "wordnet=$WELLREAD_DATA/kg/wordnet_nouns.jsonl.gz" \
    --source "questions=pairs:$WELLREAD_DATA/images/vqa_train.jsonl.gz" \
    --source "questions=pairs:$WELLREAD_DATA/qa/webquestions_train.jsonl.gz" --out runs/reveal/many
