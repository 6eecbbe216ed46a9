import pytest

from cpep_edge.names import MAX_NAME, check_name, shown_name


@pytest.mark.parametrize("name", ["Fist", "index flexion", "Öffnen", "拳", "👍", "x" * MAX_NAME])
def test_names_that_people_write_are_taken(name):
    assert check_name(name) == name


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("", "1 to 100 characters"),
        ("x" * (MAX_NAME + 1), "1 to 100 characters"),
        (" Fist", "no spaces around"),
        ("Open\u00a0hand", r"U\+00A0"),
        ("Fi\nst", r"U\+000A"),
        ("\U0001f468\u200d\U0001f469\u200d\U0001f467", r"U\+200D"),  # a family emoji, joined by invisible characters
    ],
)
def test_names_that_a_screen_or_a_file_cannot_hold_are_refused_with_the_reason(name, says):
    with pytest.raises(ValueError, match=says):
        check_name(name)


@pytest.mark.parametrize(
    ("label", "shown"),
    [
        ("ThumbsUpDownThumbRotationsCWCCWP", "Thumb up"),
        ("PowerGrip", "Power grip"),
        ("thumb_up-again", "Thumb up again"),
        ("OK", "OK"),
        ("Fist3", "Fist3"),
        ("My own fist", "My own fist"),  # unchanged, because the wearer wrote it so
        ("Öffnen", "Öffnen"),
        ("拳", "拳"),
        ("unknown", "no gesture"),
    ],
)
def test_people_read_words_where_programs_read_labels(label, shown):
    assert shown_name(label) == shown


def test_gestures_of_the_simulated_people_are_read_as_different_names():
    stages = pytest.importorskip("cpep_train.stages").STAGES
    names = {shown_name(stage.name) for stage in stages}
    assert len(names) == len(stages)
    assert max(map(len, names)) < 20
