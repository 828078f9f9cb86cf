// What is computed once a channel: its statistics, and the numbers its elements are mapped with.
#pragma once

#include "rows.h"
#include "team.h"

namespace {

// ---- moments --------------------------------------------------------------------------------------

// Mean, and sum of squared deviations from it.
struct Moments {
  double n, mean, m2;
};

// From sums about a shift.
GB_INLINE Moments about(double n, double shift, double first, double second) {
  double d = first / n, m2 = second - first * d;
  return {n, shift + d, m2 < 0 ? 0 : m2};
}

// Whether sums about this shift were exact enough: not where the shift is more than half a deviation
// from the mean, so that the difference cancels; overflowed sums never are.
GB_INLINE bool trustworthy(double n, double first, double second) {
  double d = first / n;
  return 5 * d * d <= second / n && second - second == 0;
}
GB_INLINE vint64 untrustworthy(vdouble inverse_n, vdouble first, vdouble second) {
  vdouble d = first * inverse_n;
  return ~((5 * d * d <= second * inverse_n) & (second - second == 0));
}

// Whether squares may have underflowed where that matters.
GB_INLINE bool vanishing(double n, double m2, double eps) { return eps < 1e-15 && m2 < 1e-25 * n; }

// What f gives for each vector of p[0 .. n), summed.
template <class F>
GB_INLINE double sum_over(const double* p, int64_t n, F&& f) {
  Sum<double> sum;
  walk<double>(n, 0, 0, [&](int64_t i, int64_t, auto part, auto k) GB_FLAT {
    sum.add(keep(f(load(p + i, part), i, part), part), k);
  });
  return sum.total();
}

// The moments of what next(i) returns for i < n, in double and in two passes: for the channels whose
// squares do not fit the compute type, or that are not finite.
template <class F>
__attribute__((noinline)) Moments exact_moments(int64_t n, F&& next) {
  double total = 0, m2 = 0;
  for (int64_t i = 0; i < n; i++) total += next(i);
  double mean = total / (double)n;
  for (int64_t i = 0; i < n; i++) {
    double d = next(i) - mean;
    m2 += d * d;
  }
  return {(double)n, mean, m2};
}

// ---- parameters ---------------------------------------------------------------------------------

// Give each channel its slope below 0.
template <class A, class Norm>
GB_INLINE void set_slopes(A* below, const Norm& norm) {
  for (int64_t c = 0; c < norm.c; c++)
    below[c] = (A)(norm.slopes ? number_at(norm.slopes, norm.parameter_type, c) : norm.slope);
}

// The channels' numbers, each array padded to whole vectors.
template <class A>
struct Channels {
  int64_t c;  // padded
  Columns<A> column;
  double *gamma, *beta, *variance;
  double* sums;  // `pieces` pairs of arrays

  // Memory of a worker's own: `each` bytes.
  GB_INLINE Scratch of(const Worker& me) const { return {own + each * me.index}; }

  Channels(const BatchNorm& bn, int64_t pieces, size_t each = 0)
      : c(padded(bn.c)), each((each + 63) / 64 * 64) {
    Scratch scratch{nullptr};
    lay_out(bn, pieces, scratch);
    scratch = {bn.workspace(scratch.used)};
    lay_out(bn, pieces, scratch);
    get_numbers(gamma, bn.gamma, bn.parameter_type, bn.c, 1);
    get_numbers(beta, bn.beta, bn.parameter_type, bn.c, 0);
    set_slopes(column.below, bn);
  }

