"""Large-kernel 2-d convolution in the frequency domain: an exact stand-in for ``nn.Conv2d``.

Overlap-save (Oppenheim & Schafer, "Discrete-Time Signal Processing", 8.7): tiles that overlap by ``kernel - 1`` are
convolved circularly by a product of spectra, and the samples spoilt by the wrap dropped. Both gradients are adjoints of
the same steps (Mathieu, Henaff & LeCun, "Fast Training of Convolutional Networks through FFTs", ICLR 2014). The
transforms are short and pruned, so they are matrix products by rows and columns: any length is good, the bins come out
first, as the product needs them, and it takes a third of the time of ``rfft2`` and a relayout (15x15, Zen 4). A complex
product is a real ``bmm`` over the bins, ``[[Xr, -Xi], [Xi, Xr]] @ [Wr; Wi]``. Spectra are (x bins * y bins, 2, rows,
channels), index 1 real and imaginary, with ``length // 2 + 1`` x bins and ``length`` y bins; M is batch * tiles.
TF32 products on CUDA (off by default) cost digits here as in any matrix product.
"""

import math
from functools import lru_cache
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

BLOCK = 64  # output channels worked on at a time: wide enough for the products, and their spectrum stays small
KEEP_BYTES = 64 << 20  # a weight spectrum up to this size is kept for the backward pass; a larger one is made again


class DftAxis(NamedTuple):
    """One axis of the tiling: ``tiles`` tiles of ``step`` kept samples, each transformed over ``length`` samples."""

    tiles: int
    step: int
    length: int


