from cpep_bench.report import read_report
from readme_table import PAGE, REPORTS, _file, with_table


def test_the_page_holds_what_the_committed_reports_say():
    reports = {name: read_report(_file(folder)) for name, folder in REPORTS.items()}
    text = PAGE.read_text(encoding="utf-8")

    assert with_table(text, reports) == text
