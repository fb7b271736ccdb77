"""CSV and TSV files: quotes left open, headers, and tables told in sentences."""

from __future__ import annotations

import pytest

from wellread.corpus import Document, Problem, read_documents


def both(path) -> tuple[list[Document], list[Problem]]:
    found = list(read_documents(path))
    return [i for i in found if isinstance(i, Document)], [i for i in found if isinstance(i, Problem)]


def documents(path) -> list[Document]:
    found, problems = both(path)
    assert not problems
    return found


def triples(found) -> list[tuple]:
    return [(item.id, item.title, item.text) for item in found]


def test_csv_with_line_ends_in_a_field_and_a_quote_left_open(tmp_path):
    text = 'id,text\n1,"two\n\nlines, ""quoted"""\n2,"left open\n3,"fine, too"\n4,5" disk\n5,a,b\n6,end\n'
    (tmp_path / "a.csv").write_text(text)
    found, problems = both(tmp_path / "a.csv")
    kept = {item.id: item.text for item in found}
    assert kept == {"1": 'two\n\nlines, "quoted"', "3": "fine, too", "4": '5" disk', "6": "end"}
    assert [item.line for item in problems] == [5, 8]
    assert "has 3 columns; the header has 2" in str(problems[1])


def test_csv_without_a_header_says_so(tmp_path):
    (tmp_path / "a.csv").write_text("1,2\n3,4\n")
    found, problems = both(tmp_path / "a.csv")
    assert not found
    assert "a.csv:1: names no column text or passage" in str(problems[0])


@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
def test_a_table_without_a_text_column_is_told_column_by_column(tmp_path, delimiter):
    rows = [["Product No", "Name", "Price", "Note"], ["17", "Garden hose", "€ 24.50", ""], ["18", "Rake", "12", "new"]]
    (tmp_path / "prices.csv").write_text("\n\n" + "\n".join(map(delimiter.join, [*rows, [""] * 4])) + "\n1\n")
    found, problems = both(tmp_path / "prices.csv")
    assert [(item.title, item.text) for item in found] == [
        ("Garden hose", "The product no is 17. The name is Garden hose. The price is € 24.50."),
        ("Rake", "The product no is 18. The name is Rake. The price is 12. The note is new."),
    ]
    assert found[1].metadata == {"file": "prices.csv", "product no": "18", "name": "Rake", "price": "12", "note": "new"}
    assert [str(item).rsplit(": ", 1)[1] for item in problems] == ["has 1 columns; the header has 4"]


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        (
            'id,title,price\nx1,"Rake, large",12\n',
            (None, "Rake, large", "The id is x1. The title is Rake, large. The price is 12."),
        ),
        (",thing,In stock?\n0,rake,3\n", (None, "rake", "The thing is rake. The in stock? is 3.")),
        ('"Name, full",Age,\n"Doe, J.",31,\n', (None, "Doe, J.", "The name, full is Doe, J. The age is 31.")),
        (
            "file,owner,name\nplan.pdf,Eve,Plan\n",
            (None, "plan.pdf", "The file is plan.pdf. The owner is Eve. The name is Plan."),
        ),
        ("code,wikipedia_title\nab1,Paris\n", (None, "Paris", "The code is ab1. The wikipedia title is Paris.")),
        ("city,2019,2020\nBrno,5,6\n", (None, "Brno", "The city is Brno. The 2019 is 5. The 2020 is 6.")),
        (
            "name,role\nBob,body\n",
            (None, "Bob", "The name is Bob. The role is body."),
        ),  # "body" holds the text where it is a name
    ],
)
def test_headers_of_tables(tmp_path, text, wanted):
    (tmp_path / "a.csv").write_text(text)
    assert triples(documents(tmp_path / "a.csv")) == [wanted]


@pytest.mark.parametrize(
    "text",
    [
        "who is it?\tBob\nwho else?\tEve\n",
        "Bob Smith,engineer,Berlin\nEve Jones,doctor,Paris\n",  # nothing says that the first line is a header
        "INFO,started,ok\nWARN,slow,ok\n",
        "Bob,manager,Berlin\nEve,doctor,Paris\n",
        "color,red\nsize,XL\nweight,3 kg\n",
        "Widget,n/a,5\nBolt,3,6\n",
        "a,a\n1,2\n",
        "name,price\n",  # nothing but a header
        "one column\nof words\n",
    ],
)
def test_what_is_no_table_is_left_out(tmp_path, text):
    (tmp_path / "a.csv").write_text(text)
    found, problems = both(tmp_path / "a.csv")
    assert not found
    assert "names no column text or passage" in str(problems[0])


@pytest.mark.parametrize(
    "title", ["Suppliers of 2026;;", "Suppliers, customers", "Suppliers, and others, of 2026\nconfidential"]
)
def test_a_title_above_a_table_is_passed_over(tmp_path, title):
    (tmp_path / "a.csv").write_text(f"{title}\n\nName;Days;City\nKabelwerk;14;Jena\nKabel, Rohr;3,5;Brno\n")
    found, problems = both(tmp_path / "a.csv")
    assert [item.text for item in found] == [
        "The name is Kabelwerk. The days is 14. The city is Jena.",
        "The name is Kabel, Rohr. The days is 3,5. The city is Brno.",
    ]
    assert {str(item).rsplit(": ", 1)[1] for item in problems} == {"comes before the header"}


def test_rows_say_their_file_and_keep_a_column_of_that_name(tmp_path):
    (tmp_path / "a.csv").write_text("text,file\nhello,plan.pdf\nthere,\n")
    assert [item.metadata for item in documents(tmp_path / "a.csv")] == [
        {"file": "a.csv", "column file": "plan.pdf"},
        {"file": "a.csv"},
    ]


def test_a_header_further_down_is_found_before_a_table(tmp_path):
    (tmp_path / "a.csv").write_text("Report,2020\nid,text\n1,words\n2,more\n")
    assert [item.text for item in both(tmp_path / "a.csv")[0]] == ["words", "more"]


def test_long_csv_fields_pass(tmp_path):
    (tmp_path / "a.csv").write_text('id,text\n1,"' + "word " * 60_000 + '"\n')
    assert len(documents(tmp_path / "a.csv")[0].text) == 300_000
