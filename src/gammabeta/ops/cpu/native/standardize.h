// One stretch of memory that is normalized alone: its statistics, and x̂ from them.
#pragma once

#include "channel.h"
#include "planes.h"

namespace {

// What makes x̂ = (x − shift) · inverse + offset. `shift` is the mean rounded to A, and `offset` makes
// up for the rounding. Kept in the compute type, not in double: three numbers make x̂ in the backward
// pass exactly as in the forward pass, and short stretches are many.
template <class A>
struct Standard {
  A shift, inverse, offset;
  GB_INLINE V<A> operator()(V<A> x) const {
    return fma(x - splat(shift), splat(inverse), splat(offset));
  }
};

// Σ (x − shift) and Σ (x − shift)², in double beyond blocks of 4096.
template <class T>
GB_INLINE void stretch_sums(const T* x, int64_t length, C<T> shift, double* out) {
  using A = C<T>;
  out[0] = out[1] = 0;
  for (int64_t from = 0; from < length; from += Blocks::kSize) {
    int64_t more = length - from < Blocks::kSize ? length - from : Blocks::kSize;
    Sum<A> first, second;
    moments(x + from, more, 0, shift, first, second);
    out[0] += first.total();
    out[1] += second.total();
  }
}

// The mean of squares of what does not fit the compute type, or is not finite.
template <class T>
__attribute__((noinline)) Moments exact_squares(const T* x, int64_t length) {
  double total = 0;
  for (int64_t i = 0; i < length; i++) total += (double)to_number(x[i]) * (double)to_number(x[i]);
  return {(double)length, 0, total};
}

// Statistics about the mean if `centered`, else about zero: then `m2` is of squares.
template <class T>
__attribute__((noinline)) Standard<C<T>> standardize(const T* x, int64_t length, bool centered,
                                                     double eps) {
  using A = C<T>;
  double n = (double)length, sums[2];
  A shift = centered ? first_mean(x, length) : 0;
  stretch_sums(x, length, shift, sums);
  if (centered && !trustworthy(n, sums[0], sums[1])) {
    A mean = (A)(shift + sums[0] / n);
    shift = mean - mean == 0 ? mean : 0;
    stretch_sums(x, length, shift, sums);
  }
  Moments m = centered ? about(n, shift, sums[0], sums[1]) : Moments{n, 0, sums[1]};
  if (!(m.m2 - m.m2 == 0) || vanishing(n, m.m2, eps))
    m = centered ? exact_moments(length, [&](int64_t i) { return (double)to_number(x[i]); })
                 : exact_squares(x, length);
  double inverse = 1 / __builtin_sqrt(m.m2 / n + eps);
  A mean = (A)m.mean;
  return {mean, (A)inverse, (A)(((double)mean - m.mean) * inverse)};
}

// Parameters as the loops read them: in the compute type, and as they are where they already come
// so. `space` holds n numbers.
template <class A>
GB_INLINE const A* as_computed(const void* p, Type type, int64_t n, A otherwise, A* space) {
  if (p && type == (sizeof(A) == 8 ? kFloat64 : kFloat32)) return (const A*)p;
  if (!p)
    for (int64_t i = 0; i < n; i++) space[i] = otherwise;
  else
    for (int64_t i = 0; i < n; i++) space[i] = (A)number_at(p, type, i);
  return space;
}

}  // namespace
