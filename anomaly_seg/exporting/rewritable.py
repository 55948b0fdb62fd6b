"""Which layers may be rewritten: those whose function is known from their type and settings alone."""

from torch import nn

from anomaly_seg.models.blocks import UpBlock
from anomaly_seg.models.fft_conv import FFTConv2d


def is_plain(module: nn.Module, *kinds: type[nn.Module]) -> bool:
    """Whether a module is of just one of these kinds, with nothing hung on it.

    A subclass (torch's parametrisations make one) may have a forward pass of its own, and hooks change what a module
    computes.
    """
    hooks = (module._forward_hooks, module._forward_pre_hooks, module._backward_hooks)
    return type(module) in kinds and "forward" not in vars(module) and not any(hooks)


def is_same_convolution(module: nn.Module) -> bool:
    """Whether a module is a convolution of stride 1 that keeps the size by zeros around the map."""
    if not is_plain(module, nn.Conv2d, FFTConv2d):
        return False
    assert isinstance(module, nn.Conv2d)
    odd = all(side % 2 == 1 for side in module.kernel_size)
    padding = tuple(side // 2 for side in module.kernel_size)
    return (
        odd
        and module.stride == module.dilation == (1, 1)
        and module.groups == 1
        and module.padding_mode == "zeros"
        and module.padding in (padding, "same")
    )


def is_foldable(conv: nn.Module, norm: nn.Module) -> bool:
    """Whether batch normalisation behind a convolution is a scale and a shift of each channel, known beforehand."""
    if not is_plain(conv, nn.Conv2d, FFTConv2d) or not is_plain(norm, nn.BatchNorm2d):
        return False
    assert isinstance(conv, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d)
    # With statistics of the current map, as in training mode, or with none kept, it depends on the image.
    return not norm.training and norm.running_mean is not None and norm.num_features == conv.out_channels


def is_doubling_block(block: nn.Module) -> bool:
    """Whether a module is an `UpBlock` as built: a transposed convolution by 2, then a "same" convolution."""
    if not is_plain(block, UpBlock):
        return False
    assert isinstance(block, UpBlock)
    up, stages = block.up, block.convs
    if not is_plain(up, nn.ConvTranspose2d) or not is_plain(stages, nn.Sequential):
        return False
    doubling = (
        up.kernel_size == up.stride == (2, 2)
        and up.padding == up.output_padding == (0, 0)
        and up.dilation == (1, 1)
        and up.groups == 1
    )
    return doubling and is_plain(stages[0], nn.Sequential) and is_same_convolution(stages[0][0])  # type: ignore[index]
