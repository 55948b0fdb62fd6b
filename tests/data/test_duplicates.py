"""Identical and near-identical images: found, told apart, and nothing else taken for them."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.helpers import picture

from anomaly_seg.data import duplicates
from anomaly_seg.data.duplicates import NEAR, DuplicatePair, find_duplicates, thumbnail


def scene(name: str) -> np.ndarray:
    """Blocks of 8 x 8 equal pixels, so that a thumbnail of half the size shows them all."""
    return np.kron(picture(name, 16, 16), np.ones((8, 8))).astype(np.uint8)


def duplicates_of(images: list[np.ndarray], groups: list[str]) -> list[DuplicatePair]:
    """The pairs one by one, which are all of them."""
    prints = [image.tobytes().hex() for image in images]
    found = find_duplicates(prints, np.stack([thumbnail(image) for image in images]), groups)
    assert found.count("identical") + found.count("near") == len(found.closest)
    return found.closest


def test_a_thumbnails_dot_product_is_a_correlation() -> None:
    a, b = scene("a"), scene("b")
    expected = np.corrcoef(a.ravel(), b.ravel())[0, 1]
    assert thumbnail(a) @ thumbnail(b) == pytest.approx(expected, abs=1e-5)
    assert thumbnail(a) @ thumbnail(a) == pytest.approx(1, abs=1e-5)
    assert thumbnail(a).shape == (64 * 64,) and thumbnail(a).dtype == np.float32


def test_a_thumbnail_does_not_care_for_brightness_contrast_or_size() -> None:
    a = scene("a")
    for other in ((a // 2 + 40).astype(np.uint8), a[::2, ::2], np.kron(a, np.ones((2, 2), np.uint8))):
        assert thumbnail(other) @ thumbnail(a) > 0.99


def test_pairs_across_items_best_first() -> None:
    a, b, c = scene("a"), scene("b"), scene("c")
    noisy = np.clip(b + np.random.default_rng(0).normal(0, 20, b.shape), 0, 255).astype(np.uint8)
    found = duplicates_of([a, b, c, noisy, a, a], ["x", "x", "y", "y", "z", "x"])
    assert [(t.a, t.b, t.kind) for t in found] == [(0, 4, "identical"), (4, 5, "identical"), (1, 3, "near")]
    small_b, small_noisy = (image.reshape(64, 2, 64, 2).mean((1, 3)).ravel() for image in (b, noisy))
    correlation = np.corrcoef(small_b, small_noisy)[0, 1]
    assert [t.similarity for t in found] == pytest.approx([1, 1, correlation], abs=1e-3)
    assert all(t.similarity >= NEAR for t in found)


def test_views_of_one_item_are_not_compared() -> None:
    assert duplicates_of([scene("a"), scene("a")], ["x", "x"]) == []


def test_different_scenes_are_no_duplicates() -> None:
    assert duplicates_of([scene(str(i)) for i in range(30)], [str(i) for i in range(30)]) == []


def test_the_same_pixels_in_other_bytes_are_near() -> None:
    a = scene("a")
    (twin,) = find_duplicates(["jpg", "png"], np.stack([thumbnail(a), thumbnail(a)]), ["x", "y"]).closest
    assert twin.kind == "near" and twin.similarity == pytest.approx(1, abs=1e-5)


def test_flat_images_are_duplicates_only_if_identical() -> None:
    flat = [np.full((16, 16), grey, np.uint8) for grey in (7, 7, 8)]
    assert duplicates_of(flat, ["x", "y", "z"]) == [DuplicatePair(0, 1, "identical", 1.0)]


@given(st.lists(st.tuples(st.sampled_from("abcd"), st.sampled_from("xyz")), max_size=12))
def test_identical_pairs_are_all_pairs_of_equal_images_of_different_items(images: list[tuple[str, str]]) -> None:
    names, groups = [name for name, _ in images], [group for _, group in images]
    small = {name: thumbnail(scene(name)) for name in "abcd"}
    thumbnails = np.array([small[name] for name in names]).reshape(len(names), 64 * 64)
    found = find_duplicates(names, thumbnails, groups).closest
    pairs = {(a, b) for b in range(len(images)) for a in range(b) if names[a] == names[b] and groups[a] != groups[b]}
    assert {(t.a, t.b) for t in found} == pairs and len(found) == len(pairs)
    assert all(t.kind == "identical" for t in found)


def test_more_images_than_a_block(monkeypatch: pytest.MonkeyPatch) -> None:
    """Blocks of 4 rows: duplicates within one, across two, and of a later image with an earlier one."""
    n = 10
    monkeypatch.setattr(duplicates, "BLOCK", 4 * n)
    thumbnails = np.eye(n, dtype=np.float32)
    thumbnails[9], thumbnails[5] = thumbnails[3], thumbnails[4]
    names = [str(i) for i in range(n)]
    names[8] = "0"
    found = find_duplicates(names, thumbnails, [str(i) for i in range(n)])
    assert [t[:3] for t in found.closest] == [(0, 8, "identical"), (3, 9, "near"), (4, 5, "near")]
    assert (found.count("identical"), found.count("near")) == (1, 2)
    halves = np.array([0] * 5 + [1] * 5)
    assert (found.count("identical", halves), found.count("near", halves)) == (1, 2)
    assert found.count("near", np.arange(n) // 4) == 1  # 4 and 5 are together
    assert np.flatnonzero(found.beside("near", halves == 1)).tolist() == [3, 4]
    assert np.flatnonzero(found.beside("near", halves == 0)).tolist() == [5, 9]
    assert np.flatnonzero(found.beside("identical", halves == 0)).tolist() == [8]
    joined = found.joined(np.arange(n), ("identical", "near")).tolist()
    assert len(set(joined)) == 7 and (joined[0], joined[3], joined[4]) == (joined[8], joined[9], joined[5])


def test_images_that_are_all_alike_take_one_bit_a_pair(monkeypatch: pytest.MonkeyPatch) -> None:
    """1,000 pictures of one product in one place: 499,500 near pairs, of which only the closest are kept one by one.

    Picture k is cos(k/4000) along one axis and sin(k/4000) along another: neighbours are closest, and the first and the
    last still correlate at cos(999/4000) = 0.969.
    """
    monkeypatch.setattr(duplicates, "LISTED", 50)
    monkeypatch.setattr(duplicates, "BLOCK", 300_000)
    n = 1000
    angle = np.arange(n) / 4000
    thumbnails = np.stack([np.cos(angle), np.sin(angle)], axis=1).astype(np.float32)
    names = [str(i) for i in range(n)]
    found = find_duplicates(names, thumbnails, names)
    assert found.count("near") == n * (n - 1) // 2 == 499_500 and found.count("identical") == 0
    assert found.bits["near"].nbytes == 1000 * 125
    assert len(found.closest) == 50 and min(t.similarity for t in found.closest) > 0.99999
    assert set(found.joined(np.arange(n), ("near",)).tolist()) == {0}
    assert found.count("near", np.arange(n) % 2) == 500 * 500
    assert found.beside("near", np.arange(n) == 7).sum() == 999


def test_of_colour_the_brightness_counts() -> None:
    grey = picture("a", 200, 100)
    repeated = np.repeat(grey[:, :, None], 3, axis=2)
    np.testing.assert_allclose(thumbnail(repeated), thumbnail(grey), atol=1e-6)
    red = np.zeros_like(repeated)
    red[..., 0] = grey  # 0.299 of the brightness: the same picture in another tone
    assert thumbnail(red) @ thumbnail(grey) > 0.99
    assert not thumbnail(np.full((80, 80, 3), (200, 30, 90), np.uint8)).any()
