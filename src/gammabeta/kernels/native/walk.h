// Walking along a stretch of memory a vector at a time, and what is done at each vector.
#pragma once

#include "activation.h"

namespace {

// A vector in full, or its first n lanes: loops are written once and called with either.
struct Full {};
struct First {
  int n;
};
template <class T>
GB_INLINE V<C<T>> load(const T* p, Full) {
  return load(p);
}
template <class T>
GB_INLINE V<C<T>> load(const T* p, First first) {
  return load(p, first.n);
}
template <class T>
GB_INLINE void store(T* p, V<C<T>> v, Full, bool streamed) {
  if (streamed)
    stream(p, v);
  else
    store(p, v);
}
template <class T>
GB_INLINE void store(T* p, V<C<T>> v, First first, bool) {
  store(p, v, first.n);
}
template <class Vector>
GB_INLINE Vector keep(Vector v, Full) {
  return v;
}
template <class Vector>
GB_INLINE Vector keep(Vector v, First first) {
  return keep_first(v, first.n);
}

// Which of four independent accumulators: sums need not wait for one another.
template <int k>
struct Nth {};

// Call f(element, slot, Full or First, Nth) for a stretch of `length` elements. The first `head` of
// them come alone, so that the rest is aligned; a slot is one call's place, for bit masks.
template <class A, class F>
GB_INLINE void walk(int64_t length, int head, int64_t slot, F&& f) {
  constexpr int W = kLanes<A>;
  int64_t i = 0;
  if (head > 0) {
    if (head > length) head = (int)length;
    f(i, slot++, First{head}, Nth<0>{});
    i = head;
  }
  for (; i + 4 * W <= length; i += 4 * W, slot += 4) {
    f(i, slot, Full{}, Nth<0>{});
    f(i + W, slot + 1, Full{}, Nth<1>{});
    f(i + 2 * W, slot + 2, Full{}, Nth<2>{});
    f(i + 3 * W, slot + 3, Full{}, Nth<3>{});
  }
  if (i + W <= length) f(i, slot++, Full{}, Nth<0>{}), i += W;
  if (i + W <= length) f(i, slot++, Full{}, Nth<1>{}), i += W;
  if (i + W <= length) f(i, slot++, Full{}, Nth<2>{}), i += W;
  if (i < length) f(i, slot, First{(int)(length - i)}, Nth<3>{});
}

// The same for what adds nothing up: fewer copies of f.
template <class A, class F>
GB_INLINE void walk_once(int64_t length, int head, int64_t slot, F&& f) {
  constexpr int W = kLanes<A>;
  int64_t i = 0;
  if (head > 0) {
    if (head > length) head = (int)length;
    f(i, slot++, First{head});
    i = head;
  }
  for (; i + W <= length; i += W) f(i, slot++, Full{});
  if (i < length) f(i, slot, First{(int)(length - i)});
}

// A sum that keeps what its roundings lost, after Kahan: adding it up costs thrice as much, and
// memory is waited for meanwhile.
template <class A>
struct Carried {
  V<A> sum = {}, lost = {};
  GB_INLINE void operator+=(V<A> v) {
    V<A> more = sum + v;
    lost += v - (more - sum);
    sum = more;
  }
  // Nothing is lost of an infinity, where the difference is none.
  GB_INLINE V<A> rest() const { return where<A>(lost - lost == 0, lost, V<A>{}); }
};
GB_INLINE double sum(const Carried<float>& s) { return sum(s.sum) + sum(s.rest()); }
GB_INLINE double sum(const Carried<double>& s) { return sum(s.sum) + sum(s.rest()); }
template <class A>
GB_INLINE void add_to(double* d, const Carried<A>& s) {
  add_to(d, s.sum);
  add_to(d, s.rest());
}

// How Σ g is summed: of float32 carefully, since no rounding of the gradient itself hides the sum's.
template <class T>
struct SumOfGradients {
  using type = V<C<T>>;
};
template <>
struct SumOfGradients<float> {
  using type = Carried<float>;
};

// Four accumulators of one sum.
template <class A, class Part = V<A>>
struct Sum {
  Part part[4] = {};
  template <int k>
  GB_INLINE void add(V<A> v, Nth<k>) {
    part[k] += v;
  }
  template <int k>
  GB_INLINE void add_product(V<A> a, V<A> b, Nth<k>) {
    part[k] = fma(a, b, part[k]);
  }
  GB_INLINE double total() const {
    if constexpr (sizeof(Part) == sizeof(V<A>)) return sum((part[0] + part[1]) + (part[2] + part[3]));
    else return (sum(part[0]) + sum(part[1])) + (sum(part[2]) + sum(part[3]));
  }
};

// ---- the layer, at one vector -------------------------------------------------------------------

// How much of the activation is known when this is compiled: the two that matter for speed are, the
// others are looked up at each vector, beside which their arithmetic is long.
enum Known : int { kKnownNone, kKnownReLU, kLookedUp };

// x̂·γ + β as (x − shift)·scale + offset. `shift` is the mean rounded to A, and `offset` makes up
// for the rounding: exact also where the mean is a million deviations.
template <class A>
struct Affine {
  V<A> shift, scale, offset;
  GB_INLINE V<A> operator()(V<A> x) const { return fma(x - shift, scale, offset); }
};

// How statistics that depend on x carry its gradient g on: kNowhere where they do not, whatever x
// is; kScaled as (g + (x − shift)·slope + level)·scale, where one scale is for all they are of, so
// that σ² never comes up, which σ = 1e20 would be too much for; else kAdded to g·scale.
enum Through : int { kNowhere, kScaled, kAdded };

template <class A>
GB_INLINE V<A> input_gradient(V<A> g, V<A> x, const Affine<A>& affine, V<A> slope, V<A> level,
                               Through through) {
  V<A> from_statistics = fma(x - affine.shift, slope, level);
  if (through == kScaled) return (g + from_statistics) * affine.scale;
  if (through == kAdded) return fma(g, affine.scale, from_statistics);
  return g * affine.scale;
}

// One bit an element: whether a ReLU let it through.
template <class A>
struct BitWord {
  using type = uint8_t;
};
#if defined(__AVX512F__)
template <>
struct BitWord<float> {
  using type = uint16_t;
};
#endif

// Not inlined: a call is short beside what it computes, and compiling dozens of copies is not.
template <class A>
__attribute__((noinline)) V<A> activate_called(V<A> z, int activation) {
  return activate<A>(z, activation);
}
template <class A>
__attribute__((noinline)) V<A> slope_called(V<A> z, int activation) {
  return slope<A>(z, activation);
}

// What follows the normalization: residual and activation, forward and backward.
template <class T, int known, bool residual>
struct Epilogue {
  using A = C<T>;
  using Word = typename BitWord<A>::type;
  static constexpr bool keeps_bits = known == kKnownReLU && residual;
  int activation;

  // The output; remembers in `bits` what backward cannot see from x alone.
  template <class Part>
  GB_INLINE V<A> forward(V<A> z, const T* r, Word* bits, Part part) const {
    if (residual) z += load(r, part);
    if (known == kKnownNone) return z;
    if (known == kLookedUp) return activate_called<A>(z, activation);
    M<A> off = z <= 0;  // false for NaN, which passes
    if (keeps_bits) *bits = (Word)~to_bits(off);
    return where<A>(off, V<A>{}, z);
  }

  // The gradient before the activation, from that after it.
  template <class Part>
  GB_INLINE V<A> backward(V<A> g, V<A> x, const Affine<A>& affine, const T* r, const Word* bits,
                          Part part) const {
    if (known == kKnownNone) return g;
    if (keeps_bits) return keep_bits(g, *bits);
    if (known == kLookedUp && activation == kNone) return g;
    V<A> z = affine(x);
    if (known == kKnownReLU || activation == kReLU) return where<A>(z <= 0, V<A>{}, g);
    if (residual) z += load(r, part);
    return g * slope_called<A>(z, activation);
  }
};

}  // namespace