def plan_axis(size: int, kernel: int) -> DftAxis:
    """FftPlan of ``size`` samples for an odd ``kernel``, both at least 1, as measured; the optimum is flat."""
    usual = max(kernel + 1, 16)
    if size <= 2 * usual:  # a lone tile wraps into its own zero padding, so half the margin does
        return DftAxis(1, size, size + kernel // 2)
    step = -(-size // -(-size // usual))
    return DftAxis(-(-size // step), step, step + kernel - 1)


@lru_cache(maxsize=32)
def _matrices(y: DftAxis, x: DftAxis, ky: int, kx: int, *like: Any) -> list[tuple[Tensor, Tensor]]:
    """Real DFT matrices (x, y) of map tiles, of kernels, of output tiles (inverse, transposed); like: device, dtype.

    x: (2 * bins, n) of real samples, rows (bin, part). y: (2 * length, 2 * n) of complex samples, columns (part, n).
    """

    def dft(length: int, count: int, sign: int, real: bool) -> Tensor:
        bins = torch.arange(length // 2 + 1 if real else length, device="cpu")
        turn = (bins[:, None] * torch.arange(count, device="cpu") % length).double() * (sign * 2 * math.pi / length)
        re, im = turn.cos(), turn.sin()
        return torch.stack([re, im] if real else [re, -im, im, re], 1).reshape(2 * len(bins), -1)

    with torch.inference_mode(False):  # they outlive this call and may next be used where gradients are recorded
        pair = torch.full((x.length // 2 + 1, 1), 2.0 / (x.length * y.length), dtype=torch.double, device="cpu")
        pair[:: x.length // 2 if x.length % 2 == 0 else len(pair)] /= 2  # zero and Nyquist have no conjugate twin
        maps = dft(x.length, x.length, -1, True), dft(y.length, y.length, -1, False)
        kernels = dft(x.length, kx, 1, True), dft(y.length, ky, 1, False)  # conjugated: a correlation
        out = maps[0][:, : x.step] * pair.repeat_interleave(2, 0), dft(y.length, y.step, -1, False)
        return [(of_x.to(*like), of_y.to(*like)) for of_x, of_y in (maps, kernels, out)]


def _analyse(samples: Tensor, to_x: Tensor, to_y: Tensor) -> Tensor:
    """Spectrum (bins, 2, rows, channels) of real samples (nx, ny, rows, channels)."""
    nx, ny, rows, channels = samples.shape
    by_x = (to_x @ samples.reshape(nx, -1)).view(-1, 2 * ny, rows * channels)
    return torch.bmm(to_y.expand(len(by_x), -1, -1), by_x).view(-1, 2, rows, channels)


def _synthesise(spectrum: Tensor, to_x: Tensor, to_y: Tensor) -> Tensor:
    """Transpose of ``_analyse``: real samples (nx, ny, rows, channels) of (bins, 2, rows, channels)."""
    bins_x, (rows, channels) = len(to_x) // 2, spectrum.shape[2:]
    by_x = torch.bmm(to_y.t().expand(bins_x, -1, -1), spectrum.reshape(bins_x, len(to_y), -1))
    return (to_x.t() @ by_x.view(2 * bins_x, -1)).view(to_x.shape[1], -1, rows, channels)


class FftPlan:
    """The linear maps of one convolution, for a map of ``shape`` (B, cin, H, W) and a weight (cout, cin, ky, kx)."""

    def __init__(self, shape: torch.Size, weight: Tensor) -> None:
        self.size, (ky, kx) = shape[2:], weight.shape[2:]
        self.axes = self.y, self.x = plan_axis(shape[2], ky), plan_axis(shape[3], kx)
        self.lead, self.grid = (ky // 2, kx // 2), (shape[0], self.y.tiles, self.x.tiles)
        self.of_map, self.of_kernel, self.of_out = _matrices(self.y, self.x, ky, kx, weight.device, weight.dtype)
        self.operator_shape = ((self.x.length // 2 + 1) * self.y.length, 2 * math.prod(self.grid), 2 * shape[1])

    def cut(self, image: Tensor, wy: int, wx: int, lead: tuple[int, int] = (0, 0)) -> Tensor:
        """Windows (wx, wy, M, C) at the steps of the tiling, of (B, C, H, W) padded by ``lead`` in front."""
        sides = zip(self.axes, (wy, wx), lead, self.size, strict=True)
        tail = [(axis.tiles - 1) * axis.step + window - before - size for axis, window, before, size in sides]
        image = nn.functional.pad(image, (lead[1], tail[1], lead[0], tail[0])).permute(0, 2, 3, 1).contiguous()
        tiles = image.unfold(1, wy, self.y.step).unfold(2, wx, self.x.step)  # B, ty, tx, C, wy, wx
        return tiles.permute(5, 4, 0, 1, 2, 3).reshape(wx, wy, -1, image.shape[3])

    def lay(self, tiles: Tensor, lead: tuple[int, int] = (0, 0)) -> Tensor:
        """Transpose of ``cut``: overlap and add (wx, wy, M, C) into (B, C, H, W)."""
        (wx, wy, _, channels), (batch, ny, nx) = tiles.shape, self.grid
        image = tiles.new_zeros(batch, (ny - 1) * self.y.step + wy, (nx - 1) * self.x.step + wx, channels)
        for i, row in enumerate(tiles.view(wx, wy, *self.grid, channels).permute(3, 4, 2, 1, 0, 5)):
            for j, tile in enumerate(row):
                image[:, i * self.y.step :, j * self.x.step :][:, :wy, :wx] += tile
        return image[:, lead[0] :, lead[1] :][:, : self.size[0], : self.size[1]].permute(0, 3, 1, 2)

    def spectrum(self, part: Tensor) -> Tensor:
        """Spectrum (bins, 2 * cin, channels) of a block of kernels (channels, cin, ky, kx)."""
        return _analyse(part.permute(3, 2, 1, 0), *self.of_kernel).flatten(1, 2)


class _FFTConv(torch.autograd.Function):
    """Same-size correlation of x (B, cin, H, W) and weight (cout, cin, ky, kx), given its spectra by blocks or None."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, spectra: list[Tensor] | None) -> Tensor:
        ctx.plan = plan = FftPlan(x.shape, weight)
        re, im = _analyse(plan.cut(x, plan.y.length, plan.x.length, plan.lead), *plan.of_map).unbind(1)
        operator = torch.cat([torch.cat([re, -im], 2), torch.cat([im, re], 2)], 1)  # bins, 2 * M, 2 * cin
        keep = ctx.needs_input_grad[0] and re.itemsize * len(re) * 2 * weight[:, :, 0, 0].numel() <= KEEP_BYTES
        out, kept = x.new_empty(len(x), len(weight), *x.shape[2:]), []
        for i, part in enumerate(weight.split(BLOCK)):
            spectrum = plan.spectrum(part) if spectra is None else spectra[i]
            kept += [spectrum] if keep else []
            tiles = _synthesise(torch.bmm(operator, spectrum).unflatten(1, (2, -1)), *plan.of_out)
            out[:, i * BLOCK :][:, :BLOCK] = plan.lay(tiles)
        ctx.save_for_backward(weight, operator if ctx.needs_input_grad[1] else None, *kept)
        return out

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
        (weight, operator, *kept), plan = ctx.saved_tensors, ctx.plan
        grad_x = weight.new_zeros(plan.operator_shape) if ctx.needs_input_grad[0] else None
        grad_weight = torch.empty_like(weight) if ctx.needs_input_grad[1] else None
        with torch.autocast(grad.device.type, enabled=False):  # backward may be called inside a caller's autocast
            for i, (part, tiles) in enumerate(zip(weight.split(BLOCK), grad.split(BLOCK, 1), strict=True)):
                product = _analyse(plan.cut(tiles, plan.y.step, plan.x.step), *plan.of_out).flatten(1, 2)
                if grad_x is not None:
                    grad_x += torch.bmm(product, (kept[i] if kept else plan.spectrum(part)).transpose(1, 2))
                if grad_weight is not None:
                    spectrum = torch.bmm(operator.transpose(1, 2), product).unflatten(1, (2, -1))
                    grad_weight[i * BLOCK :][:BLOCK] = _synthesise(spectrum, *plan.of_kernel).permute(3, 2, 1, 0)
            if grad_x is not None:
                (rr, ri), (ir, ii) = (rows.chunk(2, 2) for rows in grad_x.chunk(2, 1))
                grad_x = plan.lay(_synthesise(torch.stack([rr + ii, ir - ri], 1), *plan.of_map), plan.lead)
        return grad_x, grad_weight, None


class FFTConv2d(nn.Conv2d):
    """``nn.Conv2d`` of stride 1 with an odd kernel and zero "same" padding, computed in the frequency domain on a CPU.

    Anywhere else it is ``nn.Conv2d``: at the paper's size a step here is 6,709 small operations (counted), which take a
    GPU longer to be told of than its whole training step should last. Same parameters and state_dict; maps
    ([B,] in_channels, H, W) of any size to out_channels. Float64 is computed in float64, all else in float32 and
    returned in the input's dtype, also under autocast. Evaluation without gradients keeps the weight's spectrum and a
    copy of the weight (together 5 to 6 times its size) until the weight differs from the copy or gradients are
    recorded. RuntimeError: wrong input shape or (no autocast) dtype; second derivatives.
    """

    def __init__(self, in_channels: int, out_channels: int, kernel_size: int, bias: bool = True) -> None:
        if kernel_size < 1 or kernel_size % 2 == 0:
            raise ValueError(f"kernel_size={kernel_size}: must be odd and positive")
        super().__init__(in_channels, out_channels, kernel_size, padding=kernel_size // 2, bias=bias)
        self._cache: tuple[Any, Tensor, list[Tensor]] | None = None

    def __getstate__(self) -> dict[str, Any]:
        """State for pickle and deepcopy, without the kept spectrum."""
        return {**self.__dict__, "_cache": None}

    def _spectra(self, weight: Tensor, shape: torch.Size) -> list[Tensor] | None:
        """The weight's spectra for maps of ``shape``, kept from call to call in evaluation, else None."""
        if self.training or torch.is_grad_enabled():
            self._cache = None
            return None
        plan = FftPlan(shape, weight)
        key = (plan.axes, weight.dtype, weight.device)
        # By value: fused optimisers (torch 2.13) and ``weight.data`` change a weight without counting up its version.
        if self._cache is None or self._cache[0] != key or not torch.equal(self._cache[1], weight):
            self._cache = (key, weight.detach().clone(), [plan.spectrum(part) for part in weight.split(BLOCK)])
        return self._cache[2]

    def forward(self, x: Tensor) -> Tensor:
        """([B,] in_channels, H, W) to ([B,] out_channels, H, W)."""
        return self._by_spectra(x) if x.device.type == "cpu" else super().forward(x)

    @torch.compiler.disable  # torch.compile would unroll its loops over tiles: minutes, and nothing gained
    def _by_spectra(self, x: Tensor) -> Tensor:
        autocast = torch.is_autocast_enabled(x.device.type)
        if x.dim() not in (3, 4) or x.shape[-3] != self.in_channels or not (autocast or x.dtype == self.weight.dtype):
            raise RuntimeError(f"{x.dtype} input {tuple(x.shape)} does not fit a {self.weight.dtype} {self}")
        dtype = torch.double if torch.double in (x.dtype, self.weight.dtype) else torch.float
        with torch.autocast(x.device.type, enabled=False):
            maps, weight = x.to(dtype).reshape(-1, *x.shape[-3:]), self.weight.to(dtype)
            out = _FFTConv.apply(maps, weight, self._spectra(weight, maps.shape))
            out = out if self.bias is None else out + self.bias.to(dtype)[:, None, None]
        return out.to(x.dtype).view(*x.shape[:-3], *out.shape[1:])
