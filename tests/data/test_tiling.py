"""Tiles: where they lie, what is cut, and that stitched maps are the maps of whole images."""

from collections.abc import Callable
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from support.helpers import picture

from anomaly_seg.data.tiling import ALIGN, Stitcher, Tile, TileGrid, cut
from anomaly_seg.errors import InputError
from anomaly_seg.models.base import Network
from anomaly_seg.models.classifier import pooled_score
from anomaly_seg.models.one_stage import OneStage
from anomaly_seg.models.unet import UNet

sizes = st.integers(1, 150)
layouts = st.builds(
    lambda h, w, th, tw, share, align: TileGrid(h, w, th, tw, int(share * (min(th, tw) - align)), align),
    sizes, sizes, st.integers(16, 60), st.integers(16, 60), st.floats(0, 1), st.sampled_from([1, 2, 8, 16]),
)  # fmt: skip


def tiles(height: int, width: int, tile_height: int, tile_width: int, overlap: int) -> list[Tile]:
    return TileGrid(height, width, tile_height, tile_width, overlap, 16).tiles


class TestWhere:
    def test_by_hand(self) -> None:
        # 100 columns in tiles of 48 with an overlap of 16: the last starts at 64, the next multiple of 16 from 52 on.
        assert tiles(48, 100, 48, 48, 16) == [(0, 0), (0, 32), (0, 64)]
        assert tiles(100, 48, 48, 48, 16) == [(0, 0), (32, 0), (64, 0)]
        # Spread out: 3 steps of at most 32 reach 80, in multiples of 16.
        assert [x for _, x in tiles(10, 128, 16, 48, 0)] == [0, 32, 80]
        assert [x for _, x in tiles(10, 128, 48, 48, 16)] == [0, 16, 48, 80]
        assert tiles(10, 10, 48, 48, 16) == [Tile(0, 0)]

    def test_the_inner_parts_by_hand(self) -> None:
        grid = TileGrid(48, 100, 48, 48, 16)
        # Tiles 0..47, 32..79, 64..111: the middles of the overlaps are 40 and 72.
        assert [grid.inner(t)[1] for t in grid.tiles] == [slice(0, 40), slice(40, 72), slice(72, 100)]
        assert [grid.inside(t)[1] for t in grid.tiles] == [slice(0, 40), slice(8, 40), slice(8, 36)]

    @settings(deadline=None, max_examples=50)
    @given(layouts)
    def test_tiles_cover_the_image_on_the_grid_with_the_overlap(self, grid: TileGrid) -> None:
        for length, side, starts in (
            (grid.height, grid.tile_height, sorted({t.y for t in grid.tiles})),
            (grid.width, grid.tile_width, sorted({t.x for t in grid.tiles})),
        ):
            assert starts[0] == 0 and all(s % grid.align == 0 for s in starts)
            assert starts[-1] + side >= length and (starts[-1] == 0 or starts[-1] + side < length + grid.align)
            for a, b in pairwise(starts):
                assert a < b and a + side - b >= grid.overlap

    @settings(deadline=None, max_examples=50)
    @given(layouts)
    def test_each_pixel_comes_from_the_tile_in_which_it_lies_deepest(self, grid: TileGrid) -> None:
        """Depth is the distance to the nearest edge of the tile that is no edge of the image."""
        taken = np.zeros((grid.height, grid.width), int)
        got, best = np.full(taken.shape, -1.0), np.full(taken.shape, -1.0)
        y, x = np.mgrid[: grid.height, : grid.width]
        for tile in grid.tiles:
            edges = []
            for at, start, side, length in (
                (y, tile.y, grid.tile_height, grid.height),
                (x, tile.x, grid.tile_width, grid.width),
            ):
                edges += [at - start] if start else []
                edges += [start + side - 1 - at] if start + side < length else []
            depth = np.min([*edges, np.full(taken.shape, 1000)], axis=0)
            best = np.maximum(best, depth)
            where = grid.inner(tile)
            taken[where] += 1
            got[where] = depth[where]
        assert (taken == 1).all()
        assert (got >= best - 1).all()  # the middle of an even overlap lies one pixel deeper in one of the two
        assert (got[best < 1000] >= grid.overlap // 2 - 1).all() and (best >= 0).all()

    @pytest.mark.parametrize(
        ("tile", "overlap", "says"),
        [
            ((64, 48), -1, r"data\.tile_overlap=-1: use a whole number from 0 to 32 for tiles of 64x48"),
            ((64, 48), 33, r"data\.tile_overlap=33: use a whole number from 0 to 32 .*larger tiles"),
            ((64, 48), 64, r"data\.tile_overlap=64"),
            ((64, 48), 1.5, r"data\.tile_overlap=1\.5"),
            ((64, 8), 0, r"tiles of 64x8: use 16 or more \(scale\.height, scale\.width\)"),
        ],
    )
    def test_an_overlap_that_cannot_be(self, tile: tuple[int, int], overlap: float, says: str) -> None:
        with pytest.raises(InputError, match=says):
            tiles(100, 100, *tile, overlap)  # type: ignore[arg-type]


class TestCutting:
    def test_by_hand(self) -> None:
        image = np.array([[1, 2, 3], [4, 5, 6]], np.uint8)
        assert cut(image, Tile(0, 1), 2, 2).tolist() == [[2, 3], [5, 6]]
        assert cut(image, Tile(1, 1), 3, 3).tolist() == [[5, 6, 6]] * 3

    def test_colour_is_cut_alike(self) -> None:
        image = np.stack([picture(c, 30, 20) for c in "rgb"], axis=2)
        for tile in (Tile(0, 0), Tile(16, 16)):
            expected = np.stack([cut(image[..., c], tile, 32, 16) for c in range(3)], axis=2)
            np.testing.assert_array_equal(cut(image, tile, 32, 16), expected)

    @settings(deadline=None, max_examples=50)
    @given(layouts, st.booleans())
    def test_what_is_cut_and_stitched_is_the_image(self, grid: TileGrid, colour: bool) -> None:
        shape = (grid.height, grid.width) + ((3,) if colour else ())
        image = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
        stitcher = Stitcher(*vars_of(grid))
        for tile in reversed(grid.tiles):
            part = cut(image, tile, grid.tile_height, grid.tile_width)
            assert part.shape[:2] == (grid.tile_height, grid.tile_width)
            assert not stitcher.complete
            stitcher.add(tile, part)
        assert stitcher.result().dtype == np.uint8
        np.testing.assert_array_equal(stitcher.result(), image)

    def test_missing_tiles_are_counted(self) -> None:
        stitcher = Stitcher(48, 100, 48, 48, 16)
        stitcher.add(Tile(0, 32), np.zeros((48, 48), np.float32))
        with pytest.raises(ValueError, match="2 of 3 tiles are missing"):
            stitcher.result()
        with pytest.raises(ValueError, match="not in list"):
            stitcher.add(Tile(0, 16), np.zeros((48, 48), np.float32))


def vars_of(grid: TileGrid) -> tuple[int, ...]:
    return grid.height, grid.width, grid.tile_height, grid.tile_width, grid.overlap, grid.align


# Networks: the reach of a pixel, found by changing half of an image (one-stage 139, U-Net of depth 2: 23).
NETWORKS = {
    "one_stage": (lambda: OneStage(width_multiplier=1 / 32), 139, (608, 328), 320),
    "unet": (lambda: UNet(width_multiplier=1 / 16, depth=2), 23, (128, 252), 96),
}


def settled(make: Callable[[], Network]) -> Network:
    """In evaluation mode, with the running statistics of an image, so that signals neither fade nor grow with depth."""
    torch.manual_seed(0)
    network = make()
    for part in network.modules():
        if isinstance(part, torch.nn.BatchNorm2d):
            part.momentum = 1.0
    with torch.no_grad():
        network(torch.rand(1, 1, 128, 128))
    return network.eval()


def network_map(network: Network, image: np.ndarray) -> np.ndarray:
    with torch.no_grad():
        return network.maps(network(torch.from_numpy(image)[None, None]))[network.readout][0, 0].numpy()


def stitched_map(network: Network, image: np.ndarray, side: int, overlap: int) -> Stitcher:
    stitcher = Stitcher(*image.shape, side, side, overlap)
    for tile in stitcher.grid.tiles:
        stitcher.add(tile, network_map(network, cut(image, tile, side, side)))
    return stitcher


def depths(grid: TileGrid) -> np.ndarray:
    """(h, w): how far each pixel lies from the edges, inside the image, of the tile that it is taken from."""
    out = np.zeros((grid.height, grid.width), int)
    for tile in grid.tiles:
        axes = []
        for at, start, side, length in zip(
            grid.inner(tile), tile, (grid.tile_height, grid.tile_width), out.shape, strict=True
        ):
            place = np.arange(at.start, at.stop)
            before = place - start if start else np.full(len(place), 10_000)
            behind = start + side - 1 - place if start + side < length else np.full(len(place), 10_000)
            axes.append(np.minimum(before, behind))
        out[grid.inner(tile)] = np.minimum(axes[0][:, None], axes[1][None])
    return out


class TestNetworks:
    @pytest.fixture(scope="class", params=NETWORKS)
    def case(self, request: pytest.FixtureRequest) -> tuple[Network, np.ndarray, np.ndarray, int, int]:
        """Network, image, its map untiled, reach, and side of the tiles.

        No image is a multiple of 16 wide: untiled it gets the repeated border that the last tiles get.
        """
        make, reach, size, side = NETWORKS[request.param]
        network = settled(make)
        image = np.random.default_rng(0).random(size, dtype=np.float32)
        full = cut(image, Tile(0, 0), *(-(-n // ALIGN) * ALIGN for n in size))
        return network, image, network_map(network, full)[: size[0], : size[1]], reach, side

    def test_with_an_overlap_of_twice_the_reach_tiles_give_the_untiled_map_and_score(self, case: tuple) -> None:
        network, image, whole, reach, side = case
        stitcher = stitched_map(network, image, side, 2 * reach)
        assert len(stitcher.grid.tiles) >= 8
        np.testing.assert_allclose(stitcher.result(), whole, rtol=0, atol=5e-6)
        scores = [float(pooled_score(torch.from_numpy(m.copy())[None, None])) for m in (stitcher.result(), whole)]
        assert scores[0] == pytest.approx(scores[1], rel=1e-5)

    def test_with_less_it_differs_near_the_tiles_edges_only(self, case: tuple) -> None:
        network, image, whole, reach, side = case
        stitcher = stitched_map(network, image, side, 16)
        difference, depth = np.abs(stitcher.result() - whole), depths(stitcher.grid)
        assert difference[depth >= reach].max() < 5e-6 and (depth >= reach).mean() > 0.1
        assert difference[depth < reach // 2].max() > 1e-3

    def test_off_the_pooling_grid_it_differs_everywhere(self) -> None:
        """Why tiles start on multiples: shifted by one pixel, the network pools other pixels together."""
        network = settled(NETWORKS["unet"][0])
        image = np.random.default_rng(0).random((96, 192), dtype=np.float32)
        whole = network_map(network, image)
        moved = network_map(network, np.ascontiguousarray(image[:, 49 : 49 + 96]))
        aligned = network_map(network, np.ascontiguousarray(image[:, 48 : 48 + 96]))
        assert np.abs(moved - whole[:, 49 : 49 + 96])[:, 30:-30].max() > 1e-3
        assert np.abs(aligned - whole[:, 48 : 48 + 96])[:, 30:-30].max() < 5e-6
