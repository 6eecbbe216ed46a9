"""PROTOCOL.md agrees with the code: its examples are decoded and its tables compared."""

import re
from dataclasses import fields
from pathlib import Path

import pytest
from cobs import cobs

from cpep_bridge import frames
from cpep_bridge.decoder import FrameDecoder
from cpep_bridge.frames import Data, encode_frame

DOCUMENT = (Path(__file__).parents[2] / "firmware_bridge" / "PROTOCOL.md").read_text()
EXAMPLES = re.findall(r"^wire:  (.+)\nbody:  (.+)\nframe: (.+)$", DOCUMENT, re.MULTILINE)
ROWS = re.findall(r"^\| ([0-9a-f]{2}) \| ([A-Z]+) \| (.+)$", DOCUMENT, re.MULTILINE)
KINDS = {kind.TYPE: kind for kind in (Data, *frames._LAID)}


def test_the_document_has_examples_and_every_type():
    assert len(EXAMPLES) >= 8
    assert {int(number, 16) for number, _, _ in ROWS} == set(KINDS)


@pytest.mark.parametrize(("wire", "body", "said"), EXAMPLES)
def test_an_example_decodes_to_what_the_document_says(wire, body, said):
    (frame,) = FrameDecoder().feed(b"\0" + bytes.fromhex(wire))

    assert repr(frame) == said
    assert encode_frame(frame) == bytes.fromhex(wire)
    assert cobs.decode(bytes.fromhex(wire)[:-1]) == bytes.fromhex(body)


@pytest.mark.parametrize(("number", "name", "row"), ROWS)
def test_the_fields_of_a_type_are_those_of_its_dataclass(number, name, row):
    kind = KINDS[int(number, 16)]
    documented = re.findall(r"(\w+) (?:[uif]\d+|text|bytes)\b", row)
    prose_names = {"reason": "text", "line": "text"}

    assert [prose_names.get(field, field) for field in documented] == [
        field.name for field in fields(kind) if field.name not in ("seq", "samples")
    ]
