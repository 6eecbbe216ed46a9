"""Tables of reports as CSV and LaTeX."""

import csv
import io
import shutil
import subprocess

import pytest

from cpep_edge.report_table import Table, to_csv, to_latex

ODD = "50 % of a_b & {c} \\ $x^2$ #1 ~ ±µ"
FIRST = Table(("recipe", "accuracy"), (("a, b", "0.5"), (ODD, 'say "1"')), "A note.", "first")
SECOND = Table(("recipe", "accuracy"), (("c", "0.6"),), name="second")


def test_csv_is_read_back_as_it_was():
    rows = list(csv.reader(io.StringIO(to_csv([FIRST, SECOND]))))
    assert rows == [["table", "recipe", "accuracy"], *(["first", *row] for row in FIRST.rows), ["second", "c", "0.6"]]


def test_latex_escapes_everything_and_balances():
    text = to_latex([FIRST])
    body = text.replace(r"\{", "").replace(r"\}", "")
    assert body.count("{") == body.count("}")
    assert r"50 \% of a\_b \& \{c\} \textbackslash{} \$x\textasciicircum{}2\$ \#1" in text
    assert text.count(r"\\") == 1 + len(FIRST.rows)


def test_latex_is_taken_by_latex(tmp_path):
    if shutil.which("pdflatex") is None:
        pytest.skip("pdflatex is not installed: apt-get install texlive-latex-base")
    document = rf"\documentclass{{article}}\usepackage{{booktabs}}\begin{{document}}{to_latex([FIRST])}\end{{document}}"
    (tmp_path / "a.tex").write_text(document)
    subprocess.run(["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "a.tex"], cwd=tmp_path, check=True)


def test_the_page_escapes_words_and_keeps_what_its_parts_made():
    pytest.importorskip("jinja2")
    from cpep_edge.report_page import Section, folded, page, paragraph, table

    body = table(Table(("<i>", "b"), (("<script>", "&"),), name="<u>")) + folded("<s>", paragraph("a < b"))
    text = page("<k>", "<t>", "<o>", [Section("<h>", body)] * 3, cards=[("<v>", "<n>")], warnings=["<w>"])
    for tag in ("<i>", "<script>", "<u>", "<s>", "<k>", "<t>", "<o>", "<h>", "<v>", "<n>", "<w>"):
        assert tag not in text
        assert tag.replace("<", "&lt;").replace(">", "&gt;") in text
    assert text.count("<table") == 3
    assert text.count('href="#s') == 3
