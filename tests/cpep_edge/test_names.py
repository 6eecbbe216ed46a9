import pytest

from cpep_edge.names import MAX_NAME, check_name


@pytest.mark.parametrize("name", ["Fist", "index flexion", "Öffnen", "拳", "👍", "x" * MAX_NAME])
def test_names_that_people_write_are_taken(name: str) -> None:
    assert check_name(name) == name


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("", "1 to 100 characters"),
        ("x" * (MAX_NAME + 1), "1 to 100 characters"),
        (" Fist", "no spaces around"),
        ("Open\u00a0hand", r"U\+00A0"),
        ("Fi\nst", r"U\+000A"),
        ("\U0001f468\u200d\U0001f469\u200d\U0001f467", r"U\+200D"),  # a family, joined by what is not printed
    ],
)
def test_names_that_a_screen_or_a_file_cannot_hold_are_refused_with_the_reason(name: str, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        check_name(name)
