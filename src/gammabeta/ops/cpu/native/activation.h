// The activations, as functions of a vector: value and derivative.
//
// At ±∞ and NaN they answer as torch does. At one place torch does not agree with itself: GELU(∞)
// is ∞ in float64, and NaN where oneDNN computes it. Here it is ∞.
#pragma once

#include "elementary.h"

namespace {

// As in gammabeta/ops/activations.py, in its order.
enum Activation : int { kNone, kReLU, kLeakyReLU, kSiLU, kGELU, kSigmoid, kTanh };

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

template <class A>
GB_INLINE V<A> activate(V<A> z, int activation) {
  switch (activation) {
    case kReLU: return where<A>(z < 0, V<A>{}, z);
    case kLeakyReLU: return where<A>(z > 0, z, z * (A)0.01);
    case kSiLU: return times_sigmoid<A>(z, z);
    case kGELU: return gelu<A>(z);
    case kSigmoid: return times_sigmoid<A>(splat<A>(1), z);
    case kTanh: return tanh(z);
    default: return z;
  }
}

// d activate(z) / dz. Of ReLU's at NaN torch makes 1, of LeakyReLU's 0.01.
template <class A>
GB_INLINE V<A> slope(V<A> z, int activation) {
  switch (activation) {
    case kReLU: return where<A>(z <= 0, V<A>{}, splat<A>(1));
    case kLeakyReLU: return where<A>(z > 0, splat<A>(1), splat((A)0.01));
    case kSiLU: return silu_slope<A>(z);
    case kGELU: return gelu_slope<A>(z);
    case kSigmoid: return sigmoid_slope<A>(z);
    case kTanh: return 4 * sigmoid_slope<A>(2 * z);
    default: return splat<A>(1);
  }
}

}  // namespace
