"""Dilation against scipy, resizing against arithmetic by hand."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy import ndimage

from anomaly_seg.data.dilation import dilate, make_structuring_element
from anomaly_seg.data.resize import content_size, fit_image, fit_mask, nearest_index, resize_image, resize_mask
from anomaly_seg.errors import InputError


def test_elements_by_hand() -> None:
    assert make_structuring_element(5, "diamond").tolist() == [
        [0, 0, 1, 0, 0],
        [0, 1, 1, 1, 0],
        [1, 1, 1, 1, 1],
        [0, 1, 1, 1, 0],
        [0, 0, 1, 0, 0],
    ]
    assert make_structuring_element(3, "square").tolist() == [[1, 1, 1]] * 3


@pytest.mark.parametrize(("dilation", "diamond"), [(5, 13), (9, 41), (13, 85), (17, 145)])  # 2 r^2 + 2 r + 1
def test_one_pixel_grows_to_the_element(dilation: int, diamond: int) -> None:
    mask = np.zeros((40, 40), np.uint8)
    mask[20, 20] = 1
    assert dilate(mask, dilation).sum() == diamond
    assert dilate(mask, dilation, "square").sum() == dilation**2


@given(
    mask=arrays(np.uint8, st.tuples(st.integers(1, 24), st.integers(1, 24)), elements=st.integers(0, 1)),
    radius=st.integers(1, 8),
)
def test_dilation_equals_scipys(mask: np.ndarray, radius: int) -> None:
    cross = ndimage.generate_binary_structure(2, 1)
    diamond = ndimage.iterate_structure(cross, radius)
    square = np.ones((2 * radius + 1, 2 * radius + 1))
    for element, structure in (("diamond", diamond), ("square", square)):
        grown = dilate(mask, 2 * radius + 1, element)
        assert grown.dtype == np.uint8
        np.testing.assert_array_equal(grown, ndimage.binary_dilation(mask, structure))


@pytest.mark.parametrize("dilation", [0, 1])
def test_no_dilation_leaves_the_mask_as_drawn(dilation: int) -> None:
    mask = np.eye(5, dtype=np.uint8)
    np.testing.assert_array_equal(dilate(mask, dilation), np.eye(5))


@pytest.mark.parametrize("dilation", [-9, -1, 2, 8])
def test_dilation_out_of_range(dilation: int) -> None:
    with pytest.raises(InputError, match=rf"dilation={dilation}: use 0 \(as drawn\) or an odd number"):
        dilate(np.zeros((4, 4), np.uint8), dilation)


def test_nearest_index_by_hand() -> None:
    assert nearest_index(7, 3).tolist() == [0, 2, 4]  # 0, 7/3, 14/3
    assert nearest_index(3, 7).tolist() == [0, 0, 0, 1, 1, 2, 2]  # 0, 3/7, 6/7, 9/7, 12/7, 15/7, 18/7
    assert nearest_index(500, 512)[[0, 1, 42, 43, 511]].tolist() == [0, 0, 41, 41, 499]  # 41.02, 41.99


@given(source=st.integers(1, 2000), target=st.integers(1, 2000))
def test_nearest_index_stays_inside_and_in_order(source: int, target: int) -> None:
    index = nearest_index(source, target)
    assert index[0] == 0 and index[-1] < source and (np.diff(index) >= 0).all()
    if target >= source:  # enlarging loses nothing
        assert set(index.tolist()) == set(range(source))


def test_nearest_resizing_by_hand() -> None:
    image = np.array([[1, 2, 3], [4, 5, 6]], np.uint8)
    assert resize_image(image, 4, 2, "nearest").tolist() == [[1, 2], [1, 2], [4, 5], [4, 5]]
    assert resize_mask(np.array([[0, 1, 1]], np.uint8), 1, 2, "nearest").tolist() == [[0, 1]]


def test_area_resizing_by_hand() -> None:
    image = np.array([[10, 20, 0, 4], [30, 40, 0, 0]], np.uint8)
    assert resize_image(image, 1, 2, "area").tolist() == [[25, 1]]
    # One and a half pixels each: (0 + 90 / 2) / 1.5 and (90 / 2 + 30) / 1.5.
    assert resize_image(np.array([[0, 90, 30]], np.uint8), 1, 2, "area").tolist() == [[30, 50]]


def test_enlarging_is_bilinear() -> None:
    # Centres of the new pixels lie at -0.25, 0.25, 0.75, 1.25 of the old ones.
    assert resize_image(np.array([[0, 100]], np.uint8), 1, 4, "area").tolist() == [[0, 25, 75, 100]]


def test_a_side_that_shrinks_is_averaged_though_the_other_grows() -> None:
    # The rows' means are 0, 100 and 20, 0; then as above. Bilinear interpolation alone steps over the last row.
    image = np.array([[0, 100]] * 4 + [[0, 0], [0, 0], [0, 0], [80, 0]], np.uint8)
    assert resize_image(image, 2, 4, "area").tolist() == [[0, 25, 75, 100], [20, 15, 5, 0]]
    assert resize_image(image.T, 4, 2, "area").T.tolist() == [[0, 25, 75, 100], [20, 15, 5, 0]]


def test_a_thin_crack_survives_a_side_that_grows() -> None:
    image = np.full((4, 90), 200, np.uint8)
    image[:, 31] = 20
    for height in (4, 8):  # a sixth of 20 and five of 200
        assert resize_image(image, height, 15, "area")[:, 5].tolist() == [170] * height


def test_a_shrunk_mask_keeps_pixels_that_are_at_least_half_defect() -> None:
    blocks = np.array([[1, 0, 1, 1, 1, 1, 0, 0], [0, 0, 0, 0, 1, 0, 0, 0]], np.uint8)  # 1/4, 2/4, 3/4, 0
    assert resize_mask(blocks, 1, 4, "area").tolist() == [[0, 1, 1, 0]]


@given(
    mask=arrays(np.uint8, st.tuples(st.integers(1, 20), st.integers(1, 20)), elements=st.integers(0, 1)),
    height=st.integers(1, 30),
    width=st.integers(1, 30),
    method=st.sampled_from(["area", "nearest"]),
)
def test_a_resized_mask_stays_binary(mask: np.ndarray, height: int, width: int, method: str) -> None:
    small = resize_mask(mask, height, width, method)
    assert small.shape == (height, width) and small.dtype == np.uint8
    assert set(np.unique(small)) <= set(np.unique(mask))


@pytest.mark.parametrize(
    ("source", "target", "content"),
    [
        ((100, 50), (64, 64), (64, 32)),
        ((50, 100), (64, 64), (32, 64)),
        ((1257, 500), (1408, 512), (1287, 512)),  # 1257 * 512 / 500 = 1287.2
        ((3, 8), (4, 4), (2, 4)),  # 1.5 rounds up
        ((1000, 2), (8, 8), (8, 1)),  # 0.016, but a picture has a column
        ((7, 7), (7, 7), (7, 7)),
    ],
)
def test_content_sizes_by_hand(source: tuple[int, int], target: tuple[int, int], content: tuple[int, int]) -> None:
    assert content_size(source, target) == content


def test_padding_by_hand() -> None:
    """Enlarged twofold by nearest neighbour into the top left corner; the last column is repeated."""
    image = np.array([[1, 2], [3, 4]], np.uint8)
    assert fit_image(image, 4, 6, "nearest", True).tolist() == [[1, 1, 2, 2, 2, 2]] * 2 + [[3, 3, 4, 4, 4, 4]] * 2
    assert fit_image(image, 5, 4, "nearest", True).tolist() == [[1, 1, 2, 2]] * 2 + [[3, 3, 4, 4]] * 3
    assert fit_image(image, 4, 2, "nearest", False).tolist() == [[1, 2]] * 2 + [[3, 4]] * 2
    # A defect that reaches the border is repeated with its label: a crack must not become one that is labelled good.
    mask = np.array([[0, 1], [1, 1]], np.uint8)
    for method in ("nearest", "area"):
        padded = fit_mask(mask, 2, 4, method, True)
        assert padded.dtype == np.uint8 and padded.tolist() == [[0, 1, 1, 1], [1, 1, 1, 1]]


@given(
    height=st.integers(1, 40),
    width=st.integers(1, 40),
    target=st.tuples(st.integers(1, 40), st.integers(1, 40)),
    colour=st.booleans(),
    method=st.sampled_from(["area", "nearest"]),
)
def test_padding_keeps_the_content_and_repeats_its_border(
    height: int, width: int, target: tuple[int, int], colour: bool, method: str
) -> None:
    shape = (height, width) + ((3,) if colour else ())
    image = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    fitted = fit_image(image, *target, method, True)
    tall, wide = content_size((height, width), target)
    assert fitted.shape == target + shape[2:] and (tall == target[0] or wide == target[1])
    np.testing.assert_array_equal(
        fitted[:tall, :wide], resize_image(image, tall, wide, method).reshape(tall, wide, *shape[2:])
    )
    assert (fitted[tall:] == fitted[tall - 1]).all() and (fitted[:, wide:] == fitted[:, wide - 1 : wide]).all()


def test_colour_is_resized_channel_by_channel() -> None:
    image = np.random.default_rng(0).integers(0, 256, (9, 7, 3), dtype=np.uint8)
    for method in ("area", "nearest"):
        for size in ((4, 3), (20, 15)):
            planes = [resize_image(np.ascontiguousarray(image[..., c]), *size, method) for c in range(3)]
            np.testing.assert_array_equal(resize_image(image, *size, method), np.stack(planes, axis=2))
