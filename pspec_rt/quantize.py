"""Int8 weights: integers in groups of 64 inputs that share a scale, packed once as the kernels read them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn import functional as F

# As in csrc/cpu/isa/int8_layout.h: tiles of ROWS output rows and DEPTH inputs, [quads of inputs][rows][4] bytes, each
# integer + ZERO, then the fp32 scales of the rows.
ROWS, DEPTH, ZERO = 16, 64, 128
TILE = ROWS * DEPTH
TILE_BYTES = TILE + 4 * ROWS

LIMIT = 127  # of a weight, and of an activation in 8 bits
WIDE_LIMIT = 127 * 256 + 127  # of an activation in 16 bits: two digits of -128..127
LEAST = 2.0**-100  # a group of smaller numbers counts as zero: LIMIT / them would overflow

_CHUNK = 1024  # rows quantised together: what is held in fp32 meanwhile stays small


@dataclass(frozen=True)
class Int8Weight:
    """A weight matrix [O, I] of integers -127..127 times a scale per row and group of 64 inputs.

    Takes the place of a tensor as a weight of `ops.linear`, `ops.head_top_k` and `ops.embed`, on CPUs.

    Attributes:
        data_OGT: [ceil(O / 16), ceil(I / 64), TILE_BYTES] uint8 tiles, 64-byte aligned.
        O, I: shape of the matrix.
        a8: whether activations are rounded to 8 bits relative to the largest of their group, instead of 16.
    """

    data_OGT: Tensor
    O: int
    I: int
    a8: bool = False

    @property
    def shape(self) -> torch.Size:
        return torch.Size((self.O, self.I))

    @property
    def dtype(self) -> str:
        """ "int8" or "int8a8": what is asked for by these names."""
        return "int8a8" if self.a8 else "int8"

    @property
    def device(self) -> torch.device:
        return self.data_OGT.device

    @property
    def nbytes(self) -> int:
        return self.data_OGT.nbytes

    def data_ptr(self) -> int:
        return self.data_OGT.data_ptr()

    def unpack(self, ids_R: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """q_RGK [R, groups, 64] uint8, 128 being 0, and scale_RG fp32, of these rows (default: all)."""
        if ids_R is None:
            ids_R = torch.arange(self.O, device=self.device)
        tile_R, row_R = ids_R.long() // ROWS, ids_R.long() % ROWS
        bytes_OGKRJ = self.data_OGT[:, :, :TILE].unflatten(2, (DEPTH // 4, ROWS, 4))
        scale_OGR = self.data_OGT[:, :, TILE:].view(torch.float32)
        return bytes_OGKRJ[tile_R, :, :, row_R].flatten(2), scale_OGR[tile_R, :, row_R]

    def rows(self, ids_R: Tensor | None = None) -> Tensor:
        """These rows (default: all) in fp32, [R, I]."""
        q_RGK, scale_RG = self.unpack(ids_R)
        return ((q_RGK.float() - ZERO) * scale_RG[:, :, None]).flatten(1)[:, : self.I].contiguous()


Weight = Tensor | Int8Weight


def first_rows(weight: Weight, count: int) -> Weight:
    """The first `count` rows of a matrix, or all if it has fewer, in the same memory."""
    count = min(count, weight.shape[0])
    if isinstance(weight, Int8Weight):
        return replace(weight, data_OGT=weight.data_OGT[: -(-count // ROWS)], O=count)
    return weight[:count]


def select_rows(weight: Weight, ids_D: Tensor) -> Weight:
    """A new matrix of these rows, bit for bit."""
    if isinstance(weight, Int8Weight):
        return pack(*weight.unpack(ids_D), weight.I, weight.a8)
    return weight[ids_D]


def quantize(w_OI: Tensor, a8: bool = False, empty: Callable[..., Tensor] = torch.empty) -> Int8Weight:
    """Round a weight matrix: per row and group of 64 inputs, scale = largest magnitude / 127.

    Args:
        w_OI: [O, I] finite, of any float dtype.
        a8: see `Int8Weight`.
        empty: makes the packed tensor: `torch.empty`, or `Arena.empty`.
    """
    O, I = w_OI.shape
    data_OGT = empty(-(-O // ROWS), -(-I // DEPTH), TILE_BYTES, dtype=torch.uint8)
    for first in range(0, O, _CHUNK):
        w_RGK = _groups(w_OI[first : first + _CHUNK].float())
        most_RG = w_RGK.abs().amax(2)
        scale_RG = torch.where(most_RG >= LEAST, most_RG / LIMIT, 0.0)
        q_RGK = torch.where(scale_RG[:, :, None] > 0, w_RGK / scale_RG[:, :, None], 0.0).round()
        _write_tiles((q_RGK + ZERO).to(torch.uint8), scale_RG, data_OGT[first // ROWS : (first + _CHUNK) // ROWS])
    return Int8Weight(data_OGT, O, I, a8)


def pack(q_OGK: Tensor, scale_OG: Tensor, I: int, a8: bool = False) -> Int8Weight:
    """The matrix [O, I] of what `Int8Weight.unpack` gives."""
    O, G = scale_OG.shape
    data_OGT = torch.empty(-(-O // ROWS), G, TILE_BYTES, dtype=torch.uint8)
    _write_tiles(q_OGK, scale_OG, data_OGT)
    return Int8Weight(data_OGT, O, I, a8)


def _write_tiles(q_RGK: Tensor, scale_RG: Tensor, data_OGT: Tensor) -> None:
    """Rows that are missing to whole tiles become zeros."""
    blocks, G = data_OGT.shape[:2]
    missing = blocks * ROWS - len(q_RGK)
    q_RGK = F.pad(q_RGK, (0, 0, 0, 0, 0, missing), value=ZERO).view(blocks, ROWS, G, DEPTH // 4, 4)
    data_OGT[:, :, :TILE].unflatten(2, (DEPTH // 4, ROWS, 4)).copy_(q_RGK.permute(0, 2, 3, 1, 4))
    scale_RG = F.pad(scale_RG, (0, 0, 0, missing)).view(blocks, ROWS, G)
    data_OGT[:, :, TILE:].view(torch.float32).copy_(scale_RG.transpose(1, 2))


def quantize_activations(x_RI: Tensor, a8: bool) -> tuple[Tensor, Tensor]:
    """What the kernels make of activations: whole numbers q_RGK [R, groups, 64] in fp32, and scale_RG.

    A group that holds NaN or an infinity is all 0, with the scale NaN.
    """
    x_RGK = _groups(x_RI.float())
    most_RG = x_RGK.abs().amax(2)
    finite_RG = most_RG.isfinite()
    usable_RG = finite_RG & (most_RG >= LEAST)
    limit = torch.tensor(float(LIMIT if a8 else WIDE_LIMIT))  # a plain number would be multiplied by 1 / most
    factor_RG = torch.where(usable_RG, limit / most_RG, 0.0)
    q_RGK = torch.where(usable_RG[:, :, None], (x_RGK * factor_RG[:, :, None]).round(), 0.0)
    return q_RGK, torch.where(finite_RG, torch.where(usable_RG, most_RG / limit, 0.0), torch.nan)


def _groups(x_RI: Tensor) -> Tensor:
    """[R, groups, 64], zero padded."""
    return F.pad(x_RI, (0, -x_RI.shape[1] % DEPTH)).unflatten(1, (-1, DEPTH))
