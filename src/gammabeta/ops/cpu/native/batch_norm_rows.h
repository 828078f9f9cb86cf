// Batch normalization of rows.
#pragma once

#include "channel.h"

namespace {

// The rows in chunks, and the columns in blocks: a task is a chunk of a block. Chunks depend on the
// shape alone, and so does every sum.
struct Chunks {
  int64_t rows, c, chunk, count, width, blocks, tasks;
  explicit Chunks(const BatchNorm& bn) : rows(bn.n), c(bn.c) {
    int64_t most = 1;
    while (most < 64 && rows >= 256 * 2 * most) most *= 2;
    chunk = (rows + 8 * most - 1) / (8 * most) * 8;
    count = (rows + chunk - 1) / chunk;
    width = bn.width ? bn.width : 2048;
    blocks = (c + width - 1) / width;
    tasks = count * blocks;
  }
  GB_INLINE int64_t from(int64_t p) const { return p * chunk; }
  GB_INLINE int64_t to(int64_t p) const { return (p + 1) * chunk < rows ? (p + 1) * chunk : rows; }
  GB_INLINE int64_t first(int64_t b) const { return b * width; }
  GB_INLINE int64_t last(int64_t b) const { return (b + 1) * width < c ? (b + 1) * width : c; }
};

// The columns whose numbers a worker computes, where it computes no block's of its own.
struct Share {
  int64_t from, to;
  Share(const Worker& me, int64_t c) : from(me.from(padded(c) / 16) * 16) {
    int64_t end = me.to(padded(c) / 16) * 16;
    to = end < c ? end : c;
  }
};

// Sums about a first guess of the mean, and again about the mean where the guess was bad.
template <class T>
void chunk_moments(const T* x, int64_t row, int64_t r0, int64_t r1, int64_t c0, int64_t c1,
                   double eps, double* out, int64_t stride, C<T>* shift) {
  using A = C<T>;
  constexpr int L = kLanes<double>;
  double n = (double)(r1 - r0);
  vdouble inverse_n = splat(1 / n);
  first_means(x, row, r0, r1, c0, c1, shift);
  moments(x, row, r0, r1, c0, c1, shift, out, stride);
  vint64 again = {};
  for (int64_t c = c0; c < c1; c += L)
    again |= untrustworthy(inverse_n, load(out + c), load(out + stride + c));
  if (to_bits(again))
    for (int64_t v = c0; v < c1; v += kLanes<A>) {
      int64_t end = v + kLanes<A> < c1 ? v + kLanes<A> : c1;
      bool bad = false;
      for (int64_t c = v; c < end; c++) bad |= !trustworthy(n, out[c], out[stride + c]);
      if (!bad) continue;
      for (int64_t c = v; c < end; c++) {
        A mean = (A)(shift[c] + out[c] / n);
        shift[c] = mean - mean == 0 ? mean : 0;
      }
      moments(x, row, r0, r1, v, end, shift, out, stride);
    }
  vint64 beyond = {};
  for (int64_t c = c0; c < c1; c += L) {
    vdouble first = load(out + c), d = first * inverse_n;
    vdouble m2 = load(out + stride + c) - first * d;
    store(out + c, load_double(shift + c) + d);
    store(out + stride + c, where<double>(m2 < 0, vdouble{}, m2));
    beyond |= ~(m2 - m2 == 0) | (vint64)(m2 < splat(eps < 1e-15 ? 1e-25 * n : 0));
  }
  if (to_bits(beyond))
    for (int64_t c = c0; c < c1; c++) {
      double m2 = out[stride + c];
      if (m2 - m2 == 0 && !vanishing(n, m2, eps)) continue;
      Moments m = exact_moments(
          r1 - r0, [&](int64_t i) { return (double)to_number(x[(r0 + i) * row + c]); });
      out[c] = m.mean;
      out[stride + c] = m.m2;
    }
}

// The chunks' moments together, after Chan, Golub & LeVeque: means and variances of columns c0 to c1.
template <class A>
GB_INLINE void join_chunks(const BatchNorm& bn, const Channels<A>& at, const Chunks& chunks,
                           int64_t c0, int64_t c1) {
  constexpr int L = kLanes<double>;
  for (int64_t c = c0; c < c1; c += L) {
    vdouble mean = load(at.sums + c), m2 = load(at.sums + at.c + c);
    double n = (double)(chunks.to(0) - chunks.from(0));
    for (int64_t p = 1; p < chunks.count; p++) {
      const double* sums = at.sums + 2 * at.c * p;
      double more = (double)(chunks.to(p) - chunks.from(p)), all = n + more;
      vdouble delta = load(sums + c) - mean;
      mean += delta * (more / all);
      m2 += load(sums + at.c + c) + delta * delta * (n * (more / all));
      n = all;
    }
    store(at.variance + c, m2 / n);
    int lanes = c1 - c < L ? (int)(c1 - c) : L;
    store(bn.stats + c, mean, lanes);
  }
}

template <class T, int known, bool residual>
void forward_rows(BatchNormForward& bn) {
  using A = C<T>;
  using Word = typename BitWord<A>::type;
  Chunks chunks(bn);
  Scratch guess{nullptr};  // of a worker's own
  guess.template take<A>(padded(bn.c));
  Channels<A> at(bn, chunks.count, guess.used);
  Epilogue<T, known, residual> epilogue(bn);
  const T *x = (const T*)bn.x, *r = residual ? (const T*)bn.residual : x;
  T* y = (T*)bn.y;
  Word* bits = (Word*)bn.bits;
  int64_t row = bn.c, slots = (bn.c + kLanes<A> - 1) / kLanes<A>;

  auto measure = [&](int64_t p, int64_t b, const Worker& me) {
    chunk_moments(x, row, chunks.from(p), chunks.to(p), chunks.first(b), chunks.last(b), bn.eps,
                  at.sums + 2 * at.c * p, at.c, at.of(me).template take<A>(at.c));
  };
  auto settle = [&](int64_t c0, int64_t c1) {
    if (bn.training) {
      join_chunks(bn, at, chunks, c0, c1);
      set_inverse(bn, at.variance, bn.eps, c0, c1);
    } else {
      use_running(bn, at, c0, c1);
    }
    set_affine(bn, at, c0, c1);
  };
  auto apply = [&](int64_t p, int64_t b) {
    apply_rows(epilogue, at.column, x, r, y, bits, row, slots, chunks.from(p), chunks.to(p),
               chunks.first(b), chunks.last(b), bn.streamed, Before<residual>{});
  };

  as_team(bn.threads, [&](Worker me) {
    if (bn.width) {
      for (int64_t b = me.from(chunks.blocks); b < me.to(chunks.blocks); b++) {
        if (bn.training)
          for (int64_t p = 0; p < chunks.count; p++) measure(p, b, me);
        settle(chunks.first(b), chunks.last(b));
        for (int64_t p = chunks.count; p-- > 0;) apply(p, b);
      }
    } else {
      Share share(me, bn.c);
      int64_t from = me.from(chunks.tasks), to = me.to(chunks.tasks);
      if (bn.training)
        for (int64_t k = from; k < to; k++) measure(k / chunks.blocks, k % chunks.blocks, me);
      me.wait();
      settle(share.from, share.to);
      me.wait();
      for (int64_t k = to; k-- > from;) apply(k / chunks.blocks, k % chunks.blocks);
    }
    if (bn.streamed) end_stream();
  });
  if (bn.training) update_running(bn, at.variance, at.gamma);
}

template <class T, int known, bool residual>
void backward_rows(BatchNormBackward& bn) {
  using A = C<T>;
  using Word = typename BitWord<A>::type;
  Chunks chunks(bn);
  Channels<A> at(bn, chunks.count);
  Epilogue<T, known, residual> epilogue(bn);
  const T *g = (const T*)bn.g, *x = (const T*)bn.x;
  const T* r = bn.residual ? (const T*)bn.residual : x;
  T *gx = (T*)bn.gx, *gr = (T*)bn.gresidual;
  const Word* bits = (const Word*)bn.bits;
  int64_t row = bn.c, slots = (bn.c + kLanes<A> - 1) / kLanes<A>;

  Through through = bn.training ? kScaled : kNowhere;

  auto measure = [&](int64_t p, int64_t b) {
    gradient_sums_of_rows(epilogue, at.column, g, x, r, bits, row, slots, chunks.from(p),
                          chunks.to(p), chunks.first(b), chunks.last(b), at.sums + 2 * at.c * p,
                          at.c);
  };
  auto settle = [&](int64_t c0, int64_t c1) {
    double *first = at.sums, *second = at.sums + at.c;
    for (int64_t p = 1; p < chunks.count; p++) {
      const double* more = at.sums + 2 * at.c * p;
#pragma GCC ivdep
      for (int64_t c = c0; c < c1; c++) first[c] += more[c], second[c] += more[at.c + c];
    }
    set_gradient(bn, at, first, second, c0, c1);
  };
  auto apply = [&](int64_t p, int64_t b) {
    gradient_rows(epilogue, at.column, g, x, r, bits, gx, gr, row, slots, chunks.from(p),
                  chunks.to(p), chunks.first(b), chunks.last(b), through, bn.streamed, Before<true>{});
  };

  as_team(bn.threads, [&](Worker me) {
    if (bn.width) {
      for (int64_t b = me.from(chunks.blocks); b < me.to(chunks.blocks); b++) {
        set_affine(bn, at, chunks.first(b), chunks.last(b));
        for (int64_t p = 0; p < chunks.count; p++) measure(p, b);
        settle(chunks.first(b), chunks.last(b));
        if (gx)
          for (int64_t p = chunks.count; p-- > 0;) apply(p, b);
      }
    } else {
      Share share(me, bn.c);
      int64_t from = me.from(chunks.tasks), to = me.to(chunks.tasks);
      set_affine(bn, at, share.from, share.to);
      me.wait();
      for (int64_t k = from; k < to; k++) measure(k / chunks.blocks, k % chunks.blocks);
      me.wait();
      settle(share.from, share.to);
      me.wait();
      if (gx)
        for (int64_t k = to; k-- > from;) apply(k / chunks.blocks, k % chunks.blocks);
    }
    if (bn.streamed) end_stream();
  });
  set_numbers(bn.gbeta, bn.parameter_type, at.sums, bn.c);
  set_numbers(bn.ggamma, bn.parameter_type, at.sums + at.c, bn.c);
}

}  // namespace
