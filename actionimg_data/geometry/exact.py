"""Arithmetic whose result is the same to the last bit on every CPU of one architecture.

Data sets are compared byte by byte, so what is stored, and what is drawn, must not depend on which kernels a library
picks for the machine. BLAS and LAPACK do (OpenBLAS' kernels differ by 1e-15 in a 4x4 product), and so do numpy's own
``sin``, ``cos``, ``exp`` and ``arctan2`` (vectors of other widths, with fused multiply-adds or without). What is used
here is correctly rounded by IEEE 754 and never fused by numpy: ``+ - * /``, ``sqrt``, ``rint``, comparisons.

Tensors of torch go to torch's own functions: they are for training, and nothing of them is stored.

The elementary functions are those of fdlibm (Sun Microsystems, 1993: ``k_sin.c k_cos.c e_rem_pio2.c s_atan.c
e_exp.c e_log.c``), within one unit in the last place.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np
from array_api_compat import array_namespace, is_numpy_array
from numpy.typing import NDArray

Array = Any

_TWO_OVER_PI: Final = 6.36619772367581382433e-01
# pi/2 in three parts; the products of the first two with a whole number up to 2^20 are exact.
_HALF_PI: Final = (1.57079632673412561417e00, 6.07710050630396597660e-11, 2.02226624879595063154e-21)
_LARGEST_ANGLE: Final = 1e6
_SIN: Final = (
    -1.66666666666666324348e-01, 8.33333333332248946124e-03, -1.98412698298579493134e-04,
    2.75573137070700676789e-06, -2.50507602534068634195e-08, 1.58969099521155010221e-10,
)  # fmt: skip
_COS: Final = (
    4.16666666666666019037e-02, -1.38888888888741095749e-03, 2.48015872894767294178e-05,
    -2.75573143513906633035e-07, 2.08757232129817482790e-09, -1.13596475577881948265e-11,
)  # fmt: skip
_ATAN: Final = (
    3.33333333333329318027e-01, -1.99999999998764832476e-01, 1.42857142725034663711e-01, -1.11111104054623557880e-01,
    9.09088713343650656196e-02, -7.69187620504482999495e-02, 6.66107313738753120669e-02, -5.83357013379057348645e-02,
    4.97687799461593236017e-02, -3.65315727442169155270e-02, 1.62858201153657823623e-02,
)  # fmt: skip
# atan(1/2), atan(1), atan(3/2), atan(infinity), and what each lacks.
_ATAN_HIGH: Final = np.array(
    [0.0, 4.63647609000806094e-01, 7.85398163397448279e-01, 9.82793723247329054e-01, 1.57079632679489656]
)
_ATAN_LOW: Final = np.array(
    [
        0.0,
        2.26987774529616870924e-17,
        3.06161699786838301793e-17,
        1.39033110312309984516e-17,
        6.12323399573676603587e-17,
    ]
)
_LOG: Final = (
    6.666666666666735130e-01, 3.999999999940941908e-01, 2.857142874366239149e-01, 2.222219843214978396e-01,
    1.818357216161805012e-01, 1.531383769920937332e-01, 1.479819860511658591e-01,
)  # fmt: skip
_LN2: Final = (6.93147180369123816490e-01, 1.90821492927058770002e-10)
_ONE_OVER_LN2: Final = 1.44269504088896338700e00
_EXP: Final = (
    1.66666666666666019037e-01, -2.77777777770155933842e-03, 6.61375632143793436117e-05,
    -1.65339022054652515390e-06, 4.13813679705723846039e-08,
)  # fmt: skip

_LN2_SINGLE: Final = (np.float32(0.693359375), np.float32(-2.12194440e-4))
_ONE_OVER_LN2_SINGLE: Final = np.float32(_ONE_OVER_LN2)
_EXP_SINGLE: Final = tuple(
    np.float32(c)
    for c in (1.9875691500e-4, 1.3981999507e-3, 8.3334519073e-3, 4.1665795894e-2, 1.6666665459e-1, 5.0000001201e-1)
)


def matmul(a: Array, b: Array) -> Array:
    """Matrix products ``(..., I, K)`` of ``(..., I, J)`` and ``(..., J, K)``, summed over J in order."""
    if not (is_numpy_array(a) and is_numpy_array(b)):
        return a @ b
    out = a[..., :, :1] * b[..., :1, :]
    for j in range(1, a.shape[-1]):
        out += a[..., :, j : j + 1] * b[..., j : j + 1, :]
    return out


def product(first: Array, *others: Array) -> Array:
    """Several matrices ``(..., N, N)`` multiplied from left to right; see `matmul`."""
    for other in others:
        first = matmul(first, other)
    return first


def matvec(a: Array, v: Array) -> Array:
    """Vectors ``(..., I)``: matrices ``(..., I, J)`` times vectors ``(..., J)``."""
    return matmul(a, v[..., None])[..., 0]


def norm(v: Array) -> Array:
    """Euclidean lengths ``(...)`` of vectors ``(..., N)``."""
    xp = array_namespace(v)
    return xp.sqrt(xp.sum(v * v, axis=-1))


def cofactors(m: Array) -> Array:
    """Cofactors ``(..., 3, 3)`` of matrices ``(..., 3, 3)``: ``det(m)`` times the inverse, transposed."""
    xp = array_namespace(m)
    a, b, c = m[..., 0, :], m[..., 1, :], m[..., 2, :]
    return xp.stack([_cross(b, c), _cross(c, a), _cross(a, b)], axis=-2)


def det3(m: Array) -> Array:
    """Determinants ``(...)`` of matrices ``(..., 3, 3)``."""
    xp = array_namespace(m)
    return xp.sum(m[..., 0, :] * _cross(m[..., 1, :], m[..., 2, :]), axis=-1)


def inv3(m: Array) -> Array:
    """Inverses ``(..., 3, 3)`` of matrices ``(..., 3, 3)``; a singular one's is not finite."""
    xp = array_namespace(m)
    return xp.matrix_transpose(cofactors(m)) / det3(m)[..., None, None]


