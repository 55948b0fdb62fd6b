"""Synthetic commutator-like surfaces with cracks: a stand-in for real inspection pictures in tests and demos.

A picture is grain (dark pits and bright flecks, lying along the rows), slow shading, vertical machining streaks, dark
specks and soft stains that are no defects, and bright bands at the edges. A defective one has, on top, one branching
crack with its exact mask. Lengths are given in pixels of the reference size, and scale with the size asked for.
"""

import cv2
import numpy as np

REFERENCE_HEIGHT, REFERENCE_WIDTH = 1408, 512
MIN_SIDE = 32
DARK_LEVEL = 30.0  # the grey value cracks and specks tend to: one for both, so that darkness does not tell them apart
MIN_CRACK_WIDTH = 1.6  # pixels of the image itself, even of a small one: a thinner crack would drown in the grain
SUPERSAMPLING = 4  # OpenCV draws whole-pixel widths only, so a crack is drawn enlarged and averaged down


def surface(
    seed: int, group: int, view: int, defective: bool, height: int = REFERENCE_HEIGHT, width: int = REFERENCE_WIDTH
) -> tuple[np.ndarray, np.ndarray]:
    """Draws one view of one group: a pure function of its arguments.

    The views of a group share brightness, kind of grain and bright edges. The good and the defective picture of one
    (seed, group, view) are the same outside the mask.

    Returns:
        image: uint8 (height, width), 0 to 255.
        mask: uint8 (height, width), 255 on the crack (one connected piece) and 0 elsewhere; all 0 if not defective.

    Raises:
        ValueError: a side is below 32 pixels, or seed, group or view is negative.
    """
    if min(height, width) < MIN_SIDE:
        raise ValueError(f"height and width must be at least {MIN_SIDE} pixels, got {height} x {width}")

    def stream(part: int, *of: int) -> np.random.Generator:
        # One for each part of the picture, so that none depends on how many numbers another one has used. A stream
        # without a view holds what the views of a group share. Negative numbers raise ValueError here.
        return np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(part, *of)))

    image = _texture(stream(0, group), stream(1, group, view), (height, width))
    _add_stains_and_specks(image, stream(2, group), stream(3, group, view))
    _add_bands(image, stream(4, group))
    mask = np.zeros((height, width), np.uint8)
    if defective:
        _add_crack(image, mask, stream(5, group, view))
    return np.clip(np.rint(image, out=image), 0, 255, out=image).astype(np.uint8), mask


