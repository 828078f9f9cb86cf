// The activations, as functions of a vector: value and derivative.
//
// At ±∞ and NaN they answer as torch does. Where torch does not agree with itself: GELU(∞) is ∞ in
// float64, and NaN where oneDNN computes it; here it is ∞. The slopes of ReLU6 and Hardswish at NaN
// are 1 to torch's scalars, 0 and NaN to its vectors; here they are 1 and NaN.
//
// In float, Hardswish, Hardsigmoid, Mish and GELU's approximation by tanh are at most 3 ulp off the
// true value, however far out, and their slopes 2 · 2⁻²⁴.
#pragma once

#include "elementary.h"

namespace {

// As in gammabeta/ops/activations.py, in its order.
enum Activation : int {
  kNone,
  kReLU,
  kLeakyReLU,
  kSiLU,
  kGELU,
  kSigmoid,
  kTanh,
  kReLU6,
  kHardswish,
  kHardsigmoid,
  kMish,
  kGELUTanh,
  kNegativePart  // of z, times g, in place of the gradient: Σ of it is that of a PReLU's slope
};

// σ(−|z|) = e / (1 + e), where e = e^(−|z|) cannot overflow.
template <class A>
GB_INLINE V<A> smaller_sigmoid(V<A> lifted) {
  V<A> e = lower(lifted);
  return e / (1 + e);
}
// factor · σ(z), and σ(z) is 1 − σ(−|z|), times e where z < 0. Taken from 1, the error of σ(−|z|),
// most of it from rounding 1 + e, counts less than in a plain quotient.
template <class A>
GB_INLINE V<A> times_sigmoid(V<A> factor, V<A> z) {
  V<A> lifted = exp_lifted(minus_magnitude(z)), one = where<A>(z < 0, lifted, splat<A>(1));
  V<A> product = factor * fma(-one, smaller_sigmoid<A>(lifted), one);
  return where<A>(z < 0, lower(product), product);
}

// z Φ(z), which is z − z Φ(−z) where z > 0. The factor ends only towards ∞: −∞ · Φ(−∞) is NaN.
template <class A>
GB_INLINE V<A> gelu(V<A> z) {
  V<A> factor = at_most(kTailEnd<A>, z), a = at_most(kTailEnd<A>, -minus_magnitude(z));
  V<A> part = times_tail(factor, a);
  return where<A>(z > 0, z - part, part);
}

// The slopes of f(z) = z σ(z) and z Φ(z). Both have f(z) − f(−z) = z, so f′(z) = 1 − f′(−z): the
// one at −|z|, where it is small, makes both.
template <class A>
GB_INLINE V<A> slope_from(V<A> z, V<A> at_minus_magnitude) {
  return where<A>(z > 0, 1 - at_minus_magnitude, at_minus_magnitude);
}
template <class A>
GB_INLINE V<A> silu_slope(V<A> z) {
  V<A> minus = minus_magnitude(z), lifted = exp_lifted(minus);
  V<A> r = 1 / (1 + lower(lifted));
  return slope_from<A>(z, lower(lifted * (r * fma(minus, r, splat<A>(1)))));
}
template <class A>
GB_INLINE V<A> gelu_slope(V<A> z) {
  V<A> magnitude = -minus_magnitude(z);
  return slope_from<A>(z, tail_less_density(at_most(kTailEnd<A>, magnitude), magnitude));
}

// σ(z) σ(−z), also a quarter of tanh's slope at z / 2.
template <class A>
GB_INLINE V<A> sigmoid_slope(V<A> z) {
  V<A> s = smaller_sigmoid<A>(exp_lifted(minus_magnitude(z)));
  return fma(-s, s, s);
}

// GELU's approximation by tanh is z σ(w), which is z − z σ(−w) where z > 0; w is odd in z.
template <class A>
GB_INLINE V<A> gelu_tanh(V<A> z) {
  V<A> factor = at_most(kTanhEnd<A>, z), a = at_most(kTanhEnd<A>, -minus_magnitude(z));
  V<A> lifted = exp_minus_tanh_argument<A>(a);
  V<A> part = lower(lifted * (factor / (1 + lower(lifted))));
  return where<A>(z > 0, z - part, part);
}
// At −|z| it is σ(−w) − |z| w′ σ(w) σ(−w).
template <class A>
GB_INLINE V<A> gelu_tanh_slope(V<A> z) {
  V<A> magnitude = -minus_magnitude(z), a = at_most(kTanhEnd<A>, magnitude);
  V<A> lifted = exp_minus_tanh_argument<A>(a), r = 1 / (1 + lower(lifted));
  V<A> rise = a * tanh_argument_slope<A>(a) + (magnitude - magnitude);  // NaN at ±∞
  return slope_from<A>(z, lower(lifted * (r * fma(-rise, r, splat<A>(1)))));
}

// Mish is z tanh(log(1 + e^z)). With e = e^(−|z|) it is z e (2 + e) / (2 + 2e + e²) where z ≤ 0, and
// else z (1 − 2e² / (1 + 2e + 2e²)): nothing cancels and nothing overflows. In what follows, the
// divisor is the one or the other.
template <class A>
GB_INLINE V<A> mish_divisor(V<A> z, V<A> e) {
  V<A> one = splat<A>(1), two = splat<A>(2);
  return fma(where<A>(z > 0, two, one) * e + 2, e, where<A>(z > 0, one, two));
}
template <class A>
GB_INLINE V<A> mish(V<A> z) {
  V<A> lifted = exp_lifted(minus_magnitude(z)), e = lower(lifted), divisor = mish_divisor<A>(z, e);
  return where<A>(z > 0, z * (1 - 2 * e * e / divisor), lower(lifted * (z * ((2 + e) / divisor))));
}
// tanh(s) + z σ(z) (1 − tanh(s)²), where s is log(1 + e^z).
template <class A>
GB_INLINE V<A> mish_slope(V<A> z) {
  V<A> lifted = exp_lifted(minus_magnitude(z)), e = lower(lifted);
  V<A> r = 1 / mish_divisor<A>(z, e), bend = 4 * (1 + e) * r * r;
  V<A> below = lower(lifted * fma(z, bend, (2 + e) * r)), square = e * e;
  return where<A>(z > 0, fma(z, square * bend, 1 - 2 * square * r), below);
}

// Six times Hardsigmoid.
template <class A>
GB_INLINE V<A> six_hardsigmoid(V<A> z) {
  return at_most((A)6, at_least((A)0, z + 3));
}

// The largest number below 6.
template <class A>
constexpr A kBelowSix = (A)0x1.7ffffffffffffp+2;
template <>
constexpr float kBelowSix<float> = 0x1.7ffffep+2f;

// `slope` is that of LeakyReLU and PReLU below 0.
template <class A>
GB_INLINE V<A> activate(V<A> z, int activation, V<A> slope) {
  constexpr A kSixth = (A)1 / 6;
  switch (activation) {
    case kReLU: return where<A>(z < 0, V<A>{}, z);
    case kLeakyReLU: return where<A>(z > 0, z, z * slope);
    case kSiLU: return times_sigmoid<A>(z, z);
    case kGELU: return gelu<A>(z);
    case kSigmoid: return times_sigmoid<A>(splat<A>(1), z);
    case kTanh: return tanh(z);
    case kReLU6: return at_most((A)6, at_least((A)0, z));
    case kHardswish: return z * (six_hardsigmoid<A>(z) * kSixth);
    case kHardsigmoid: return six_hardsigmoid<A>(z) * kSixth;
    case kMish: return mish<A>(z);
    case kGELUTanh: return gelu_tanh<A>(z);
    default: return z;
  }
}

// g · d activate(z) / dz, which is 0 where the slope is flat, whatever g. At NaN torch makes the
// slopes of ReLU and ReLU6 1, of LeakyReLU the one below 0, of Hardsigmoid 0.
template <class A>
GB_INLINE V<A> activation_gradient(V<A> g, V<A> z, int activation, V<A> slope) {
  constexpr A kSixth = (A)1 / 6;
  switch (activation) {
    case kReLU: return where<A>(z <= 0, V<A>{}, g);
    case kLeakyReLU: return where<A>(z > 0, g, g * slope);
    case kSiLU: return g * silu_slope<A>(z);
    case kGELU: return g * gelu_slope<A>(z);
    case kSigmoid: return g * sigmoid_slope<A>(z);
    case kTanh: return g * (4 * sigmoid_slope<A>(2 * z));
    case kReLU6: return where<A>((z <= 0) | (z >= 6), V<A>{}, g);
    case kHardswish: {
      V<A> bent = where<A>(z >= 3, g, g * fma(z, splat<A>(2 * kSixth), splat<A>((A)0.5)));
      return where<A>(z <= -3, V<A>{}, bent);
    }
    case kHardsigmoid: return where<A>((z > -3) & (z < 3), g * kSixth, V<A>{});
    case kMish: return g * mish_slope<A>(z);
    case kGELUTanh: return g * gelu_tanh_slope<A>(z);
    case kNegativePart: return where<A>(z > 0, V<A>{}, g * z);
    default: return g;
  }
}

}  // namespace
