from __future__ import annotations

import cv2
import numpy as np
import pytest

from instsearch_plugins.numeric.appearance import (
    Compared,
    common,
    compared,
    cornerness,
    enlarged,
    hues,
    hull,
    recompared,
    side_by_side,
    template,
)
from instsearch_plugins.numeric.registration import gradients
from twin_labels import BOX, LABEL, PART, photograph, twin


def test_a_photograph_of_the_object_agrees():
    one = compared(template(LABEL, BOX), *photograph(LABEL))
    assert one.agreement > 0.85
    assert one.disagreement < 0.02
    assert one.hue < 0.05
    assert one.corners.sum() == pytest.approx(1, abs=0.05)


def test_a_twin_disagrees_where_it_differs():
    one = compared(template(LABEL, BOX), *photograph(twin()))
    same = compared(template(LABEL, BOX), *photograph(LABEL))
    assert one.disagreement > 0.04
    assert one.agreement < same.agreement - 0.05
    y, x = np.nonzero(one.disagreeing)  # a cell's centre is at 8 (i + 1); the box is shown at its own size
    assert (x * 8 + 8 + BOX[0] > PART[1].start - 8).all()
    assert (x * 8 + 8 + BOX[0] < PART[1].stop + 8).all()
    assert (y * 8 + 8 + BOX[1] > PART[0].start - 8).all()
    assert (y * 8 + 8 + BOX[1] < PART[0].stop + 8).all()


def test_an_even_blob_in_front_is_no_disagreement():
    covered = LABEL.copy()
    cv2.circle(covered, (140, 130), 34, (205, 160, 130), -1)
    blob = compared(template(LABEL, BOX), *photograph(covered))
    other = compared(template(LABEL, BOX), *photograph(twin()))
    assert blob.disagreement < other.disagreement / 2
    assert blob.agreement < 0.98


def test_nothing_in_common_is_nothing():
    one = compared(template(LABEL, BOX), np.full((340, 400, 3), 128, np.uint8), photograph(LABEL)[1])
    assert (one.agreement, one.disagreement, one.hue) == (0, 0, 0)
    assert not one.region.any()
    assert one.ncc.shape == one.corners.shape == one.texture.shape
    assert (one.picture == 128).all()
    assert one.picture.shape == one.own.shape


def test_shares_by_hand():
    """5 x 5 cells of 1/25: one inside falls short, half textured; one on the edge does; one inside agrees less."""
    nothing = np.zeros((8, 8, 3), np.uint8)
    ncc, texture = np.full((5, 5), 0.9, np.float32), np.ones((5, 5), np.float32)
    ncc[1, 1], ncc[0, 3], ncc[3, 2] = 0.64, 0.1, 0.66  # median 0.9, less 0.25
    texture[1, 1] = 0.5
    corners, everywhere = np.full((5, 5), 0.04, np.float32), np.ones((5, 5), bool)
    one = Compared(nothing, nothing, np.eye(3), ncc, everywhere, corners, texture)
    assert one.agreement == pytest.approx(0.04 * (22 + 0.14 / 0.3 + 0.16 / 0.3))
    assert np.argwhere(one.disagreeing).tolist() == [[1, 1]]
    assert one.disagreement == pytest.approx(0.02)
    assert not one._replace(region=~everywhere).disagreeing.any()
    assert not one._replace(ncc=ncc / 2).disagreeing.any()


def test_detail_is_how_many_pixels_there_are_for_each():
    nothing, cells = np.zeros((80, 160, 3), np.uint8), np.full((9, 19), 1 / 171, np.float32)
    one = Compared(nothing, nothing, np.diag([0.5, 0.5, 1]), cells + 1, cells > 0, cells, cells)
    assert one.detail == pytest.approx(0.5)
    assert one.weighed == pytest.approx(one.agreement / 2) == pytest.approx(0.5)
    assert one._replace(H=np.diag([3.0, 2, 1])).detail == 1  # there are more than can be seen
    assert one._replace(H=np.diag([0.9, 0.1, 1])).detail == pytest.approx(0.3)  # of both sides together


