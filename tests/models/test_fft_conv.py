"""FFTConv2d against the direct convolution: values, gradients, and that it can take the place of nn.Conv2d."""

import copy
import io

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from anomaly_seg.models import fft_conv
from anomaly_seg.models.fft_conv import FFTConv2d, plan_axis


def pair(cin: int, cout: int, kernel: int, bias: bool = True) -> tuple[FFTConv2d, nn.Conv2d]:
    """The two convolutions with equal weights."""
    torch.manual_seed(0)
    direct = nn.Conv2d(cin, cout, kernel, padding=kernel // 2, bias=bias)
    fft = FFTConv2d(cin, cout, kernel, bias=bias)
    fft.load_state_dict(direct.state_dict())
    return fft, direct


def relative(a: Tensor, b: Tensor) -> float:
    """Largest difference by the largest value."""
    return ((a - b).abs().max() / b.abs().max()).item()


def values_and_gradients(conv: nn.Conv2d, x: Tensor) -> list[Tensor]:
    """Output, and the gradients of a weighted sum of it by input and parameters."""
    x = x.clone().requires_grad_()
    out = conv(x)
    weights = torch.randn(out.shape, generator=torch.Generator().manual_seed(1), dtype=torch.double)
    return [out.detach(), *torch.autograd.grad(out, (x, *conv.parameters()), weights.to(out.dtype))]


@pytest.mark.parametrize(
    ("shape", "cout", "kernel"),
    [
        ((1, 16, 88, 32), 24, 15),  # several tiles by a lone one
        ((2, 3, 75, 51), 70, 15),  # odd sizes, tiles on both axes, batch, a second block of channels
        ((1, 2, 5, 4), 3, 15),  # map smaller than the kernel
        ((3, 2, 1, 100), 2, 3),
        ((2, 4, 33, 34), 5, 1),
    ],
)
@pytest.mark.parametrize("bias", [True, False])
def test_values_and_gradients_are_those_of_the_direct_convolution(
    shape: tuple[int, ...], cout: int, kernel: int, bias: bool
) -> None:
    fft, direct = pair(shape[1], cout, kernel, bias)
    x = torch.randn(shape)
    references = values_and_gradients(direct.double(), x.double())
    for got, reference in zip(values_and_gradients(fft, x), references, strict=True):
        assert got.dtype == torch.float32 and got.shape == reference.shape
        assert relative(got.double(), reference) < 1e-5


@settings(max_examples=40)
@given(
    st.integers(1, 3),
    st.integers(1, 5),
    st.integers(1, 5),
    st.integers(1, 50),
    st.integers(1, 50),
    st.integers(0, 8),
    st.booleans(),
)
def test_any_size(batch: int, cin: int, cout: int, height: int, width: int, half: int, channels_last: bool) -> None:
    fft, direct = (conv.double() for conv in pair(cin, cout, 2 * half + 1))
    x = torch.randn(batch, cin, height, width, dtype=torch.double)
    if channels_last:
        x = x.contiguous(memory_format=torch.channels_last)
    for got, expected in zip(values_and_gradients(fft, x), values_and_gradients(direct, x), strict=True):
        torch.testing.assert_close(got, expected, rtol=1e-9, atol=1e-9)


@given(st.integers(1, 3000), st.integers(0, 40))
def test_tiles_cover_the_axis_and_none_is_empty(size: int, half: int) -> None:
    tiles, step, length = plan_axis(size, 2 * half + 1)
    assert (tiles - 1) * step < size <= tiles * step
    assert length >= (size + half if tiles == 1 else step + 2 * half)


def test_gradcheck() -> None:
    torch.manual_seed(0)
    conv = FFTConv2d(2, 2, 3).double()
    x = torch.randn(1, 2, 35, 2, dtype=torch.double, requires_grad=True)  # several tiles
    assert plan_axis(35, 3).tiles > 1

    def run(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        return torch.func.functional_call(conv, {"weight": weight, "bias": bias}, x)[:, :, ::8]

    assert torch.autograd.gradcheck(run, (x, conv.weight, conv.bias))


@pytest.mark.parametrize("needs", [(True, False), (False, True)])
@pytest.mark.parametrize("keep", [0, 1 << 30])
def test_gradient_of_one_alone(needs: tuple[bool, bool], keep: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fft_conv, "KEEP_BYTES", keep)
    monkeypatch.setattr(fft_conv, "BLOCK", 2)
    fft, direct = pair(3, 5, 5)
    x = torch.randn(1, 3, 20, 50, requires_grad=needs[0])
    grads = []
    for conv in (fft, direct):
        conv.weight.requires_grad_(needs[1])
        wanted = [t for t in (x, conv.weight) if t.requires_grad]
        grads.append(torch.autograd.grad(conv(x).square().sum(), wanted)[0])
    assert relative(*grads) < 1e-5


def test_second_derivative_is_refused() -> None:
    x = torch.randn(1, 1, 8, 8, requires_grad=True)
    grad = torch.autograd.grad(FFTConv2d(1, 1, 3)(x).square().sum(), x, create_graph=True)[0]
    with pytest.raises(RuntimeError, match="once_differentiable"):
        grad.sum().backward()


def test_repeats_bit_by_bit_and_batch_alone_changes_little() -> None:
    fft, _ = pair(4, 6, 9)
    x = torch.randn(2, 4, 60, 20)
    for a, b in zip(values_and_gradients(fft, x), values_and_gradients(fft, x), strict=True):
        assert torch.equal(a, b)
    torch.testing.assert_close(fft(x)[1], fft(x[1]), rtol=1e-5, atol=1e-6)  # also the input without a batch axis


def test_spectrum_is_kept_in_evaluation_and_follows_the_weight() -> None:
    fft, direct = pair(3, 4, 7)
    x = torch.randn(1, 3, 40, 30)

    def agree() -> bool:
        direct.load_state_dict(fft.state_dict())
        with torch.no_grad():
            return relative(fft(x), direct(x)) < 1e-5

    fft.eval()
    assert agree()
    kept = fft._cache
    assert kept is not None and agree() and fft._cache is kept
    x = torch.randn(1, 3, 100, 30)  # another tiling
    assert agree() and fft._cache is not kept
    # A fused optimiser does not count up the weight's version, nor does a change through ``data``.
    for optimiser in (torch.optim.SGD(fft.parameters(), 0.1), torch.optim.Adam(fft.parameters(), 0.1, fused=True)):
        before = fft._cache
        for p in fft.parameters():
            p.grad = torch.randn_like(p)
        optimiser.step()
        assert agree() and fft._cache is not before
    with torch.no_grad():
        fft.weight.mul_(2)
    assert agree()
    fft.weight.data = torch.randn_like(fft.weight)
    assert agree()
    fft.weight = nn.Parameter(torch.randn_like(fft.weight))
    assert agree()
    fft.load_state_dict(pair(3, 4, 7)[1].state_dict())
    assert agree()
    with torch.inference_mode():
        assert relative(fft(x), direct(x)) < 1e-5
    fft.weight.data.mul_(3)
    assert agree()
    fft(x).sum().backward()
    assert fft._cache is None and agree()
    fft.train()
    assert agree() and fft._cache is None


def test_spectrum_kept_in_inference_mode_serves_later_training() -> None:
    fft, direct = pair(2, 2, 11)
    x = torch.randn(1, 2, 23, 24)
    fft.eval()
    with torch.inference_mode():
        fft(x)
    for got, expected in zip(values_and_gradients(fft, x), values_and_gradients(direct, x), strict=True):
        assert relative(got, expected) < 1e-5


def test_state_moves_both_ways_and_copies_work() -> None:
    fft, direct = pair(2, 3, 5)
    assert list(fft.state_dict()) == list(direct.state_dict())
    fft.eval()
    x = torch.randn(1, 2, 30, 9)
    with torch.no_grad():
        expected = fft(x)
        buffer = io.BytesIO()
        torch.save(fft.state_dict(), buffer)
        buffer.seek(0)
        fresh = nn.Conv2d(2, 3, 5, padding=2)
        fresh.load_state_dict(torch.load(buffer))
        assert relative(fresh(x), expected) < 1e-5
        clone = copy.deepcopy(fft)
        assert clone._cache is None and fft._cache is not None
        assert torch.equal(clone(x), expected)
        clone.weight.zero_()
        assert clone.bias is not None and torch.equal(clone(x), clone.bias[:, None, None].expand_as(expected)[None][0])
        assert torch.equal(fft(x), expected)


def test_under_autocast_it_computes_in_float32_and_returns_the_dtype_of_the_input() -> None:
    fft, _ = pair(3, 4, 5)
    x = torch.randn(1, 3, 20, 20)
    exact = values_and_gradients(fft, x)
    with torch.autocast("cpu", torch.bfloat16):
        for got, expected in zip(values_and_gradients(fft, x), exact, strict=True):  # backward inside autocast, too
            assert torch.equal(got, expected)
        half = fft(x.bfloat16())
    assert half.dtype == torch.bfloat16 and relative(half.float(), exact[0]) < 2e-2
    assert copy.deepcopy(fft).bfloat16()(x.bfloat16()).dtype == torch.bfloat16


def test_errors() -> None:
    with pytest.raises(ValueError, match="odd"):
        FFTConv2d(1, 1, 4)
    fft = FFTConv2d(2, 1, 3)
    for wrong in (torch.zeros(1, 3, 8, 8), torch.zeros(8, 8), torch.zeros(1, 2, 8, 8, dtype=torch.double)):
        with pytest.raises(RuntimeError, match="does not fit"):
            fft(wrong)
