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

// Two sums, lane by lane.
template <class A>
struct Two {
  static constexpr int registers = 2;
  V<A> first = {}, second = {};
};
template <class A>
GB_INLINE void add_to(double* first, double* second, const Two<A>& sums) {
  add_to(first, sums.first);
  add_to(second, sums.second);
}

// Σ g and Σ g·(x − shift)/σ, lane by lane. `g` has zeros where a vector is cut short; x too.
template <class T>
struct GradientSums {
  static constexpr int registers = 2;
  V<C<T>> first = {}, second = {};
  template <class Part>
  GB_INLINE void add(V<C<T>> g, V<C<T>> x, const T*, Part, V<C<T>> shift, V<C<T>> inverse) {
    first += g;
    second = fma(g, (x - shift) * inverse, second);
  }
  GB_INLINE void add_to(double* g, double* gx, V<C<T>>, V<C<T>>) const {
    ::add_to(g, first);
    ::add_to(gx, second);
  }
  GB_INLINE void operator+=(const GradientSums& more) {
    first += more.first;
    second += more.second;
  }
  GB_INLINE void totals(C<T>, C<T>, double* out) const {
    out[0] = sum(first);
    out[1] = sum(second);
  }
};

// Of float32 in double, where products of two float32 are exact: no rounding of the gradient itself
// hides the sum's. Σ g·x, and the shift once at the end; what that cancels, double has to spare.
template <>
struct GradientSums<float> {
  static constexpr int registers = 4;
  vdouble first[2] = {}, second[2] = {};
  GB_INLINE void add(vfloat g, vfloat, const float* x, Full, vfloat, vfloat) {
    constexpr int L = kLanes<double>;
    vdouble a = low(g), b = high(g);
    first[0] += a;
    first[1] += b;
    second[0] = fma(a, load_double(x), second[0]);
    second[1] = fma(b, load_double(x + L), second[1]);
  }
  GB_INLINE void add(vfloat g, vfloat x, const float*, First, vfloat, vfloat) {
    vdouble a = low(g), b = high(g);
    first[0] += a;
    first[1] += b;
    second[0] = fma(a, low(x), second[0]);
    second[1] = fma(b, high(x), second[1]);
  }
  GB_INLINE void add_to(double* g, double* gx, vfloat shift, vfloat inverse) const {
    constexpr int L = kLanes<double>;
    ::add_to(g, first[0]);
    ::add_to(g + L, first[1]);
    ::add_to(gx, (second[0] - low(shift) * first[0]) * low(inverse));
    ::add_to(gx + L, (second[1] - high(shift) * first[1]) * high(inverse));
  }
  GB_INLINE void operator+=(const GradientSums& more) {
    for (int k = 0; k < 2; k++) first[k] += more.first[k], second[k] += more.second[k];
  }
  GB_INLINE void totals(float shift, float inverse, double* out) const {
    out[0] = sum(first[0] + first[1]);
    out[1] = (sum(second[0] + second[1]) - (double)shift * out[0]) * (double)inverse;
  }
};

// Four accumulators of one sum.
template <class A>
struct Sum {
  V<A> part[4] = {};
  template <int k>
  GB_INLINE void add(V<A> v, Nth<k>) {
    part[k] += v;
  }
  template <int k>
  GB_INLINE void add_product(V<A> a, V<A> b, Nth<k>) {
    part[k] = fma(a, b, part[k]);
  }
  GB_INLINE double total() const { return sum((part[0] + part[1]) + (part[2] + part[3])); }
};

// Four of a gradient's sums, about one shift.
template <class T>
struct GradientSum {
  GradientSums<T> part[4];
  template <int k>
  GB_INLINE GradientSums<T>& at(Nth<k>) {
    return part[k];
  }
  GB_INLINE void totals(C<T> shift, C<T> inverse, double* out) {
    part[0] += part[1];
    part[2] += part[3];
    part[0] += part[2];
    part[0].totals(shift, inverse, out);
  }
};

// ---- the layer, at one vector -------------------------------------------------------------------