def test_edges_have_no_corners():
    picture = np.zeros((64, 64, 3), np.uint8)
    picture[:, 32:] = 255
    assert cornerness(gradients(picture)).max() < 0.1
    picture[32:] = 0
    corners = cornerness(gradients(picture))
    assert corners[3, 3] > 5
    assert corners[0].max() < 0.1


def test_the_hull_fills_a_ring():
    ring = np.ones((5, 6), bool)
    ring[1:4, 1:5] = False
    assert hull(ring).all()
    assert not hull(np.zeros((3, 3), bool)).any()


def test_hues_survive_light_and_tell_red_from_green():
    own = np.full((64, 64, 3), 230, np.uint8)
    own[16:48, 16:48] = (200, 30, 30)
    region = np.ones((7, 7), bool)
    warm = (own * np.array([0.7, 0.6, 0.5])).astype(np.uint8)
    green = own.copy()
    green[16:48, 16:48] = (30, 160, 40)
    assert hues(own, own, region) == pytest.approx(0, abs=1e-3)
    assert hues(own, warm, region) < 0.02
    assert hues(own, green, region) > 0.3


def test_side_by_side_frames_what_differs():
    one = compared(template(LABEL, BOX), *photograph(twin()))
    drawn = side_by_side(one, gap=8)
    assert drawn.shape == (192, 2 * 192 + 8, 3)
    red = (drawn == (230, 30, 30)).all(axis=-1)
    assert red[:, :192].sum() == red[:, 200:].sum() > 0


def test_enlarged_the_same_cells_are_framed_on_sharper_pictures():
    picture, rough = photograph(twin())
    one = compared(template(LABEL, BOX), picture, rough)
    larger = enlarged(one, LABEL, BOX, picture, 3)
    assert larger.own.shape == larger.picture.shape == (576, 576, 3)
    small = [
        cv2.resize(each, (192, 192), interpolation=cv2.INTER_AREA) for each in (larger.own, larger.picture)
    ]
    assert np.abs(small[0].astype(int) - template(LABEL, BOX).whole.picture).mean() < 6
    assert np.abs(small[1].astype(int) - one.picture).mean() < 6
    red = (side_by_side(larger, gap=0) == (230, 30, 30)).all(axis=-1)
    once = (side_by_side(one, gap=0) == (230, 30, 30)).all(axis=-1)
    y, x = np.nonzero(red)
    v, u = np.nonzero(once)
    assert (
        np.abs(
            np.array([y.min(), x.min(), y.max(), x.max()]) / 3 - [v.min(), u.min(), v.max(), u.max()]
        ).max()
        < 2
    )


def test_what_is_out_of_the_picture_is_grey():
    picture, rough = photograph(LABEL)
    one = compared(template(LABEL, BOX), picture, rough)
    moved = one._replace(H=np.array([[1, 0, 300], [0, 1, 0], [0, 0, 1]]) @ one.H)
    shown = enlarged(moved, LABEL, BOX, picture, 2).picture
    assert (shown[:, -40:] == 225).all()
    assert not (shown[:, :40] == 225).all()


@pytest.mark.parametrize("n", [2, 3, 6, 7])
def test_what_pictures_have_in_common_is_their_median(n):
    pictures = np.random.default_rng(n).integers(0, 256, (n, 32, 40, 3), dtype=np.uint8)
    whole, without = common(pictures)
    assert (whole.picture == np.floor(np.median(pictures, axis=0))).all()
    for i, left in enumerate(without):
        assert (left.picture == np.floor(np.median(np.delete(pictures, i, axis=0), axis=0))).all()


def test_a_picture_compared_again_with_what_others_show():
    """Beside other photographs of the object it agrees as well; the twin does where it is the same."""
    others = [compared(template(LABEL, BOX), *photograph(LABEL, seed)).picture for seed in range(1, 6)]
    whole, _ = common(np.stack(others))
    one, other = (compared(template(LABEL, BOX), *photograph(label)) for label in (LABEL, twin()))
    same, different = recompared(one, whole), recompared(other, whole)
    assert same.agreement > 0.9
    assert same.disagreement < 0.02
    assert same.hue < 0.01
    assert different.agreement < same.agreement - 0.05
    assert different.disagreement > 0.04
    assert (same.picture == one.picture).all()
    assert not recompared(one._replace(corners=np.zeros_like(one.corners)), whole).region.any()
