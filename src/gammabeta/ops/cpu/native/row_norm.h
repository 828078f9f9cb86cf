// Layer norm and RMS norm: rows of d values, each normalized alone; γ and β go along the row.
#pragma once

#include "standardize.h"

namespace {

// The rows in chunks that depend on the shape alone: γ's and β's gradients are summed a chunk, then
// over the chunks in their order.
struct RowChunks {
  static constexpr int64_t kElements = 32768;
  int64_t rows, chunk, count;
  RowChunks(int64_t rows, int64_t d) : rows(rows) {
    int64_t some = (kElements + d - 1) / d, sixty_fourth = (rows + 63) / 64;
    chunk = ((some > sixty_fourth ? some : sixty_fourth) + 3) / 4 * 4;
    count = (rows + chunk - 1) / chunk;
  }
  GB_INLINE int64_t from(int64_t p) const { return p * chunk; }
  GB_INLINE int64_t to(int64_t p) const { return (p + 1) * chunk < rows ? (p + 1) * chunk : rows; }
};

// How many rows are taken together.
template <int count>
struct Count {
  static constexpr int n = count;
};

template <class A>
GB_INLINE int64_t slots_of_row(int64_t d) {
  return (d + kLanes<A> - 1) / kLanes<A>;
}

template <class T, int known, bool residual>
void forward_row_norm(RowNormForward& ln) {
  using A = C<T>;
  using Word = typename BitWord<A>::type;
  int64_t d = ln.d, slots = slots_of_row<A>(d);
  Scratch scratch{nullptr};
  scratch.take<A>(d), scratch.take<A>(d);
  scratch = {ln.workspace(scratch.used)};
  const A* gamma = as_computed<A>(ln.gamma, ln.parameter_type, d, 1, scratch.take<A>(d));
  const A* beta = as_computed<A>(ln.beta, ln.parameter_type, d, 0, scratch.take<A>(d));
  Epilogue<T, known, residual> epilogue(ln);
  auto* stats = (Standard<A>*)ln.stats;
  as_team(ln.threads, [&](Worker me) {
    int64_t from = me.from(ln.rows), to = me.to(ln.rows);
    for (int64_t r = from; r < to; r++) {
      const T* x = (const T*)ln.x + r * d;
      const T* res = residual ? (const T*)ln.residual + r * d : x;
      T* y = (T*)ln.y + r * d;
      Word* bits = (Word*)ln.bits;
      Standard<A> row = standardize(x, d, ln.centered, ln.eps);
      stats[r] = row;
      walk<A>(d, 0, r * slots, [&](int64_t i, int64_t at, auto part, auto) GB_FLAT {
        V<A> z = fma(row(load(x + i, part)), load(gamma + i, part), load(beta + i, part));
        store(y + i, epilogue.forward(z, res + i, bits + at, part), part, ln.streamed);
      });
    }
    if (ln.streamed) end_stream();
  });
}

// ---- backward -----------------------------------------------------------------------------------

// What the backward pass works with, and where.
template <class A>
struct RowSpace {
  const A *gamma, *beta;
  int64_t d;          // padded
  double* sums;       // β's and γ's gradients, 2·d a chunk
  A *partial, *grads; // 2·d, and 4·d, a thread

  RowSpace(const RowNorm& ln, int64_t chunks) : d((ln.d + 15) / 16 * 16) {
    Scratch scratch{nullptr};
    lay_out(ln, chunks, scratch);
    scratch = {ln.workspace(scratch.used)};
    lay_out(ln, chunks, scratch);
  }

