import json

import pytest
from typer.testing import CliRunner

pytest.importorskip("torch")

from cpep_edge.bundle import Bundle  # noqa: E402
from cpep_edge.cli import app  # noqa: E402
from cpep_train.boxed import box_folder  # noqa: E402
from cpep_train.checkpoint import load_checkpoint  # noqa: E402
from cpep_train.recipe import load_recipe  # noqa: E402
from cpep_train.stages import STAGES, VALIDATION_STAGES  # noqa: E402


def test_the_encoder_in_the_box_is_small_and_of_its_recipe():
    box = load_checkpoint(box_folder())
    assert sum(file.stat().st_size for file in box_folder().iterdir()) <= 2_000_000
    assert box.recipe.trains_as(load_recipe("box"))


def test_the_box_was_trained_on_no_gesture_that_it_is_judged_or_chosen_by():
    box = load_checkpoint(box_folder())
    assert set(box.seen_stages) == {stage.name for stage in STAGES if not stage.held_out}
    assert set(box.unseen_stages) == {stage.name for stage in STAGES if stage.held_out}
    assert not {stage.name for stage in VALIDATION_STAGES} & {*box.seen_stages, *box.unseen_stages}


@pytest.mark.executorch
def test_an_export_of_the_box_says_whom_it_was_trained_on(tiny_bundle, tmp_path, monkeypatch):
    monkeypatch.setattr("cpep_train.boxed.write_box_corpus", lambda out: None)
    monkeypatch.setattr("cpep_export.native.build_for_target", lambda *_: None)
    monkeypatch.setattr("cpep_export.package.export_bundle", lambda *_, **__: Bundle.open(tiny_bundle).manifest)

    of_box = CliRunner().invoke(app, ["export", "box", "--out", str(tmp_path / "my.cpep"), "--json"])
    assert of_box.exit_code == 0, of_box.output
    assert "simulated people only" in of_box.stderr
    assert json.loads(of_box.stdout)["gestures"]
