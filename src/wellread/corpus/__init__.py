"""Step 1: documents -> passages, and question files -> questions.

files      bytes -> lines of text, plain or packed, in whatever encoding
documents  the values inside this step: Document, Problem; a record (a row with named fields) -> Document
readers    which files a source has and which reader each one gets
json_files JSON lines, JSON, SQuAD
csv_files  CSV, TSV
evidence   claims that bring their own passages: the corpus they make, and the ids they name
tables     Parquet, Arrow, folders saved by the `datasets` library
pages      plain text, Markdown, HTML
cutting    Document -> passages, by words, tokens or paragraphs
store      Corpus: a folder of passages, memory-mapped, looked up by id
ingest     all of it in one call
questions  question files of the usual layouts -> Question
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
    "ingest",
    "iter_questions",
    "masked_questions",
    "read_documents",
    "read_qrels",
    "read_questions",
    "relevance_questions",
    "write_questions",
]
