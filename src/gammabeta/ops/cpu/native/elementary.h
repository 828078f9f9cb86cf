// The elementary functions under the activations, of a vector of either compute type.
//
// In float they are polynomials without a branch, subnormal results included. The coefficients are
// scripts/fit_activations.py's, which prints them with their errors. Off the true value the
// functions are at most 0.8 ulp (e^x), 1.5 (tanh) and 4 (a · Φ(−a), however far out), whether the
// multiply-add is fused or not. In double they are the C library's, lane by lane.
//
// e^x is asked for only at x ≤ 0. There nothing overflows, and symmetry gives the other half:
// σ(−z) = 1 − σ(z), tanh is odd, Φ(−z) = 1 − Φ(z).
#pragma once

#include "vector.h"

namespace {

template <class A>
GB_INLINE V<A> at_least(A low, V<A> v) {
  return where<A>(v < low, splat<A>(low), v);  // NaN stays
}
template <class A>
GB_INLINE V<A> at_most(A high, V<A> v) {
  return where<A>(v > high, splat<A>(high), v);
}

GB_INLINE vfloat minus_magnitude(vfloat v) { return (vfloat)((vint32)v | INT32_MIN); }
GB_INLINE vdouble minus_magnitude(vdouble v) { return (vdouble)((vint64)v | INT64_MIN); }

// c0 + c1 x + c2 x² + …
GB_INLINE vfloat polynomial(vfloat, float c0) { return splat<float>(c0); }
template <class... Rest>
GB_INLINE vfloat polynomial(vfloat x, float c0, Rest... rest) {
  return fma(polynomial(x, rest...), x, splat<float>(c0));
}

// ---- e^x ----------------------------------------------------------------------------------------

// e^(x + more) at kLowest ≤ x ≤ 0, where more is what x had no bits for. It comes lifted, which is
// times 2⁶⁴: 0 or a normal number. lower() is the way back. A factor put in between the two is
// rounded with it, once, even where e^x alone is subnormal.
constexpr float kLowest = -132.4f;  // e^x is 0 there even lifted; times ∞ it has to be NaN
GB_INLINE vfloat exp_lifted(vfloat x, vfloat more) {
  // 1.5 · 2²³ leaves no bits for a fraction: the sum is rounded to n = round(x / ln 2), and its
  // last bits are n's: the exponent of 2^(n + 64).
  constexpr float kToInteger = 0x1.8p23f + 127 + 64;
  vfloat sum = fma(x + more, splat(0x1.715476p+0f), splat(kToInteger)), n = sum - kToInteger;
  vfloat power = (vfloat)((vuint32)sum << 23);
  // r + rest = x + more − n ln 2. The first part of ln 2 is so short that n times it, and r, are
  // exact.
  vfloat r = fma(n, splat(-0x1.62e4p-1f), x), rest = fma(n, splat(-0x1.7f7d1cp-20f), more);
  vfloat s = r + rest;
  vfloat q = polynomial(s, 0x1.fffffcp-2f, 0x1.555492p-3f, 0x1.5558aep-5f, 0x1.12397cp-7f,
                        0x1.6a4ef0p-10f);
  // 1 + r + (rest + s² q), and what 1 + r loses when it is rounded.
  vfloat most = 1 + r, lost = r - (most - 1);
  return power * (most + (lost + fma(s * s, q, rest)));
}
GB_INLINE vfloat exp_lifted(vfloat x) {
  return exp_lifted(at_least(kLowest, x), splat(-0.0f));  // adding −0 compiles to nothing
}
GB_INLINE vfloat lower(vfloat lifted) { return lifted * 0x1p-64f; }

GB_INLINE vdouble exp_lifted(vdouble x) {
  for (int i = 0; i < kLanes<double>; i++) x[i] = __builtin_exp(x[i]);
  return x;
}
GB_INLINE vdouble exp_lifted(vdouble x, vdouble more) {
  vdouble sum = x + more;
  return exp_lifted(sum) * (1 + (more - (sum - x)));
}
GB_INLINE vdouble lower(vdouble same) { return same; }

// ---- tanh ---------------------------------------------------------------------------------------

// Near 0 an odd polynomial, so that the relative error stays small; further out 1 − 2 σ(−2|z|).
GB_INLINE vfloat tanh(vfloat z) {
  vfloat minus = minus_magnitude(z), square = z * z;
  vfloat p = polynomial(square, -0x1.55553ep-2f, 0x1.1109bep-3f, -0x1.b89abap-5f, 0x1.54c3c2p-6f,
                        -0x1.828776p-8f);
  vfloat e = lower(exp_lifted(2 * minus));
  vfloat t = where<float>(minus > -0.6f, fma(z * square, p, z), 1 - 2 * e / (1 + e));
  return (vfloat)((vint32)t | ((vint32)z & INT32_MIN));
}
GB_INLINE vdouble tanh(vdouble z) {
  for (int i = 0; i < kLanes<double>; i++) z[i] = __builtin_tanh(z[i]);
  return z;
}

// ---- the normal distribution: its density φ and integral Φ --------------------------------------

// How far a goes below. a · Φ(−a) is 0 well before.
template <class A>
constexpr A kTailEnd = 40;
template <>
constexpr float kTailEnd<float> = 16.27f;  // e^(−a²/2) is 0 even lifted

// Φ(−a) = e^(−a²/2) / divisor. The divisor goes up from 2 and comes ever closer to √(2π) a.
struct NormalTail {
  vfloat lifted, divisor;
};
GB_INLINE NormalTail normal_tail(vfloat a) {
  // a² in two parts, as the exponent's absolute error is e^x's relative one: brief² is exact.
  vfloat brief = (vfloat)((vint32)a & ~0xfff);
  vfloat x = -0.5f * brief * brief, more = -0.5f * (a - brief) * (a + brief);
  vfloat p = polynomial(a, 0x1.d25c22p-1f, 0x1.5d411ap-1f, 0x1.f6b706p-3f, 0x1.82d726p-5f,
                        0x1.11e54ap-8f);
  vfloat q = polynomial(a, 0x1p+0f, 0x1.0c8310p+0f, 0x1.101f12p-1f, 0x1.3e98a4p-3f,
                        0x1.adc71ep-6f, 0x1.11e452p-9f);
  return {exp_lifted(x, more), fma(a, 0x1.40d932p+1f - p / q, splat(2.0f))};
}

// factor · Φ(−a).
GB_INLINE vfloat times_tail(vfloat factor, vfloat a) {
  NormalTail t = normal_tail(a);
  return lower(t.lifted * (factor / t.divisor));
}
GB_INLINE vdouble times_tail(vdouble factor, vdouble a) {
  for (int i = 0; i < kLanes<double>; i++) {
    // erfc(x) goes as e^(−x²). What the rounded x² is off a² / 2 is made up for.
    double x = a[i] * 0.70710678118654752440, half = 0.5 * a[i] * a[i];
    double off = __builtin_fma(x, x, -half) - __builtin_fma(0.5 * a[i], a[i], -half);
    factor[i] *= 0.5 * __builtin_erfc(x) * (1 + off);
  }
  return factor;
}

// Φ(−a) − factor · φ(a).
GB_INLINE vfloat tail_less_density(vfloat a, vfloat factor) {
  NormalTail t = normal_tail(a);
  return lower(t.lifted * fma(factor, splat(-0x1.988454p-2f), 1 / t.divisor));
}
GB_INLINE vdouble tail_less_density(vdouble a, vdouble factor) {
  vdouble density = exp_lifted(-0.5 * a * a) * 0.39894228040143267794;
  return times_tail(splat(1.0), a) - factor * density;
}

// ---- the tanh in GELU's approximation ------------------------------------------------------------

// A number in two parts: the rest is what the first has no bits for.
template <class A>
struct Parts {
  V<A> first, rest;
};
// The first half of the bits: the product of two such numbers is exact.
GB_INLINE vfloat brief(vfloat v) { return (vfloat)((vint32)v & ~0xfff); }
GB_INLINE vdouble brief(vdouble v) { return (vdouble)((vint64)v & ~0x7ffffffll); }
template <class A>
GB_INLINE Parts<A> constant(long double c) {
  return {splat((A)c), splat((A)(c - (A)c))};
}
template <class A>
GB_INLINE Parts<A> product(Parts<A> a, Parts<A> b) {
  V<A> x = brief(a.first), y = brief(b.first);
  V<A> crossed = x * (b.first - y) + (a.first - x) * b.first;
  return {x * y, crossed + (a.first * b.rest + a.rest * (b.first + b.rest))};
}

// ½ (1 + tanh(√(2/π) (a + kCubic a³))) = σ(w), where w = kLinear (a + kCubic a³).
constexpr long double kLinear = 1.59576912160573071175978423973752747L, kCubic = 0.044715L;

// How far a goes below. e^−w is 0 well before.
template <class A>
constexpr A kTanhEnd = 40;
template <>
constexpr float kTanhEnd<float> = 11.68f;  // e^−w is 0 even lifted

// e^−w, lifted. As the exponent's absolute error is e^x's relative one, w has two parts.
template <class A>
GB_INLINE V<A> exp_minus_tanh_argument(V<A> a) {
  Parts<A> whole = {a, V<A>{}}, square = product<A>(whole, whole);
  Parts<A> cubic = product<A>(square, constant<A>(kCubic));
  V<A> sum = 1 + cubic.first, most = sum - 1;
  Parts<A> bracket = {sum, (1 - (sum - most)) + (cubic.first - most) + cubic.rest};
  Parts<A> w = product<A>(product<A>(whole, constant<A>(kLinear)), bracket);
  return exp_lifted(-w.first, -w.rest);
}
// dw / da.
template <class A>
GB_INLINE V<A> tanh_argument_slope(V<A> a) {
  return fma(a * a, splat((A)(3 * kLinear * kCubic)), splat((A)kLinear));
}

}  // namespace
