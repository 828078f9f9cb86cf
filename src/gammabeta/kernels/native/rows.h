// Channels that lie side by side, (R, C): channels_last, and inputs without spatial dims.
#pragma once

#include "walk.h"

namespace {

// Numbers a channel, each an array padded with zeros to whole vectors.
template <class A>
struct Columns {
  A *shift, *scale, *offset, *inverse, *slope, *level;
  GB_INLINE Affine<A> affine(int64_t c) const {
    return {load(shift + c), load(scale + c), load(offset + c)};
  }
  GB_INLINE Affine<A> one(int64_t c) const {
    return {splat(shift[c]), splat(scale[c]), splat(offset[c])};
  }
};

constexpr int64_t padded(int64_t c) { return (c + 15) / 16 * 16; }

// Call f(column, Full or First) for the columns from c0, a multiple of the lanes, to c1.
template <class A, class F>
GB_INLINE void columns(int64_t c0, int64_t c1, F&& f) {
  int64_t c = c0;
  for (; c + kLanes<A> <= c1; c += kLanes<A>) f(c, Full{});
  if (c < c1) f(c, First{(int)(c1 - c)});
}

template <int n>
struct Rows {};

// Call f(row, Rows<n>) for rows from r0 to r1, n at a time.
template <int n, class F>
GB_INLINE void by_rows(int64_t r0, int64_t r1, F&& f) {
  int64_t r = r0;
  for (; r + n <= r1; r += n) f(r, Rows<n>{});
  for (; r < r1; r++) f(r, Rows<1>{});
}

// How far ahead rows are asked for: past those of this step, and some kilobytes.
template <class T>
GB_INLINE int64_t rows_ahead(int64_t row) {
  int64_t rows = 4096 / (row * (int64_t)sizeof(T)) + 1;
  return rows > 8 ? rows : 8;
}

// Sums in the compute type go no further than this many rows; then they are added up in double.
constexpr int64_t kSummedRows = 32;

// Two sums a column, over rows, of n vectors side by side. They stay in registers, and a row's adds
// wait only for those of the row before.
template <class A, int n>
struct Pair {
  V<A> first[n], second[n];
};

// out[c] and out[stride + c] = the sums of first and second, which body(row, column, part, first,
// second) adds to, over rows and columns. `start(column)` returns what a body needs of its column.
template <class A, int n, class Part, class Start, class Body>
GB_INLINE void sum_columns(int64_t r0, int64_t r1, int64_t c, Part part, double* out,
                           int64_t stride, Start&& start, Body&& body) {
  constexpr int W = kLanes<A>;
  decltype(start(c)) column[n];
#pragma GCC unroll 4
  for (int k = 0; k < n; k++) column[k] = start(c + k * W);
  Pair<A, n> sums = {};
  for (int64_t r = r0; r < r1; r++)
#pragma GCC unroll 4
    for (int k = 0; k < n; k++) body(r, c + k * W, column[k], part, sums.first[k], sums.second[k]);
#pragma GCC unroll 4
  for (int k = 0; k < n; k++) {
    add_to(out + c + k * W, sums.first[k]);
    add_to(out + stride + c + k * W, sums.second[k]);
  }
}
template <class A, class Start, class Body>
GB_INLINE void sums_of_rows(int64_t r0, int64_t r1, int64_t c0, int64_t c1, double* out,
                            int64_t stride, Start&& start, Body&& body) {
  constexpr int W = kLanes<A>;
  for (int64_t c = c0; c < c1; c += W)
    for (int i = 0; i < W; i++) out[c + i] = out[stride + c + i] = 0;
  for (int64_t block = r0; block < r1; block += kSummedRows) {
    int64_t end = block + kSummedRows < r1 ? block + kSummedRows : r1, c = c0;
    for (; c + 4 * W <= c1; c += 4 * W)
      sum_columns<A, 4>(block, end, c, Full{}, out, stride, start, body);
    for (; c + W <= c1; c += W)
      sum_columns<A, 1>(block, end, c, Full{}, out, stride, start, body);
    if (c < c1) sum_columns<A, 1>(block, end, c, First{(int)(c1 - c)}, out, stride, start, body);
  }
}

// Σ (x − shift) and Σ (x − shift)² of each column.
template <class T>
GB_INLINE void moments(const T* x, int64_t row, int64_t r0, int64_t r1, int64_t c0, int64_t c1,
                       const C<T>* shift, double* out, int64_t stride) {
  using A = C<T>;
  int64_t ahead = rows_ahead<T>(row) * row;
  sums_of_rows<A>(
      r0, r1, c0, c1, out, stride, [&](int64_t c) GB_FLAT { return load(shift + c); },
      [&](int64_t r, int64_t c, V<A> about, auto part, V<A>& first, V<A>& second) GB_FLAT {
        const T* at = x + r * row + c;
        fetch(at + ahead);
        V<A> d = keep(load(at, part) - about, part);
        first += d;
        second = fma(d, d, second);
      });
}

// shift[c] = the mean of the first rows of each column, near enough to the mean that sums about it
// lose little.
template <class T>
GB_INLINE void first_means(const T* x, int64_t row, int64_t r0, int64_t r1, int64_t c0, int64_t c1,
                           C<T>* shift) {
  using A = C<T>;
  int64_t n = r1 - r0 < kSummedRows ? r1 - r0 : kSummedRows;
  V<A> count = splat((A)n);
  columns<A>(c0, c1, [&](int64_t c, auto part) GB_FLAT {
    V<A> total = {};
    for (int64_t i = 0; i < n; i++) total += load(x + (r0 + i) * row + c, part);
    total /= count;
    // Infinities and NaN: about zero, which leaves them in the sums.
    store(shift + c, where<A>(total - total == 0, total, V<A>{}));
  });
}

template <class T, int known, bool residual>
GB_INLINE void apply_rows(const Epilogue<T, known, residual>& epilogue, const Columns<C<T>>& column,
                          const T* x, const T* res, T* y, typename BitWord<C<T>>::type* bits,
                          int64_t row, int64_t slots, int64_t r0, int64_t r1, int64_t c0,
                          int64_t c1, bool streamed) {
  using A = C<T>;
  int64_t ahead = -rows_ahead<T>(row) * row;
  auto some = [&](int64_t r, auto rows) GB_FLAT {
    columns<A>(c0, c1, [&](int64_t c, auto part) GB_FLAT {
      apply_at(epilogue, column.affine(c), x + r * row + c, res + r * row + c, y + r * row + c,
               bits + r * slots + c / kLanes<A>, row, slots, ahead, rows, part, streamed);
    });
  };
  int64_t r = r1;
  for (; r - 4 >= r0; r -= 4) some(r - 4, Rows<4>{});
  while (r > r0) some(--r, Rows<1>{});
}
template <class T, int known, bool residual, int n, class Part>
GB_INLINE void apply_at(const Epilogue<T, known, residual>& epilogue, const Affine<C<T>>& affine,
                        const T* x, const T* res, T* y, typename BitWord<C<T>>::type* bits,
                        int64_t row, int64_t slots, int64_t ahead, Rows<n>, Part part, bool streamed) {
#pragma GCC unroll 4
  for (int i = 0; i < n; i++) fetch(x + i * row + ahead);
#pragma GCC unroll 4
  for (int i = 0; i < n; i++)
    store(y + i * row,
          epilogue.forward(affine(load(x + i * row, part)), res + i * row, bits + i * slots, part),
          part, streamed);
}

// Σ g and Σ g·(x − shift)/σ of each column, of the gradient g before the activation.
template <class T, int known, bool residual>
GB_INLINE void gradient_sums_of_rows(const Epilogue<T, known, residual>& epilogue,
                                     const Columns<C<T>>& column, const T* g, const T* x,
                                     const T* res, const typename BitWord<C<T>>::type* bits,
                                     int64_t row, int64_t slots, int64_t r0, int64_t r1, int64_t c0,
                                     int64_t c1, double* out, int64_t stride) {
  using A = C<T>;
  struct Column {
    Affine<A> affine;
    V<A> inverse;
  };
  int64_t ahead = rows_ahead<T>(row) * row;
  sums_of_rows<A>(
      r0, r1, c0, c1, out, stride,
      [&](int64_t c) GB_FLAT { return Column{column.affine(c), load(column.inverse + c)}; },
      [&](int64_t r, int64_t c, const Column& k, auto part, V<A>& first, V<A>& second) GB_FLAT {
        int64_t at = r * row + c;
        fetch(g + at + ahead);
        fetch(x + at + ahead);
        V<A> value = load(x + at, part);
        V<A> d = epilogue.backward(load(g + at, part), value, k.affine, res + at,
                                   bits + r * slots + c / kLanes<A>, part);
        d = keep(d, part);
        first += d;
        second = fma(d, keep((value - k.affine.shift) * k.inverse, part), second);
      });
}

// The input's gradient, and the residual's gradient g.
template <class T, int known, bool residual>
GB_INLINE void gradient_rows(const Epilogue<T, known, residual>& epilogue, const Columns<C<T>>& column,
                             const T* g, const T* x, const T* res,
                             const typename BitWord<C<T>>::type* bits, T* gx, T* gr, int64_t row,
                             int64_t slots, int64_t r0, int64_t r1, int64_t c0, int64_t c1,
                             Through through, bool streamed) {
  using A = C<T>;
  int64_t ahead = -rows_ahead<T>(row) * row;
  auto some = [&](int64_t r, auto rows) GB_FLAT {
    columns<A>(c0, c1, [&](int64_t c, auto part) GB_FLAT {
      int64_t at = r * row + c;
      gradient_at(epilogue, column.affine(c), load(column.slope + c), load(column.level + c), g + at,
                  x + at, res + at, bits + r * slots + c / kLanes<A>, gx + at, gr ? gr + at : gr,
                  row, slots, ahead, rows, part, through, streamed);
    });
  };
  int64_t r = r1;
  for (; r - 4 >= r0; r -= 4) some(r - 4, Rows<4>{});
  while (r > r0) some(--r, Rows<1>{});
}
template <class T, int known, bool residual, int n, class Part>
GB_INLINE void gradient_at(const Epilogue<T, known, residual>& epilogue, const Affine<C<T>>& affine,
                           V<C<T>> slope, V<C<T>> level, const T* g, const T* x, const T* res,
                           const typename BitWord<C<T>>::type* bits, T* gx, T* gr, int64_t row,
                           int64_t slots, int64_t ahead, Rows<n>, Part part, Through through,
                           bool streamed) {
  using A = C<T>;
#pragma GCC unroll 4
  for (int i = 0; i < n; i++) {
    fetch(g + i * row + ahead);
    fetch(x + i * row + ahead);
    V<A> value = load(x + i * row, part);
    V<A> d = epilogue.backward(load(g + i * row, part), value, affine, res + i * row, bits + i * slots,
                           part);
    if (residual && gr) store(gr + i * row, d, part, streamed);
    store(gx + i * row, input_gradient<A>(d, value, affine, slope, level, through), part, streamed);
  }
}

}  // namespace
