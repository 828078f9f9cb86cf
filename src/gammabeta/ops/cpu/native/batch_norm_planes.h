// Batch normalization of planes.
#pragma once

#include "channel.h"
#include "planes.h"

namespace {

// Whether there are too few channels to give each thread as many: then they share each.
GB_INLINE bool shares_channels(const BatchNorm& bn) {
  return bn.threads > 1 && bn.c < 8 * bn.threads && bn.c % bn.threads;
}

// Where a channel's stretches are.
struct Planes {
  Blocks blocks;
  int64_t c, s;
  explicit Planes(const BatchNorm& bn) : blocks(bn.n, bn.s), c(bn.c), s(bn.s) {}
  GB_INLINE int64_t start(int64_t i, int64_t channel) const { return (i * c + channel) * s; }

  // Call f(element, stretch, length, head, slot) for what block b of the channel is made of.
  template <class A, class F>
  GB_INLINE void stretches(int64_t channel, int64_t b, F&& f) const {
    blocks.stretches<A>(
        b, [&](int64_t i) GB_FLAT { return start(i, channel); },
        [&](int64_t i, int64_t from, int64_t length, int head, int64_t slot) GB_FLAT {
              f(start(i, channel) + from, i * c + channel, length, head, slot);
            });
  }
};

template <class T, int known, bool residual>
void forward_planes(BatchNormForward& bn) {
  using A = C<T>;
  using Word = typename BitWord<A>::type;
  Planes planes(bn);
  int64_t count = planes.blocks.count, slots = slots_of_stretch<A>(bn.s);
  Channels<A> at(bn, count);
  Epilogue<T, known, residual> epilogue(bn);
  const T *x = (const T*)bn.x, *r = residual ? (const T*)bn.residual : x;
  T* y = (T*)bn.y;
  Word* bits = (Word*)bn.bits;
  double n = (double)(bn.n * bn.s);
  bool streamed = bn.streamed && bn.s >= kAligned;

  auto guess = [&](int64_t c) { return first_mean(x + planes.start(0, c), bn.s); };
  auto measure = [&](int64_t c, int64_t b, A shift, double* out) {
    Sum<A> first, second;
    planes.stretches<A>(c, b, [&](int64_t o, int64_t, int64_t length, int head, int64_t) GB_FLAT {
      moments(x + o, length, head, shift, first, second);
    });
    out[0] = first.total();
    out[1] = second.total();
  };
  auto measure_all = [&](int64_t c, A shift, double* out) {
    out[0] = out[1] = 0;
    for (int64_t b = 0; b < count; b++) {
      double sums[2];
      measure(c, b, shift, sums);
      out[0] += sums[0];
      out[1] += sums[1];
    }
  };
  auto settle = [&](int64_t c, A shift, double* sums) {
    if (!trustworthy(n, sums[0], sums[1])) {
      A mean = (A)(shift + sums[0] / n);
      shift = mean - mean == 0 ? mean : 0;
      measure_all(c, shift, sums);
    }
    Moments m = about(n, shift, sums[0], sums[1]);
    if (!(m.m2 - m.m2 == 0) || vanishing(n, m.m2, bn.eps))
      m = exact_moments(bn.n * bn.s, [&](int64_t i) {
        return (double)to_number(x[planes.start(i / bn.s, c) + i % bn.s]);
      });
    bn.stats[c] = m.mean;
    at.variance[c] = m.m2 / n;
    set_inverse(bn, at.variance, bn.eps, c, c + 1);
  };
  auto apply_block = [&](int64_t c, int64_t b) {
    Affine<A> affine = at.column.one(c);
    auto its = epilogue.of_channel(at.column.below[c]);
    planes.stretches<A>(c, b, [&](int64_t o, int64_t i, int64_t length, int head, int64_t slot) GB_FLAT {
      apply(its, affine, x + o, r + o, y + o, bits + i * slots, length, head, slot,
            streamed, bn.s);
    });
  };

  as_team(bn.threads, [&](Worker me) {
    if (!bn.training) use_running(bn, at, me.from(bn.c), me.to(bn.c));
    if (shares_channels(bn)) {
      int64_t tasks = bn.c * count, from = me.from(tasks), to = me.to(tasks);
      if (bn.training) {
        for (int64_t k = from; k < to; k++)
          measure(k / count, k % count, guess(k / count), at.sums + 2 * k);
        me.wait();
        for (int64_t c = me.from(bn.c); c < me.to(bn.c); c++) {
          double sums[2] = {0, 0};
          for (int64_t k = c * count; k < (c + 1) * count; k++)
            sums[0] += at.sums[2 * k], sums[1] += at.sums[2 * k + 1];
          settle(c, guess(c), sums);
        }
      }
      set_affine(bn, at, me.from(bn.c), me.to(bn.c));
      me.wait();
      for (int64_t k = to; k-- > from;) apply_block(k / count, k % count);
    } else {
      for (int64_t c = me.from(bn.c); c < me.to(bn.c); c++) {
        if (bn.training) {
          A shift = guess(c);
          double sums[2];
          measure_all(c, shift, sums);
          settle(c, shift, sums);
        }
        set_affine(bn, at, c, c + 1);
        for (int64_t b = count; b-- > 0;) apply_block(c, b);
      }
    }
    if (bn.streamed) end_stream();
  });
  if (bn.training) update_running(bn, at.variance, at.gamma);
}

template <class T, int known, bool residual>
void backward_planes(BatchNormBackward& bn) {
  using A = C<T>;
  using Word = typename BitWord<A>::type;
  Planes planes(bn);
  int64_t count = planes.blocks.count, slots = slots_of_stretch<A>(bn.s);
  Channels<A> at(bn, count);
  Epilogue<T, known, residual> epilogue(bn);
  const T *g = (const T*)bn.g, *x = (const T*)bn.x;
  const T* r = bn.residual ? (const T*)bn.residual : x;
  T *gx = (T*)bn.gx, *gr = (T*)bn.gresidual;
  const Word* bits = (const Word*)bn.bits;
  // β's and γ's gradients overwrite their values, which are read no more by then.
  double *gbeta = at.beta, *ggamma = at.variance;
  bool streamed = bn.streamed && bn.s >= kAligned;

  Through through = bn.training ? kScaled : kNowhere;

  auto measure = [&](int64_t c, int64_t b, double* out) {
    GradientSum<T> sums;
    Affine<A> affine = at.column.one(c);
    V<A> inverse = splat(at.column.inverse[c]);
    auto its = epilogue.of_channel(at.column.below[c]);
    planes.stretches<A>(c, b, [&](int64_t o, int64_t i, int64_t length, int head, int64_t slot) GB_FLAT {
      gradient_sums(its, affine, inverse, g + o, x + o, r + o, bits + i * slots, length, head,
                    slot, sums);
    });
    sums.totals(at.column.shift[c], at.column.inverse[c], out);
  };
  auto settle = [&](int64_t c, double first, double second) {
    gbeta[c] = first;
    ggamma[c] = second;
    set_gradient(bn, at, gbeta, ggamma, c, c + 1);
  };
  auto apply_block = [&](int64_t c, int64_t b) {
    Affine<A> affine = at.column.one(c);
    V<A> slope = splat(at.column.slope[c]), level = splat(at.column.level[c]);
    auto its = epilogue.of_channel(at.column.below[c]);
    planes.stretches<A>(c, b, [&](int64_t o, int64_t i, int64_t length, int head, int64_t slot) GB_FLAT {
      gradient(its, affine, slope, level, g + o, x + o, r + o, bits + i * slots, gx + o,
               gr ? gr + o : gr, length, head, slot, through, streamed, bn.s);
    });
  };

  as_team(bn.threads, [&](Worker me) {
    set_affine(bn, at, me.from(bn.c), me.to(bn.c));
    if (shares_channels(bn)) {
      int64_t tasks = bn.c * count, from = me.from(tasks), to = me.to(tasks);
      me.wait();
      for (int64_t k = from; k < to; k++) measure(k / count, k % count, at.sums + 2 * k);
      me.wait();
      for (int64_t c = me.from(bn.c); c < me.to(bn.c); c++) {
        double first = 0, second = 0;
        for (int64_t k = c * count; k < (c + 1) * count; k++)
          first += at.sums[2 * k], second += at.sums[2 * k + 1];
        settle(c, first, second);
      }
      me.wait();
      if (gx)
        for (int64_t k = to; k-- > from;) apply_block(k / count, k % count);
    } else {
      for (int64_t c = me.from(bn.c); c < me.to(bn.c); c++) {
        double first = 0, second = 0;
        for (int64_t b = 0; b < count; b++) {
          double sums[2];
          measure(c, b, sums);
          first += sums[0];
          second += sums[1];
        }
        settle(c, first, second);
        if (gx)
          for (int64_t b = count; b-- > 0;) apply_block(c, b);
      }
    }
    if (bn.streamed) end_stream();
  });
  set_numbers(bn.gbeta, bn.parameter_type, gbeta, bn.c);
  set_numbers(bn.ggamma, bn.parameter_type, ggamma, bn.c);
}

}  // namespace