def _cross(a: Array, b: Array) -> Array:
    xp = array_namespace(a, b)
    ax, ay, az = a[..., 0], a[..., 1], a[..., 2]
    bx, by, bz = b[..., 0], b[..., 1], b[..., 2]
    return xp.stack([ay * bz - az * by, az * bx - ax * bz, ax * by - ay * bx], axis=-1)


def sin(x: Array) -> Array:
    """Sines of angles in radians, any shape."""
    return _turned(x, 0)


def cos(x: Array) -> Array:
    """Cosines of angles in radians, any shape."""
    return _turned(x, 1)


def tan(x: Array) -> Array:
    """Tangents of angles in radians, any shape."""
    return sin(x) / cos(x)


def atan2(y: Array, x: Array) -> Array:
    """Angles ``(...)`` in [-pi, pi] of the points ``(x, y)``; 0 at the origin, whatever the sign of x."""
    if not (_is_ours(y) and _is_ours(x)):
        return array_namespace(y, x).atan2(y, x)
    kind = np.result_type(y, x, np.float32)
    y, x = np.broadcast_arrays(np.asarray(y, np.float64), np.asarray(x, np.float64))
    across, along = np.abs(y), np.abs(x)
    with np.errstate(divide="ignore", invalid="ignore", over="ignore", under="ignore"):
        angle = _atan(np.where(across == along, 1.0, across / along))
    angle = np.where((across == 0) & (along == 0), 0.0, angle)
    angle = np.where((x < 0), (np.pi - (angle - 1.2246467991473531772e-16)), angle)
    angle = np.where(np.isnan(x) | np.isnan(y), np.nan, angle)
    return np.copysign(angle, y).astype(kind, copy=False)


def acos(x: Array) -> Array:
    """Angles in [0, pi] of cosines, any shape; NaN beyond [-1, 1]."""
    if not _is_ours(x):
        return array_namespace(x).acos(x)
    kind = np.result_type(x, np.float32)
    x = np.asarray(x, np.float64)
    with np.errstate(invalid="ignore"):
        return (2 * atan2(np.sqrt(1 - x), np.sqrt(1 + x))).astype(kind, copy=False)


def exp(x: Array) -> Array:
    """Exponentials, any shape; 0 below -745, infinite above 709."""
    if not _is_ours(x):
        return array_namespace(x).exp(x)
    kind = np.result_type(x, np.float32)
    x = np.asarray(x, np.float64)
    inside = np.clip(x, -800.0, 800.0)
    k = np.rint(np.where(np.isnan(inside), 0.0, inside) * _ONE_OVER_LN2)
    high, low = inside - k * _LN2[0], k * _LN2[1]
    r = high - low
    squared = r * r
    c = r - squared * _horner(squared, _EXP)
    with np.errstate(over="ignore", under="ignore"):
        return np.ldexp(1 - ((low - (r * c) / (2 - c)) - high), k.astype(np.int32)).astype(kind, copy=False)


