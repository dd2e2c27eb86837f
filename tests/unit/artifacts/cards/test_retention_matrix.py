"""The retention matrix of a card."""

from __future__ import annotations

import hashlib
import xml.etree.ElementTree as ET

from support.evidence import HOSTILE, make_composition
from support.pictures import SVG, check_picture, list_texts

from finch_hub.artifacts.cards.retention_matrix import describe_retention, draw_retention_matrix
from finch_hub.specs.reports import Retention

RETENTION = make_composition(["legal/3", "medical/1", "code/2"], layers=1).retention


def test_matrix_is_svg_of_rectangles_and_texts_alone() -> None:
    root = check_picture(draw_retention_matrix(RETENTION) or "")
    assert {element.tag.removeprefix(SVG) for element in root.iter()} <= {"svg", "title", "rect", "text"}
    texts = list_texts(root)
    assert {"rows of legal/3", "composition", "plain linear", "100% (1.500)", "50% (2.000)", "not measured"} <= set(
        texts
    )
    assert len(root.findall(f"{SVG}rect")) == 1 + 3 * 4


def test_equal_figures_have_the_same_bytes_everywhere() -> None:
    drawn = draw_retention_matrix(RETENTION) or ""
    assert drawn == draw_retention_matrix([Retention.of(kept.model_dump()) for kept in RETENTION])
    assert hashlib.sha256(drawn.encode()).hexdigest()[:16] == "6cadfefaf929fc96"


def test_many_long_names_stay_within_the_matrix() -> None:
    names = [f"an-organization-with-a-long-name/adapter-{n}/{n}" for n in range(32)]
    check_picture(draw_retention_matrix(make_composition(names, layers=1).retention) or "")
    many = [kept.evolve(parent=f"a{n}/1") for n, kept in enumerate(RETENTION[:1] * 500)]
    root = ET.fromstring(draw_retention_matrix(many) or "")
    assert sum(text.startswith("rows of") for text in list_texts(root)) == 64
    assert describe_retention(many).endswith("and 436 more")


def test_figures_beyond_every_scale_are_drawn() -> None:
    for composed, share in ((1e200, -1e200), (-3.0, 5.0), (2.0, 0.0)):
        kept = Retention(parent="a/1", status="measured", base=2.0, own=1.0, composed=composed, retention=share)
        check_picture(draw_retention_matrix([kept]) or "")
    equal = Retention(parent="a/1", status="measured", base=2.0, own=2.0, composed=2.0, retention=None)
    assert "2.000" in list_texts(check_picture(draw_retention_matrix([equal]) or ""))


def test_nothing_measured_has_no_matrix() -> None:
    assert draw_retention_matrix([]) is None
    assert draw_retention_matrix([Retention(parent="a/1", status="unmeasured")]) is None


def test_hostile_name_is_text() -> None:
    drawn = draw_retention_matrix([Retention(parent=HOSTILE, status="measured", base=2, own=1, composed=1)]) or ""
    check_picture(drawn)
    assert "<script" not in drawn
    assert "\u202e" not in drawn