def layout(seed: int, groups: int, views: int, defective_fraction: float) -> list[tuple[int, int, bool]]:
    """Decides which views of which groups are defective.

    The `round(groups * views * defective_fraction)` defects (at least one) are dealt in rounds: no group gets its
    second
    before all have one. With as many defects as groups, any split by group has defects in every fold; with fewer, but
    at least three, the splits into contiguous thirds and by group modulo 3 still do.

    Returns:
        (group, view, defective) for every view, ordered by group and view.

    Raises:
        ValueError: defective_fraction is outside (0, 1], groups or views is below 1, or seed is negative.
    """
    if not 0 < defective_fraction <= 1:
        raise ValueError(f"defective_fraction must lie in (0, 1], got {defective_fraction}")
    if min(groups, views) < 1:
        raise ValueError(f"groups and views must be at least 1, got {groups} and {views}")
    rng = np.random.default_rng(seed)
    order = rng.permutation(groups)
    while groups >= 3 and min(len(set(order[:3] * 3 // groups)), len(set(order[:3] % 3))) < 3:
        order = rng.permutation(groups)  # about one in twenty has its first three in three thirds and three residues
    view_order = [rng.permutation(views) for _ in range(groups)]
    count = max(1, round(groups * views * defective_fraction))
    chosen = {(order[k % groups], view_order[order[k % groups]][k // groups]) for k in range(count)}
    return [(group, view, (group, view) in chosen) for group in range(groups) for view in range(views)]


def _scales(shape: tuple[int, int]) -> tuple[float, float, float]:
    """(vertical, horizontal, mean) pixels per reference pixel in an image of this shape."""
    sy, sx = shape[0] / REFERENCE_HEIGHT, shape[1] / REFERENCE_WIDTH
    return sy, sx, float(np.sqrt(sy * sx))


def _noise(rng: np.random.Generator, shape: tuple[int, int], *sigmas: float) -> np.ndarray:
    """Noise smoothed by (vertical, horizontal) sigmas in pixels: float32 of this shape, mean 0, variance at most 1."""
    axes = []
    for side, sigma in zip(shape, sigmas, strict=True):
        # A pixel averages over its own area, a blur of 1/sqrt(12): finer grain fades, as in a picture made smaller.
        blur = float(np.hypot(sigma, 12**-0.5))
        step = max(1, int(blur / 1.4))  # smooth noise needs no more samples than this
        kernel = cv2.getGaussianKernel(2 * int(3 * blur / step + 0.5) + 1, blur / step)
        axes.append((-(-side // step), kernel * np.sqrt(sigma / blur) / np.linalg.norm(kernel)))
    (rows, ky), (columns, kx) = axes
    noise = cv2.sepFilter2D(rng.standard_normal((rows, columns), dtype=np.float32), -1, kx, ky)
    return cv2.resize(noise, shape[::-1], interpolation=cv2.INTER_CUBIC)


def _texture(shared: np.random.Generator, own: np.random.Generator, shape: tuple[int, int]) -> np.ndarray:
    """The blemish-free surface in grey levels: float32 of shape (height, width)."""
    sy, sx, s = _scales(shape)
    grain, elongation = 1.6 * s * shared.uniform(0.9, 1.4), shared.uniform(1.3, 2.2)
    fine = _noise(own, shape, grain, grain * elongation)
    coarse = _noise(own, shape, 2.2 * grain, 1.8 * grain * elongation)
    patches = _noise(own, shape, 40 * sy, 25 * sx)
    # OpenCV's weighted sums, because they take one pass over the pixels where numpy takes several.
    contrast, brightness = shared.uniform(9, 17), shared.uniform(168, 200) + own.normal(0, 2)
    image = cv2.addWeighted(fine, 0.7 * contrast, coarse, 0.6 * contrast, brightness)
    image = cv2.scaleAdd(patches, 0.4 * contrast, image)
    pits = np.maximum(cv2.addWeighted(coarse, -1, patches, -0.4, -1), 0)  # they crowd where the surface is dark anyway
    image = cv2.scaleAdd(pits, -shared.uniform(10, 26), image)
    image = cv2.scaleAdd(np.maximum(fine - 1.4, 0), shared.uniform(10, 32), image)  # bright flecks
    image = cv2.scaleAdd(_noise(own, shape, 300 * sy, 130 * sx), shared.uniform(3, 9), image)  # shading
    return cv2.scaleAdd(_noise(own, shape, 220 * sy, 5 * sx), shared.uniform(0, 6), image)  # streaks


def _darken(image: np.ndarray, opacity: np.ndarray) -> None:
    """Moves the image, in place, towards the dark level; opacity is in [0, 1]."""
    image -= opacity * np.maximum(image - DARK_LEVEL, 0)


def _blob(canvas: np.ndarray, rng: np.random.Generator, radii: np.ndarray, opacity: float) -> None:
    """Fills an irregular ellipse with radii (x, y) anywhere on the canvas, uint8 with 255 for opacity 1."""
    angles, tilt = np.linspace(0, 2 * np.pi, 12, endpoint=False), rng.normal(0, 0.4)
    outline = rng.uniform(0.55, 1.2, (12, 1)) * radii * np.stack([np.cos(angles), np.sin(angles)], axis=1)
    turned = outline @ np.array([[np.cos(tilt), np.sin(tilt)], [-np.sin(tilt), np.cos(tilt)]])
    corners = np.rint(16 * (turned + rng.random(2) * canvas.shape[::-1])).astype(np.int32)
    cv2.fillPoly(canvas, [corners], round(255 * opacity), cv2.LINE_AA, shift=4)


def _add_stains_and_specks(image: np.ndarray, shared: np.random.Generator, own: np.random.Generator) -> None:
    s = _scales(image.shape)[2]
    step = max(1, int(6 * s))  # stains are soft: drawn small, then enlarged
    stains: np.ndarray = np.zeros([-(-side // step) for side in image.shape], np.uint8)
    for _ in range(own.poisson(shared.uniform(0.5, 4))):
        _blob(stains, own, own.uniform(12, 70, 2) * s / step, own.uniform(0.05, 0.25))
    stains = cv2.GaussianBlur(stains.astype(np.float32) / 255, (0, 0), max(0.5, 13 * s / step))
    specks: np.ndarray = np.zeros(image.shape, np.uint8)
    for _ in range(1 + own.poisson(shared.uniform(3, 10))):
        is_dash = own.random() < 0.3  # as thin as a crack, but short
        radii = own.uniform((9, 1.8), (18, 2.2)) if is_dash else own.uniform((3, 2.5), (8, 5))
        _blob(specks, own, np.maximum(s * radii, MIN_CRACK_WIDTH / 2), own.uniform(0.4, 1))
    specks = cv2.GaussianBlur(specks, (0, 0), max(0.4, 1.2 * s)).astype(np.float32) / 255
    _darken(image, np.maximum(specks, cv2.resize(stains, image.shape[::-1], interpolation=cv2.INTER_LINEAR)))


def _add_bands(image: np.ndarray, rng: np.random.Generator) -> None:
    """Saturated scallops where light passes the edge of the part."""
    s = _scales(image.shape)[2]
    sides = (image, image[:, ::-1], image.T, image[::-1].T)  # the same pixels, with each edge in turn as column 0
    for chance, side in zip((0.7, 0.2, 0.12, 0.12), sides, strict=True):
        along, depth = np.linspace(0, 1, len(side)), np.zeros(len(side))
        present, ends = rng.random() < chance, np.sort(rng.uniform(0.1, 0.9, 4))
        for start, end, deepest in zip(ends[::2], ends[1::2], rng.uniform(8, 20, 2), strict=True):
            arch = np.clip((along - start) * (end - along) * 4 / (end - start) ** 2, 0, 1) ** 0.3
            depth = np.maximum(depth, present * deepest * s * arch)
        depth *= np.interp(along, np.linspace(0, 1, 24), rng.normal(1, 0.15, 24))
        strip = side[:, : max(2, int(30 * s))]
        covered = np.clip((depth[:, None] - np.arange(strip.shape[1])) / max(1, 3 * s), 0, 1)
        strip += (covered * (255 - strip)).astype(np.float32)


def _walk(rng: np.random.Generator, start: np.ndarray, heading: float, length: float) -> np.ndarray:
    """A random walk that wanders about its heading: (steps + 1, 2) as x, y in reference pixels."""
    steps = max(4, int(length / 5))
    angles = heading + np.convolve(rng.normal(0, 0.22, steps), 0.75 ** np.arange(12))[:steps]  # each turn dies away
    moves = np.stack([np.cos(angles), np.sin(angles)], axis=1) * (length / steps)
    return np.clip(np.vstack([start, start + np.cumsum(moves, axis=0)]), 1, (REFERENCE_WIDTH - 2, REFERENCE_HEIGHT - 2))


def _add_crack(image: np.ndarray, mask: np.ndarray, rng: np.random.Generator) -> None:
    """Draws a crack, in place, into image (float32) and mask (uint8), both (height, width)."""
    sy, sx, s = _scales(image.shape)
    from_right = rng.random() < 0.8
    x = REFERENCE_WIDTH - (2 if rng.random() < 0.75 else rng.uniform(50, 180))  # most start at an edge
    start = np.array([x if from_right else REFERENCE_WIDTH - x, rng.uniform(0.15, 0.85) * REFERENCE_HEIGHT])
    heading, length = rng.normal(np.pi if from_right else 0, 0.3), rng.uniform(130, 400)
    thickness, darkness = rng.uniform(2.6, 4), rng.uniform(0.45, 0.9)
    main = _walk(rng, start, heading, length)
    strands = [(main, thickness)]
    for _ in range(rng.choice(4, p=[0.35, 0.35, 0.2, 0.1])):
        root = main[int(rng.uniform(0.2, 0.8) * len(main))]
        aside = heading + rng.choice([-1, 1]) * rng.uniform(0.25, 0.8)
        strands.append((_walk(rng, root, aside, length * rng.uniform(0.08, 0.25)), 0.7 * thickness))

    heights = np.concatenate([path[:, 1] for path, _ in strands]) * sy
    top, bottom = max(0, int(heights.min()) - 4), int(heights.max()) + 6
    image, mask = image[top:bottom], mask[top:bottom]  # the crack needs no more rows than these
    canvas = np.zeros((mask.shape[0] * SUPERSAMPLING, mask.shape[1] * SUPERSAMPLING), np.uint8)
    for path, widest in strands:
        corners = np.rint((path * (sx, sy) - (0, top)) * SUPERSAMPLING).astype(int).tolist()
        taper = np.linspace(1, 0.35, len(corners) - 1) * rng.uniform(0.6, 1.2, len(corners) - 1)
        widths = np.maximum(widest * s * taper, MIN_CRACK_WIDTH * max(1, s))
        for begin, end, wide in zip(corners, corners[1:], widths, strict=False):
            cv2.line(canvas, begin, end, 255, round(wide * SUPERSAMPLING))
    covered: np.ndarray = cv2.resize(canvas, mask.shape[::-1], interpolation=cv2.INTER_AREA).astype(np.float32) / 255
    covered = cv2.GaussianBlur(covered, (0, 0), max(0.3, 0.9 * s))
    covered[covered < 0.25] = 0  # the mask is exactly the set of pixels the crack darkens
    mask[covered > 0] = 255
    fading = 0.3 * _noise(rng, covered.shape, 30 * s, 30 * s) + 0.2 * _noise(rng, covered.shape, 3 * s, 3 * s)
    _darken(image, covered * np.clip(darkness * (1 + fading), 0.3, 0.85))