// How much of the activation is known when this is compiled: the ones that matter for speed are, the
// others are looked up at each vector, beside which their arithmetic is long. ReLU and ReLU6 are one
// case, which differs in a number.
enum Known : int { kKnownNone, kKnownReLU, kLookedUp };

// x̂·γ + β as (x − shift)·scale + offset. `shift` is near the mean, and `offset` makes up for the
// rest: exact also where the mean is a million deviations.
template <class A>
struct Affine {
  V<A> shift, scale, offset;
  GB_INLINE V<A> operator()(V<A> x) const { return fma(x - shift, scale, offset); }
};

// How statistics that depend on x carry its gradient g on: kNowhere where they do not, whatever x
// is; kScaled as g·scale + ((x − shift)·slope + level)·scale, where one scale is for all they are
// of, so that σ² never comes up, which σ = 1e20 would be too much for; else kAdded to g·scale.
enum Through : int { kNowhere, kScaled, kAdded };

template <class A>
GB_INLINE V<A> input_gradient(V<A> g, V<A> x, const Affine<A>& affine, V<A> slope, V<A> level,
                               Through through) {
  V<A> from_statistics = fma(x - affine.shift, slope, level);
  if (through == kScaled) return fma(g, affine.scale, from_statistics * affine.scale);
  if (through == kAdded) return fma(g, affine.scale, from_statistics);
  return g * affine.scale;
}

// One bit an element: whether a ReLU or ReLU6 let it through.
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
__attribute__((noinline)) V<A> activate_called(V<A> z, int activation, V<A> slope) {
  return activate<A>(z, activation, slope);
}
template <class A>
__attribute__((noinline)) V<A> gradient_called(V<A> g, V<A> z, int activation, V<A> slope) {
  return activation_gradient<A>(g, z, activation, slope);
}

// What follows the normalization: residual and activation, forward and backward.
template <class T, int known, bool residual>
struct Epilogue {
  using A = C<T>;
  using Word = typename BitWord<A>::type;
  static constexpr bool keeps_bits = known == kKnownReLU && residual;
  int activation;
  V<A> slope;  // of LeakyReLU and PReLU below 0
  A last;      // the largest z that a ReLU lets through

  template <class Norm>
  explicit Epilogue(const Norm& norm)
      : activation(norm.activation),
        slope(splat((A)norm.slope)),
        last(norm.activation == kReLU6 ? kBelowSix<A> : (A)__builtin_inf()) {}

  // The same with the slopes that a channel, or each of the lanes, has.
  GB_INLINE Epilogue of_channel(A its) const { return with(splat(its)); }
  GB_INLINE Epilogue of_columns(const A* slopes) const {
    return known == kLookedUp ? with(load(slopes)) : *this;
  }

  // The output; remembers in `bits` what backward cannot see from x alone.
  template <class Part>
  GB_INLINE V<A> forward(V<A> z, const T* r, Word* bits, Part part) const {
    if (residual) z += load(r, part);
    if (known == kKnownNone) return z;
    if (known == kLookedUp) return activate_called<A>(z, activation, slope);
    M<A> off = z <= 0, over = z > last;  // both false for NaN, which passes
    if (keeps_bits) *bits = (Word)~to_bits(off | over);
    return where<A>(off, V<A>{}, where<A>(over, splat<A>(6), z));
  }

  // The gradient before the activation, from that after it.
  template <class Part>
  GB_INLINE V<A> backward(V<A> g, V<A> x, const Affine<A>& affine, const T* r, const Word* bits,
                          Part part) const {
    if (known == kKnownNone) return g;
    if (keeps_bits) return keep_bits(g, *bits);
    if (known == kLookedUp && activation == kNone) return g;
    V<A> z = affine(x);
    if (known == kKnownReLU) return where<A>((z <= 0) | (z > last), V<A>{}, g);
    if (residual) z += load(r, part);
    return gradient_called<A>(g, z, activation, slope);
  }

 private:
  GB_INLINE Epilogue with(V<A> slopes) const {
    Epilogue other = *this;
    other.slope = slopes;
    return other;
  }
};

}  // namespace
