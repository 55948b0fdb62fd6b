"""Images whose size is far from the sizes a model was trained on, so that its score may mislead."""

from anomaly_seg.inference.model_card import InputContract

MAX_FACTOR = 2.0
"""How often smaller or larger than all training images one may be. Beyond it a defect reaches the network at half or
double the size it was trained on, or (tiles) a score, which is a sum over pixels, halves or doubles with the area."""
MAX_ASPECT = 1.5
"""How much further than any training image one may be stretched to the network's size: lower than the 1.78 of a 4:3
image turned on its side, higher than the 1.33 between 4:3 and 16:9."""


def size_note(height: int, width: int, contract: InputContract) -> str | None:
    """Say that an image is far from the training images in size, or nothing.

    The rule follows from how the image gets the network's size: with ``resize`` each side has its own scale, and both
    together may change the shape of defects; with ``pad`` there is one scale; with ``tile`` none, only an area.

    Args:
        height, width: of the image as given, in pixels.
        contract: of the model, with the lowest and highest height and width of the training images.

    Returns:
        A sentence without its subject; None where the size is near enough, or the contract lacks those of training.
    """
    if contract.native_height is None or contract.native_width is None:
        return None
    rule = {"resize": _resized, "pad": _padded, "tile": _tiled}[contract.fit]
    reason = rule(height, width, contract, contract.native_height, contract.native_width)
    if reason is None:
        return None
    trained = " x ".join(_range(*sides) for sides in (contract.native_height, contract.native_width))
    return f"{height} x {width} pixels, far from the {trained} trained on: {reason}"


def _resized(
    height: int, width: int, contract: InputContract, heights: tuple[int, int], widths: tuple[int, int]
) -> str | None:
    for name, side, (low, high) in (("height", height, heights), ("width", width, widths)):
        if far := _far(side, low, high):
            return f"its {name} is {far}"
    # The box around all training sizes bounds their aspects, so that none of them is called far.
    taller = height * widths[0] > MAX_ASPECT * heights[1] * width
    wider = width * heights[0] > MAX_ASPECT * widths[1] * height
    return f"it is stretched over {MAX_ASPECT:g} times further than any image trained on" if taller or wider else None


def _padded(
    height: int, width: int, contract: InputContract, heights: tuple[int, int], widths: tuple[int, int]
) -> str | None:
    def shrinking(tall: int, wide: int) -> float:
        """Pixels of the image along one pixel of the network."""
        return max(tall / contract.height, wide / contract.width)

    far = _far(shrinking(height, width), shrinking(heights[0], widths[0]), shrinking(heights[1], widths[1]))
    return f"the factor it is shrunk by is {far}" if far else None


def _tiled(
    height: int, width: int, contract: InputContract, heights: tuple[int, int], widths: tuple[int, int]
) -> str | None:
    far = _far(height * width, heights[0] * widths[0], heights[1] * widths[1])
    return f"its area is {far}" if far else None


def _far(value: float, low: float, high: float) -> str | None:
    """How a value is far from the range low to high of the training images; exactly the factor is still near."""
    if value * MAX_FACTOR < low:
        return f"less than 1/{MAX_FACTOR:g} of the smallest"
    return f"more than {MAX_FACTOR:g} times the largest" if value > MAX_FACTOR * high else None


def _range(low: int, high: int) -> str:
    return f"{low}" if low == high else f"{low} to {high}"