 private:
  void lay_out(const RowNorm& ln, int64_t chunks, Scratch& scratch) {
    A *g = scratch.take<A>(d), *b = scratch.take<A>(d);
    if (scratch.at) {
      gamma = as_computed<A>(ln.gamma, ln.parameter_type, ln.d, 1, g);
      beta = as_computed<A>(ln.beta, ln.parameter_type, ln.d, 0, b);
    }
    partial = scratch.take<A>(2 * d * ln.threads);
    grads = scratch.take<A>(4 * d * ln.threads);
    sums = scratch.take<double>(2 * d * chunks);
  }
};

// How a row's gradient comes from the gradient of the output g before the activation:
// gx = (gγ − mean + x̂ · slope) · inverse. In this order a row of one value gets its 0.
template <class A>
struct RowGradient {
  Standard<A> standard;
  A slope, mean;
};

// g of row r, into `out` unless the incoming gradient already is; and what its two means make of
// the row.
template <class T, int known, bool residual, bool kept>
GB_INLINE RowGradient<C<T>> row_gradient(const RowNormBackward& ln, const RowSpace<C<T>>& space,
                                         int64_t r, C<T>* out) {
  using A = C<T>;
  using Word = typename BitWord<A>::type;
  const T *g = (const T*)ln.g + r * ln.d, *x = (const T*)ln.x + r * ln.d;
  const T* res = ln.residual ? (const T*)ln.residual + r * ln.d : x;
  T* gr = ln.gresidual ? (T*)ln.gresidual + r * ln.d : nullptr;
  const Word* bits = (const Word*)ln.bits;
  Epilogue<T, known, residual> epilogue(ln);
  Standard<A> row = ((const Standard<A>*)ln.stats)[r];
  Sum<A> first, second;
  walk<A>(ln.d, 0, r * slots_of_row<A>(ln.d), [&](int64_t i, int64_t at, auto part, auto k) GB_FLAT {
    V<A> normal = row(load(x + i, part)), gamma = load(space.gamma + i, part);
    Affine<A> affine{V<A>{}, gamma, load(space.beta + i, part)};
    V<A> d = epilogue.backward(load(g + i, part), normal, affine, res + i, bits + at, part);
    if (residual && gr) store(gr + i, d, part, ln.streamed);
    if (!kept) store(out + i, d, part, false);
    d = keep(d * gamma, part);
    first.add(d, k);
    second.add_product(d, keep(normal, part), k);
  });
  double n = (double)ln.d;
  return {row, (A)(-second.total() / n), ln.centered ? (A)(first.total() / n) : 0};
}

// The gradients of n rows from r, and what they add to γ's and β's.
template <class T, int n>
__attribute__((noinline)) void finish_rows(const RowNormBackward& ln, const RowSpace<C<T>>& space,
                                           int64_t r, const C<T>* g, int64_t stride,
                                           const RowGradient<C<T>>* rows, C<T>* partial) {
  using A = C<T>;
  const T* x = (const T*)ln.x + r * ln.d;
  T* gx = ln.gx ? (T*)ln.gx + r * ln.d : nullptr;
  bool streamed = ln.streamed;
  columns<A>(0, ln.d, [&](int64_t c, auto part) GB_FLAT {
    V<A> gamma = load(space.gamma + c, part);
    V<A> gbeta = load(partial + c), ggamma = load(partial + space.d + c);
#pragma GCC unroll 4
    for (int i = 0; i < n; i++) {
      const RowGradient<A>& row = rows[i];
      V<A> normal = row.standard(load(x + i * ln.d + c, part)), d = load(g + i * stride + c, part);
      gbeta += d;
      ggamma = fma(d, normal, ggamma);
      if (gx) {
        V<A> moved = fma(normal, splat(row.slope), d * gamma - splat(row.mean));
        store(gx + i * ln.d + c, moved * splat(row.standard.inverse), part, streamed);
      }
    }
    store(partial + c, gbeta);
    store(partial + space.d + c, ggamma);
  });
}

template <class T, int known, bool residual>
void backward_row_norm(RowNormBackward& ln) {
  using A = C<T>;
  // Without an activation the incoming gradient is g itself, if it is of the compute type.
  constexpr bool kept = known == kKnownNone && sizeof(T) == sizeof(A);
  RowChunks chunks(ln.rows, ln.d);
  RowSpace<A> space(ln, chunks.count);
  int64_t d = space.d;
  // Four rows at a time spare three of four trips to γ's and β's gradients, while they stay in L2.
  const int step = ln.d <= 8192 ? 4 : 1;

  auto some = [&](int64_t r, auto rows, A* grads, A* partial) GB_FLAT {
    constexpr int n = decltype(rows)::n;
    RowGradient<A> row[n];
    for (int i = 0; i < n; i++)
      row[i] = row_gradient<T, known, residual, kept>(ln, space, r + i, grads + i * d);
    if constexpr (kept)
      finish_rows<T, n>(ln, space, r, (const A*)ln.g + r * ln.d, ln.d, row, partial);
    else
      finish_rows<T, n>(ln, space, r, grads, d, row, partial);
  };

  as_team(ln.threads, [&](Worker me) {
    A *partial = space.partial + 2 * d * me.index, *grads = space.grads + 4 * d * me.index;
    for (int64_t p = me.from(chunks.count); p < me.to(chunks.count); p++) {
      double* sums = space.sums + 2 * d * p;
      __builtin_memset(sums, 0, 2 * d * sizeof(double));
      for (int64_t from = chunks.from(p); from < chunks.to(p); from += kSummedRows) {
        int64_t r = from, to = from + kSummedRows < chunks.to(p) ? from + kSummedRows : chunks.to(p);
        __builtin_memset(partial, 0, 2 * d * sizeof(A));
        for (; r + step <= to && step == 4; r += 4) some(r, Count<4>{}, grads, partial);
        for (; r < to; r++) some(r, Count<1>{}, grads, partial);
        for (int64_t c = 0; c < 2 * d; c += kLanes<A>) add_to(sums + c, load(partial + c));
      }
    }
    me.wait();
    for (int64_t c = me.from(2 * d / 16) * 16; c < me.to(2 * d / 16) * 16; c += kLanes<double>) {
      vdouble total = load(space.sums + c);
      for (int64_t p = 1; p < chunks.count; p++) total += load(space.sums + 2 * d * p + c);
      store(space.sums + c, total);
    }
    if (ln.streamed) end_stream();
  });
  set_numbers(ln.gbeta, ln.parameter_type, space.sums, ln.d);
  set_numbers(ln.ggamma, ln.parameter_type, space.sums + d, ln.d);
}

}  // namespace
