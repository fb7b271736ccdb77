"""Step 1: documents -> passages, and question files -> questions.

files      bytes -> lines of text, plain or packed, in whatever encoding
documents  the values inside this step: Document, Problem; a record (a row with named fields) -> Document
readers    which files a source has and which reader each one gets
json_files JSON lines, JSON, SQuAD
csv_files  CSV, TSV
evidence   claims that bring their own passages: the corpus they make, and the ids they name
captions   pictures with captions, in tables and folders
graphs     triples grouped by subject, WordNet
pairs      questions with answers as entries
tables     Parquet, Arrow, folders saved by the `datasets` library
pages      plain text, Markdown, HTML
cutting    Document -> passages, by words, tokens or paragraphs
store      Corpus: a folder of passages, memory-mapped, looked up by id
sources    what each source is called, which of its rows count, which pictures go with them
picture_sources  pictures of sources -> a folder of pictures
ingest     all of it in one call
questions  question files of the usual layouts -> Question, row by row (question_rows)
writing    Question -> question files
salient    sentences -> names and dates in them, or random spans
masking    passages -> questions: sentences with a span masked
labels     relevance labels -> questions that are answered with a relevant document
"""

from wellread.corpus.cutting import Cutting
from wellread.corpus.documents import Document, Problem
from wellread.corpus.ingest import IngestReport, ingest
from wellread.corpus.labels import relevance_questions
from wellread.corpus.masking import masked_questions
from wellread.corpus.questions import iter_questions, read_qrels, read_questions
from wellread.corpus.readers import FORMATS, read_documents
from wellread.corpus.sources import Source
from wellread.corpus.store import Corpus, CorpusWriter
from wellread.corpus.writing import write_questions

__all__ = [
    "FORMATS",
    "Corpus",
    "CorpusWriter",
    "Cutting",
    "Document",
    "IngestReport",
    "Problem",
    "Source",
    "ingest",
    "iter_questions",
    "masked_questions",
    "read_documents",
    "read_qrels",
    "read_questions",
    "relevance_questions",
    "write_questions",
]
