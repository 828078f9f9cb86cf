// Batch normalization of short planes: (N, C, S) with S of a few vectors, taken as N rows of C·S
// columns. Vectors then run on from one channel into the next and none is cut short; a channel is
// what S columns are together.
#pragma once

#include "batch_norm_planes.h"
#include "batch_norm_rows.h"

namespace {

// Channels in blocks that begin on a vector: small enough for a block's rows to stay in cache.
struct Folds {
  int64_t c, s, channels, width, count;
  explicit Folds(const BatchNorm& bn) : c(bn.c), s(bn.s), channels(1) {
    while (channels * s % 16) channels *= 2;
    int64_t wide = 32768 / bn.n < 256 ? 256 : 32768 / bn.n;
    while (wide > 256 && c * s < 8 * wide) wide /= 2;
    for (int64_t whole = channels; (channels + whole) * s <= wide && channels < c;) channels += whole;
    width = padded(channels * s);
    count = (c + channels - 1) / channels;
  }
  GB_INLINE int64_t first(int64_t b) const { return b * channels; }
  GB_INLINE int64_t last(int64_t b) const {
    return (b + 1) * channels < c ? (b + 1) * channels : c;
  }
};

// Not by the number of threads, so that no result depends on it.
GB_INLINE bool folds(const BatchNorm& bn) {
  return bn.s < kAligned && bn.n >= 4 && Folds(bn).count >= 4;
}

// A worker's numbers, one a column, for the block it is at.
template <class A>
struct Fold {
  Columns<A> column;
  double* sums;  // two arrays of `width`
  int64_t s, width;

  static size_t size(const Folds& folds) {
    Scratch scratch{nullptr};
    Fold(folds, scratch);
    return scratch.used;
  }
  Fold(const Folds& folds, Scratch& scratch) : s(folds.s), width(folds.width) {
    int64_t w = width;
    column = {scratch.take<A>(w), scratch.take<A>(w), scratch.take<A>(w),
              scratch.take<A>(w), scratch.take<A>(w), scratch.take<A>(w), scratch.take<A>(w)};
    sums = scratch.take<double>(2 * w);
  }

