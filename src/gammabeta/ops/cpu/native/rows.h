// Channels that lie side by side, (R, C): channels_last, and inputs without spatial dims.
#pragma once

#include "walk.h"

namespace {

// Numbers a channel, each an array padded with zeros to whole vectors.
template <class A>
struct Columns {
  A *shift, *scale, *offset, *inverse, *slope, *level;
  A* below;  // the activation's slope below 0
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

// Call f(row, column, Full or First) for every element, the last one first: what the caches hold of
// an earlier walk forwards is then met before it is gone. Wholly backwards, columns too: processors
// see through that, but not through rows backwards whose columns go forwards.
template <class A, class F>
GB_INLINE void backwards(int64_t r0, int64_t r1, int64_t c0, int64_t c1, F&& f) {
  constexpr int W = kLanes<A>;
  int64_t whole = c0 + (c1 - c0) / W * W;
  for (int64_t r = r1; r-- > r0;) {
    if (whole < c1) f(r, whole, First{(int)(c1 - whole)});
    for (int64_t c = whole - W; c >= c0; c -= W) f(r, c, Full{});
  }
}

// What a walk backwards asks for at each place: what it comes to next, which processors see for
// themselves where there are one or two streams only; or what the next block starts with.
template <bool asks>
struct Before {
  template <class T>
  GB_INLINE void operator()(const T* p) const {
    if (asks) fetch_near((const char*)p - 4096);
  }
};
struct NextBlock {
  int64_t width;
  template <class T>
  GB_INLINE void operator()(const T* p) const {
    fetch(p + width);
  }
};

// How far ahead rows are asked for: past those of this step, and some kilobytes.
template <class T>
GB_INLINE int64_t rows_ahead(int64_t row) {
  int64_t rows = 4096 / (row * (int64_t)sizeof(T)) + 1;
  return rows > 8 ? rows : 8;
}

// Sums in the compute type go no further than this many rows; then they are added up in double.
constexpr int64_t kSummedRows = 32;

// Add to out[c] and out[stride + c] what body(row, column, start(column), part, sums) sums up over
// rows, of n vectors side by side: the sums stay in registers, and a row's adds wait only for those
// of the row before. end(first, second, start(column), sums) adds them.
template <class A, class Sums, int n, class Part, class Start, class Body, class End>
GB_INLINE void sum_columns(int64_t r0, int64_t r1, int64_t c, Part part, double* out,
                           int64_t stride, Start&& start, Body&& body, End&& end) {
  constexpr int W = kLanes<A>;
  decltype(start(c)) column[n];
#pragma GCC unroll 8
  for (int k = 0; k < n; k++) column[k] = start(c + k * W);
  Sums sums[n] = {};
  for (int64_t r = r0; r < r1; r++)
#pragma GCC unroll 8
    for (int k = 0; k < n; k++) body(r, c + k * W, column[k], part, sums[k]);
#pragma GCC unroll 8
  for (int k = 0; k < n; k++)
    end(out + c + k * W, out + stride + c + k * W, column[k], sums[k]);
}
template <class A, class Sums, class Start, class Body, class End>
GB_INLINE void sums_of_rows(int64_t r0, int64_t r1, int64_t c0, int64_t c1, double* out,
                            int64_t stride, Start&& start, Body&& body, End&& add) {
  constexpr int W = kLanes<A>, fit = (kVectorBytes == 64 ? 24 : 12) / Sums::registers;  // registers
  constexpr int n = fit >= 8 ? 8 : fit >= 4 ? 4 : 2;
  for (int64_t c = c0; c < c1; c += W)
    for (int i = 0; i < W; i++) out[c + i] = out[stride + c + i] = 0;
  for (int64_t block = r0; block < r1; block += kSummedRows) {
    int64_t end = block + kSummedRows < r1 ? block + kSummedRows : r1, c = c0;
    for (; c + n * W <= c1; c += n * W)
      sum_columns<A, Sums, n>(block, end, c, Full{}, out, stride, start, body, add);
    if constexpr (n > 4)
      for (; c + 4 * W <= c1; c += 4 * W)
        sum_columns<A, Sums, 4>(block, end, c, Full{}, out, stride, start, body, add);
    for (; c + W <= c1; c += W)
      sum_columns<A, Sums, 1>(block, end, c, Full{}, out, stride, start, body, add);
    if (c < c1)
      sum_columns<A, Sums, 1>(block, end, c, First{(int)(c1 - c)}, out, stride, start, body, add);
  }
}

// Σ (x − shift) and Σ (x − shift)² of each column.
template <class T>
GB_INLINE void moments(const T* x, int64_t row, int64_t r0, int64_t r1, int64_t c0, int64_t c1,
                       const C<T>* shift, double* out, int64_t stride) {
  using A = C<T>;
  int64_t ahead = rows_ahead<T>(row) * row;
  sums_of_rows<A, Two<A>>(
      r0, r1, c0, c1, out, stride, [&](int64_t c) GB_FLAT { return load(shift + c); },
      [&](int64_t r, int64_t c, V<A> about, auto part, Two<A>& sums) GB_FLAT {
        const T* at = x + r * row + c;
        fetch_near(at + ahead);
        V<A> d = keep(load(at, part) - about, part);
        sums.first += d;
        sums.second = fma(d, d, sums.second);
      },
      [](double* first, double* second, V<A>, const Two<A>& sums) GB_FLAT {
        add_to(first, second, sums);
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

template <class T, int known, bool residual, class Ask>
GB_INLINE void apply_rows(const Epilogue<T, known, residual>& epilogue, const Columns<C<T>>& column,
                          const T* x, const T* res, T* y, typename BitWord<C<T>>::type* bits,
                          int64_t row, int64_t slots, int64_t r0, int64_t r1, int64_t c0,
                          int64_t c1, bool streamed, Ask ask) {
  using A = C<T>;
  backwards<A>(r0, r1, c0, c1, [&](int64_t r, int64_t c, auto part) GB_FLAT {
    int64_t at = r * row + c;
    ask(x + at);
    if (residual) ask(res + at);
    store(y + at,
          epilogue.of_columns(column.below + c)
              .forward(column.affine(c)(load(x + at, part)), res + at,
                       bits + r * slots + c / kLanes<A>, part),
          part, streamed);
  });
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
  sums_of_rows<A, GradientSums<T>>(
      r0, r1, c0, c1, out, stride,
      [&](int64_t c) GB_FLAT { return Column{column.affine(c), load(column.inverse + c)}; },
      [&](int64_t r, int64_t c, const Column& k, auto part, GradientSums<T>& sums) GB_FLAT {
        int64_t at = r * row + c;
        fetch_near(g + at + ahead);
        fetch_near(x + at + ahead);
        V<A> value = load(x + at, part);
        V<A> d = epilogue.of_columns(column.below + c)
                     .backward(load(g + at, part), value, k.affine, res + at,
                               bits + r * slots + c / kLanes<A>, part);
        sums.add(keep(d, part), value, x + at, part, k.affine.shift, k.inverse);
      },
      [](double* first, double* second, const Column& k, const GradientSums<T>& sums) GB_FLAT {
        sums.add_to(first, second, k.affine.shift, k.inverse);
      });
}

// The input's gradient, and the residual's gradient g.
template <class T, int known, bool residual, class Ask>
GB_INLINE void gradient_rows(const Epilogue<T, known, residual>& epilogue, const Columns<C<T>>& column,
                             const T* g, const T* x, const T* res,
                             const typename BitWord<C<T>>::type* bits, T* gx, T* gr, int64_t row,
                             int64_t slots, int64_t r0, int64_t r1, int64_t c0, int64_t c1,
                             Through through, bool streamed, Ask ask) {
  using A = C<T>;
  backwards<A>(r0, r1, c0, c1, [&](int64_t r, int64_t c, auto part) GB_FLAT {
    int64_t at = r * row + c;
    ask(g + at);
    ask(x + at);
    V<A> value = load(x + at, part);
    Affine<A> affine = column.affine(c);
    V<A> d = epilogue.of_columns(column.below + c)
                 .backward(load(g + at, part), value, affine, res + at,
                           bits + r * slots + c / kLanes<A>, part);
    if (residual && gr) store(gr + at, d, part, streamed);
    store(gx + at,
          input_gradient<A>(d, value, affine, load(column.slope + c), load(column.level + c), through),
          part, streamed);
  });
}

}  // namespace