 private:
  size_t each;
  char* own;
  void lay_out(const BatchNorm& bn, int64_t pieces, Scratch& scratch) {
    column = {scratch.take<A>(c), scratch.take<A>(c), scratch.take<A>(c),
              scratch.take<A>(c), scratch.take<A>(c), scratch.take<A>(c), scratch.take<A>(c)};
    gamma = scratch.take<double>(c);
    beta = scratch.take<double>(c);
    variance = scratch.take<double>(c);
    own = scratch.take<char>((int64_t)each * bn.threads);
    sums = scratch.take<double>(2 * c * pieces);
  }
};

// What x̂ is taken about: the mean, but zero where that is near, since x − 0 needs no rounding.
template <class A>
GB_INLINE A center(double mean, double inverse) {
  return mean * inverse <= 1 && mean * inverse >= -1 ? 0 : (A)mean;
}

// Fill in what maps channels c0 to c1, from their statistics.
template <class A>
GB_INLINE void set_affine(const BatchNorm& bn, const Channels<A>& at, int64_t c0, int64_t c1) {
  const double *mean = bn.stats, *inverse = bn.stats + bn.c;
  const Columns<A>& column = at.column;
#pragma GCC ivdep
  for (int64_t i = c0; i < c1; i++) {
    double scale = at.gamma[i] * inverse[i];
    A shift = center<A>(mean[i], inverse[i]);
    column.shift[i] = shift;
    column.scale[i] = (A)scale;
    column.offset[i] = (A)(at.beta[i] - (mean[i] - (double)shift) * scale);
    column.inverse[i] = (A)inverse[i];
  }
}

// Statistics of channels c0 to c1 from their means, in place, and variances.
GB_INLINE void set_inverse(const BatchNorm& bn, const double* variance, double eps, int64_t c0,
                           int64_t c1) {
#pragma GCC ivdep
  for (int64_t i = c0; i < c1; i++)
    bn.stats[bn.c + i] = 1 / __builtin_sqrt(variance[i] + eps);
}

// The population's statistics instead of a batch's. Without them bn.stats is given: what an earlier
// call measured, to make its output again, bit by bit.
template <class A>
GB_INLINE void use_running(const BatchNormForward& bn, const Channels<A>& at, int64_t c0,
                           int64_t c1) {
  if (!bn.running_mean) return;
  for (int64_t i = c0; i < c1; i++) {
    bn.stats[i] = number_at(bn.running_mean, bn.running_type, i);
    at.variance[i] = number_at(bn.running_var, bn.running_type, i);
  }
  set_inverse(bn, at.variance, bn.eps, c0, c1);
}

// For the backward pass, in place of Σ g and Σ g·(x − shift)/σ: the gradients of β and γ. Fills in
// how the gradients of channels c0 to c1 depend on x.
template <class A>
GB_INLINE void set_gradient(const BatchNormBackward& bn, const Channels<A>& at, double* first,
                            double* second, int64_t c0, int64_t c1) {
  const double *mean = bn.stats, *inverse = bn.stats + bn.c;
  const Columns<A>& column = at.column;
  double per_n = bn.training ? 1 / (double)(bn.n * bn.s) : 0;
#pragma GCC ivdep
  for (int64_t i = c0; i < c1; i++) {
    double low = mean[i] - (double)column.shift[i];
    double ggamma = second[i] * (inverse[i] / (double)(A)inverse[i]) - low * inverse[i] * first[i];
    // Without the factor γ/σ, which would put σ² into the slope: σ = 1e20 would be too much for it.
    double slope = -inverse[i] * (ggamma * per_n);
    column.slope[i] = (A)slope;
    column.level[i] = (A)(-first[i] * per_n - low * slope);
    second[i] = ggamma;
  }
}

// Move the running statistics towards the batch's, unless what came of it were not finite.
inline void update_running(BatchNormForward& bn, double* variance, double* new_mean) {
  double n = (double)(bn.n * bn.s), unbiased = n / (n - 1), f = bn.momentum;
  if (f != f) f = bn.batches ? 1 / ((double)*bn.batches + 1) : 0;
  if (bn.running_mean) {
    double zero = 0;  // stays so unless something is not finite: 0 · inf and 0 · NaN are NaN
    for (int64_t i = 0; i < bn.c; i++) {
      new_mean[i] = (1 - f) * number_at(bn.running_mean, bn.running_type, i) + f * bn.stats[i];
      variance[i] = (1 - f) * number_at(bn.running_var, bn.running_type, i) +
                    f * (variance[i] * unbiased);
      zero += 0 * rounded(new_mean[i], bn.running_type) + 0 * rounded(variance[i], bn.running_type);
    }
    bn.refused = bn.guarded && zero != 0;
    if (bn.refused) return;
    set_numbers(bn.running_mean, bn.running_type, new_mean, bn.c);
    set_numbers(bn.running_var, bn.running_type, variance, bn.c);
  }
  if (bn.batches) ++*bn.batches;
}

}  // namespace