  // Give every column the number of its channel, for channels c0 to c1.
  GB_INLINE void spread(const A* channel, A* to, int64_t c0, int64_t c1) const {
    for (int64_t c = c0; c < c1; c++)
      for (int64_t j = 0; j < s; j++) to[(c - c0) * s + j] = channel[c];
  }
  // Give channels c0 to c1 the sums of their columns' two sums.
  GB_INLINE void gather(double* first, double* second, int64_t c0, int64_t c1) const {
    auto same = [](vdouble v, int64_t, auto) GB_FLAT { return v; };
    for (int64_t c = c0; c < c1; c++) {
      first[c] = sum_over(sums + (c - c0) * s, s, same);
      second[c] = sum_over(sums + width + (c - c0) * s, s, same);
    }
  }
};

template <class T, int known, bool residual>
void forward_folded(BatchNormForward& bn) {
  using A = C<T>;
  using Word = typename BitWord<A>::type;
  Folds folds(bn);
  Channels<A> at(bn, 0, Fold<A>::size(folds));
  Epilogue<T, known, residual> epilogue(bn);
  const T *x = (const T*)bn.x, *r = residual ? (const T*)bn.residual : x;
  T* y = (T*)bn.y;
  Word* bits = (Word*)bn.bits;
  int64_t row = bn.c * bn.s, slots = (row + kLanes<A> - 1) / kLanes<A>, w = folds.width;

  // Sums about one guess a channel, and again about its mean where the guess was bad.
  auto measure = [&](const Fold<A>& fold, int64_t c0, int64_t c1) {
    double n = (double)(bn.n * bn.s), *first = bn.stats, *second = at.variance;
    A* shift = at.column.shift;
    auto sum_up = [&]() {
      fold.spread(shift, fold.column.shift, c0, c1);
      moments(x + c0 * bn.s, row, 0, bn.n, 0, (c1 - c0) * bn.s, fold.column.shift, fold.sums, w);
      fold.gather(first, second, c0, c1);
    };
    for (int64_t c = c0; c < c1; c++) shift[c] = first_mean(x + c * bn.s, bn.s);
    sum_up();
    bool again = false;
    for (int64_t c = c0; c < c1; c++) {
      if (trustworthy(n, first[c], second[c])) continue;
      A mean = (A)(shift[c] + first[c] / n);
      shift[c] = mean - mean == 0 ? mean : 0;
      again = true;
    }
    if (again) sum_up();
    for (int64_t c = c0; c < c1; c++) {
      Moments m = about(n, shift[c], first[c], second[c]);
      if (!(m.m2 - m.m2 == 0) || vanishing(n, m.m2, bn.eps))
        m = exact_moments(bn.n * bn.s, [&](int64_t i) {
          return (double)to_number(x[(i / bn.s * bn.c + c) * bn.s + i % bn.s]);
        });
      bn.stats[c] = m.mean;
      at.variance[c] = m.m2 / n;
    }
    set_inverse(bn, at.variance, bn.eps, c0, c1);
  };

  as_team(bn.threads, [&](Worker me) {
    Scratch own = at.of(me);
    Fold<A> fold(folds, own);
    for (int64_t b = me.from(folds.count); b < me.to(folds.count); b++) {
      int64_t c0 = folds.first(b), c1 = folds.last(b), o = c0 * bn.s;
      bn.training ? measure(fold, c0, c1) : use_running(bn, at, c0, c1);
      set_affine(bn, at, c0, c1);
      fold.spread(at.column.shift, fold.column.shift, c0, c1);
      fold.spread(at.column.scale, fold.column.scale, c0, c1);
      fold.spread(at.column.offset, fold.column.offset, c0, c1);
      if (known == kLookedUp) fold.spread(at.column.below, fold.column.below, c0, c1);
      apply_rows(epilogue, fold.column, x + o, r + o, y + o, bits + o / kLanes<A>, row, slots, 0,
                 bn.n, 0, (c1 - c0) * bn.s, bn.streamed && row % 32 == 0, NextBlock{w});
    }
    if (bn.streamed) end_stream();
  });
  if (bn.training) update_running(bn, at.variance, at.gamma);
}

template <class T, int known, bool residual>
void backward_folded(BatchNormBackward& bn) {
  using A = C<T>;
  using Word = typename BitWord<A>::type;
  Folds folds(bn);
  Channels<A> at(bn, 0, Fold<A>::size(folds));
  Epilogue<T, known, residual> epilogue(bn);
  const T *g = (const T*)bn.g, *x = (const T*)bn.x;
  const T* r = bn.residual ? (const T*)bn.residual : x;
  T *gx = (T*)bn.gx, *gr = (T*)bn.gresidual;
  const Word* bits = (const Word*)bn.bits;
  int64_t row = bn.c * bn.s, slots = (row + kLanes<A> - 1) / kLanes<A>, w = folds.width;
  // β's and γ's gradients overwrite their values, which are read no more by then.
  double *gbeta = at.beta, *ggamma = at.variance;

  Through through = bn.training ? kScaled : kNowhere;
  as_team(bn.threads, [&](Worker me) {
    Scratch own = at.of(me);
    Fold<A> fold(folds, own);
    for (int64_t b = me.from(folds.count); b < me.to(folds.count); b++) {
      int64_t c0 = folds.first(b), c1 = folds.last(b), o = c0 * bn.s, width = (c1 - c0) * bn.s;
      const Word* words = bits + o / kLanes<A>;
      set_affine(bn, at, c0, c1);
      fold.spread(at.column.shift, fold.column.shift, c0, c1);
      fold.spread(at.column.scale, fold.column.scale, c0, c1);
      fold.spread(at.column.offset, fold.column.offset, c0, c1);
      if (known == kLookedUp) fold.spread(at.column.below, fold.column.below, c0, c1);
      fold.spread(at.column.inverse, fold.column.inverse, c0, c1);
      gradient_sums_of_rows(epilogue, fold.column, g + o, x + o, r + o, words, row, slots, 0, bn.n,
                            0, width, fold.sums, w);
      fold.gather(gbeta, ggamma, c0, c1);
      set_gradient(bn, at, gbeta, ggamma, c0, c1);
      if (!gx) continue;
      fold.spread(at.column.slope, fold.column.slope, c0, c1);
      fold.spread(at.column.level, fold.column.level, c0, c1);
      gradient_rows(epilogue, fold.column, g + o, x + o, r + o, words, gx + o, gr ? gr + o : gr,
                    row, slots, 0, bn.n, 0, width, through, bn.streamed && row % 32 == 0, NextBlock{w});
    }
    if (bn.streamed) end_stream();
  });
  set_numbers(bn.gbeta, bn.parameter_type, gbeta, bn.c);
  set_numbers(bn.ggamma, bn.parameter_type, ggamma, bn.c);
}

}  // namespace