def log(x: Array) -> Array:
    """Natural logarithms of positive, finite numbers, any shape; NaN of others."""
    if not _is_ours(x):
        return array_namespace(x).log(x)
    kind = np.result_type(x, np.float32)
    x = np.asarray(x, np.float64)
    positive = (x > 0) & (x < np.inf)
    mantissa, k = np.frexp(np.where(positive, x, 1.0))
    # Mantissas in [sqrt(1/2), sqrt(2)).
    low = mantissa < 0.70710678118654752440
    f = np.where(low, 2 * mantissa, mantissa) - 1
    k = (k - low).astype(np.float64)
    s = f / (2 + f)
    z = s * s
    half = 0.5 * f * f
    value = k * _LN2[0] - ((half - (s * (half + z * _horner(z, _LOG)) + k * _LN2[1])) - f)
    return np.where(positive, value, np.nan).astype(kind, copy=False)


def exp_float32(x: NDArray[np.float32]) -> NDArray[np.float32]:
    """Exponentials of float32 numbers that are not positive, any shape, within 1e-7; `x` is overwritten.

    S. Moshier, Cephes (1992), ``expf.c``. Below -87, where float32 has no normal number left, that of -87.
    """
    np.maximum(x, np.float32(-87), out=x)
    k = x * _ONE_OVER_LN2_SINGLE
    np.rint(k, out=k)
    x -= k * _LN2_SINGLE[0]
    x -= k * _LN2_SINGLE[1]
    y = x * _EXP_SINGLE[0]
    for c in _EXP_SINGLE[1:]:
        y += c
        y *= x
    y *= x
    y += x
    y += np.float32(1)
    # 2^k by its bits: the exponent's field of a float32.
    power = k.astype(np.int32)
    power += 127
    power <<= 23
    y *= power.view(np.float32)
    return y


def _is_ours(x: Array) -> bool:
    """Whether it is numpy's, or a plain number."""
    return is_numpy_array(x) or isinstance(x, (float, int, np.generic))


def _turned(x: Array, quarter: int) -> Array:
    """sin(x + quarter pi/2)."""
    if not _is_ours(x):
        xp = array_namespace(x)
        return xp.cos(x) if quarter else xp.sin(x)
    kind = np.result_type(x, np.float32)
    x = np.asarray(x, np.float64)
    # Beyond, neighbouring floats are so far apart that an angle means little; fmod is exact.
    with np.errstate(invalid="ignore"):
        x = np.where(np.abs(x) > _LARGEST_ANGLE, np.fmod(x, 4 * (_HALF_PI[0] + _HALF_PI[1])), x)
    n = np.rint(np.where(np.isfinite(x), x, 0.0) * _TWO_OVER_PI)
    first = x - n * _HALF_PI[0]
    second = n * _HALF_PI[1]
    r = first - second
    rest = n * _HALF_PI[2] - ((first - r) - second)
    y = r - rest
    tail = (r - y) - rest
    z = y * y
    half = 0.5 * z
    w = 1 - half
    cosine = w + (((1 - w) - half) + (z * (z * _horner(z, _COS)) - y * tail))
    v = z * y
    sine = y - ((z * (0.5 * tail - v * _horner(z, _SIN[1:])) - tail) - v * _SIN[0])
    turn = (n.astype(np.int64) + quarter) & 3
    value = np.where(turn & 1, cosine, sine)
    return np.where(turn & 2, -value, value).astype(kind, copy=False)


def _atan(x: Array) -> Array:
    """Arc tangents of numbers that are not negative, infinity included."""
    part = (x >= 0.4375).astype(np.intp) + (x >= 0.6875) + (x >= 1.1875) + (x >= 2.4375)
    above = np.select([part == 0, part == 1, part == 2, part == 3], [x, 2 * x - 1, x - 1, x - 1.5], -1.0)
    below = np.select([part == 0, part == 1, part == 2, part == 3], [np.ones_like(x), 2 + x, x + 1, 1 + 1.5 * x], x)
    y = above / below
    z = y * y
    return _ATAN_HIGH[part] - ((y * (z * _horner(z, _ATAN)) - _ATAN_LOW[part]) - y)


def _horner(x: Array, coefficients: tuple[float, ...]) -> Array:
    out = np.full_like(x, coefficients[-1])
    for c in reversed(coefficients[:-1]):
        out = out * x + c
    return out
