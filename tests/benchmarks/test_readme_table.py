from cpep_bench.report import read_report
from readme_table import README, REPORTS, _file, with_table


def test_the_readme_holds_what_the_committed_reports_say() -> None:
    reports = {name: read_report(_file(folder)) for name, folder in REPORTS.items()}
    text = README.read_text(encoding="utf-8")

    assert with_table(text, reports) == text
