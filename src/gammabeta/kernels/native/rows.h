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
constexpr int64_t kSummedRows = 64;

// out[c] and out[stride + c] = the two sums that body(row, Rows, column, part, first, second) adds
// to, over rows and columns. `partial` holds 2·stride numbers to work with.
template <class A, class Body>
GB_INLINE void sums_of_rows(int64_t r0, int64_t r1, int64_t c0, int64_t c1, double* out,
                            int64_t stride, A* partial, Body&& body) {
  for (int64_t c = c0; c < c1; c += kLanes<A>)
    for (int i = 0; i < kLanes<A>; i++) out[c + i] = out[stride + c + i] = 0;
  for (int64_t block = r0; block < r1; block += kSummedRows) {
    int64_t end = block + kSummedRows < r1 ? block + kSummedRows : r1;
    for (int64_t c = c0; c < c1; c += kLanes<A>) {
      store(partial + c, V<A>{});
      store(partial + stride + c, V<A>{});
    }
    by_rows<8>(block, end, [&](int64_t r, auto rows) GB_FLAT {
      columns<A>(c0, c1, [&](int64_t c, auto part) GB_FLAT {
        V<A> first = {}, second = {};
        body(r, rows, c, part, first, second);
        store(partial + c, load(partial + c) + first);
        store(partial + stride + c, load(partial + stride + c) + second);
      });
    });
    for (int64_t c = c0; c < c1; c += kLanes<A>) {
      add_to(out + c, load(partial + c));
      add_to(out + stride + c, load(partial + stride + c));
    }
  }
}

// Two sums over n terms, of which no more than two wait for one another.
template <class A, int n>
struct Tree {
  static constexpr int kParts = n < 4 ? n : 4;
  V<A> first[kParts], second[kParts];
  GB_INLINE void add(int i, V<A> one, V<A> a, V<A> b) {
    int k = i % kParts;
    first[k] = i < kParts ? one : first[k] + one;
    second[k] = i < kParts ? a * b : fma(a, b, second[k]);
  }
  GB_INLINE void into(V<A>& f, V<A>& s) {
#pragma GCC unroll 8
    for (int step = kParts / 2; step; step /= 2)
#pragma GCC unroll 8
      for (int i = 0; i < step; i++) first[i] += first[i + step], second[i] += second[i + step];
    f += first[0];
    s += second[0];
  }
};

// Σ (x − shift) and Σ (x − shift)² of each column.
template <class T>
GB_INLINE void moments(const T* x, int64_t row, int64_t r0, int64_t r1, int64_t c0, int64_t c1,
                       const C<T>* shift, double* out, int64_t stride, C<T>* partial) {
  using A = C<T>;
  int64_t ahead = rows_ahead<T>(row) * row;
  sums_of_rows<A>(r0, r1, c0, c1, out, stride, partial,
                  [&](int64_t r, auto rows, int64_t c, auto part, V<A>& first, V<A>& second) GB_FLAT {
                    add_moments(x + r * row + c, row, ahead, load(shift + c), rows, part, first, second);
                  });
}
template <class T, int n, class Part>
GB_INLINE void add_moments(const T* x, int64_t row, int64_t ahead, V<C<T>> about, Rows<n>, Part part,
                           V<C<T>>& first, V<C<T>>& second) {
  Tree<C<T>, n> sums;
#pragma GCC unroll 8
  for (int i = 0; i < n; i++) {
    fetch(x + i * row + ahead);
    V<C<T>> d = keep(load(x + i * row, part) - about, part);
    sums.add(i, d, d, d);
  }
  sums.into(first, second);
}

// shift[c] = the mean of the first rows of each column, near enough to the mean that sums about it
// lose little.
template <class T>
GB_INLINE void first_means(const T* x, int64_t row, int64_t r0, int64_t r1, int64_t c0, int64_t c1,
                           C<T>* shift) {
  using A = C<T>;
  int64_t n = r1 - r0 < 16 ? r1 - r0 : 16;
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
                                     int64_t c1, double* out, int64_t stride, C<T>* partial) {
  using A = C<T>;
  int64_t ahead = rows_ahead<T>(row) * row;
  sums_of_rows<A>(r0, r1, c0, c1, out, stride, partial,
                  [&](int64_t r, auto rows, int64_t c, auto part, V<A>& first, V<A>& second) GB_FLAT {
                    int64_t at = r * row + c;
                    add_gradient_sums(epilogue, column.affine(c), load(column.inverse + c), g + at,
                                      x + at, res + at, bits + r * slots + c / kLanes<A>, row,
                                      slots, ahead, rows, part, first, second);
                  });
}
template <class T, int known, bool residual, int n, class Part>
GB_INLINE void add_gradient_sums(const Epilogue<T, known, residual>& epilogue, const Affine<C<T>>& affine,
                                 V<C<T>> inverse, const T* g, const T* x, const T* res,
                                 const typename BitWord<C<T>>::type* bits, int64_t row,
                                 int64_t slots, int64_t ahead, Rows<n>, Part part, V<C<T>>& first,
                                 V<C<T>>& second) {
  using A = C<T>;
  Tree<A, n> sums;
#pragma GCC unroll 8
  for (int i = 0; i < n; i++) {
    fetch(g + i * row + ahead);
    fetch(x + i * row + ahead);
    V<A> value = load(x + i * row, part);
    V<A> d = epilogue.backward(load(g + i * row, part), value, affine, res + i * row,
                               bits + i * slots, part);
    d = keep(d, part);
    sums.add(i, d, d, keep((value - affine.shift) * inverse, part));
  }
  sums.into(first, second);
}

// gx = (g + (x − shift)·slope + level)·scale, and the residual's gradient g. Where the statistics do
// not depend on x, gx = g·scale, whatever x is.
template <class T, int known, bool residual>
GB_INLINE void gradient_rows(const Epilogue<T, known, residual>& epilogue, const Columns<C<T>>& column,
                             const T* g, const T* x, const T* res,
                             const typename BitWord<C<T>>::type* bits, T* gx, T* gr, int64_t row,
                             int64_t slots, int64_t r0, int64_t r1, int64_t c0, int64_t c1,
                             bool training, bool streamed) {
  using A = C<T>;
  int64_t ahead = -rows_ahead<T>(row) * row;
  auto some = [&](int64_t r, auto rows) GB_FLAT {
    columns<A>(c0, c1, [&](int64_t c, auto part) GB_FLAT {
      int64_t at = r * row + c;
      gradient_at(epilogue, column.affine(c), load(column.slope + c), load(column.level + c), g + at,
                  x + at, res + at, bits + r * slots + c / kLanes<A>, gx + at, gr ? gr + at : gr,
                  row, slots, ahead, rows, part, training, streamed);
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
                           int64_t slots, int64_t ahead, Rows<n>, Part part, bool training,
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
    if (training) d += fma(value - affine.shift, slope, level);
    store(gx + i * row, d * affine.scale, part, streamed);
  }
}

}  // namespace
