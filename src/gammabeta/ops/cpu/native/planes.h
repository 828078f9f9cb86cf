// Channels that lie in planes, (N, C, S): each channel is N stretches of S elements.
#pragma once

#include "walk.h"

namespace {

// Below this many elements a stretch is not worth aligning, nor storing past the caches.
constexpr int64_t kAligned = 128;

// Elements of a stretch that starts at `offset` before the first aligned one.
template <class A>
GB_INLINE int head_of(int64_t offset, int64_t s) {
  return s < kAligned ? 0 : (int)(-offset & (kLanes<A> - 1));
}

// A channel's elements in blocks of about 4096: short enough for sums in the compute type, and the
// same for any number of threads.
struct Blocks {
  static constexpr int64_t kSize = 4096;
  int64_t n, s;     // stretches, and their length
  int64_t pieces;   // blocks a stretch, where it is long
  int64_t gathered; // stretches a block, where they are short
  int64_t count;

  Blocks(int64_t n, int64_t s) : n(n), s(s) {
    pieces = (s + kSize - 1) / kSize;
    gathered = s < kSize ? kSize / (s > 0 ? s : 1) : 1;
    if (gathered > 64) gathered = 64;
    count = pieces > 1 ? n * pieces : (n + gathered - 1) / gathered;
  }

  // Call f(stretch, first element, length, head, slot) for what block b is made of. `offset(n)` is
  // where stretch n starts in the tensor, which decides its alignment.
  template <class A, class Offset, class F>
  GB_INLINE void stretches(int64_t b, Offset&& offset, F&& f) const {
    constexpr int W = kLanes<A>;
    if (pieces > 1) {
      int64_t i = b / pieces, piece = b % pieces;
      int head = head_of<A>(offset(i), s);
      int64_t from = piece ? head + piece * kSize : 0;
      int64_t to = head + (piece + 1) * kSize;
      if (to > s || piece + 1 == pieces) to = s;
      if (from < to)
        f(i, from, to - from, piece ? 0 : head, piece ? (head > 0) + piece * (kSize / W) : 0);
    } else {
      int64_t end = (b + 1) * gathered < n ? (b + 1) * gathered : n;
      for (int64_t i = b * gathered; i < end; i++)
        f(i, (int64_t)0, s, head_of<A>(offset(i), s), (int64_t)0);
    }
  }
};

// Slots of a stretch of s elements: whole vectors, a head and a tail.
template <class A>
constexpr int64_t slots_of_stretch(int64_t s) {
  return s / kLanes<A> + 2;
}

// The mean of the first elements: near enough to the mean that sums about it lose nothing.
template <class T>
GB_INLINE C<T> first_mean(const T* x, int64_t length) {
  using A = C<T>;
  if (length > 64) length = 64;
  Sum<A> sum;
  walk<A>(length, 0, 0, [&](int64_t i, int64_t, auto part, auto k) GB_FLAT { sum.add(load(x + i, part), k); });
  A mean = (A)(sum.total() / (double)length);
  return __builtin_isfinite(mean) ? mean : 0;
}

// Σ (x − shift) and Σ (x − shift)², added to out[0] and out[1].
template <class T>
GB_INLINE void moments(const T* x, int64_t length, int head, C<T> shift, Sum<C<T>>& first,
                       Sum<C<T>>& second) {
  using A = C<T>;
  V<A> about = splat(shift);
  walk<A>(length, head, 0, [&](int64_t i, int64_t, auto part, auto k) GB_FLAT {
    V<A> d = keep(load(x + i, part) - about, part);
    first.add(d, k);
    second.add_product(d, d, k);
  });
}

template <class T, int known, bool residual>
GB_INLINE void apply(const Epilogue<T, known, residual>& epilogue, const Affine<C<T>>& affine, const T* x,
                     const T* r, T* y, typename BitWord<C<T>>::type* bits, int64_t length, int head,
                     int64_t slot, bool streamed, int64_t ahead) {
  walk_once<C<T>>(length, head, slot, [&](int64_t i, int64_t at, auto part) GB_FLAT {
    fetch(x + i + ahead);
    if (residual) fetch(r + i + ahead);
    store(y + i, epilogue.forward(affine(load(x + i, part)), r + i, bits + at, part), part, streamed);
  });
}

// Adds to Σ g and Σ g·(x − shift)/σ, of the gradient g before the activation.
template <class T, int known, bool residual>
GB_INLINE void gradient_sums(const Epilogue<T, known, residual>& epilogue, const Affine<C<T>>& affine,
                             V<C<T>> inverse, const T* g, const T* x, const T* r,
                             const typename BitWord<C<T>>::type* bits, int64_t length, int head,
                             int64_t slot, GradientSum<T>& sums) {
  using A = C<T>;
  // Two streams at once are not seen through by every processor.
  int64_t ahead = length >= 1024 ? 4096 / (int64_t)sizeof(T) : 0;
  walk<A>(length, head, slot, [&](int64_t i, int64_t at, auto part, auto k) GB_FLAT {
    fetch_near(g + i + ahead);
    fetch_near(x + i + ahead);
    V<A> value = load(x + i, part);
    V<A> d = epilogue.backward(load(g + i, part), value, affine, r + i, bits + at, part);
    sums.at(k).add(keep(d, part), value, x + i, part, affine.shift, inverse);
  });
}

// The input's gradient, and the residual's gradient g.
template <class T, int known, bool residual>
GB_INLINE void gradient(const Epilogue<T, known, residual>& epilogue, const Affine<C<T>>& affine,
                        V<C<T>> slope, V<C<T>> level, const T* g, const T* x, const T* r,
                        const typename BitWord<C<T>>::type* bits, T* gx, T* gr, int64_t length,
                        int head, int64_t slot, Through through, bool streamed, int64_t ahead) {
  using A = C<T>;
  walk_once<A>(length, head, slot, [&](int64_t i, int64_t at, auto part) GB_FLAT {
    fetch(g + i + ahead);
    fetch(x + i + ahead);
    V<A> value = load(x + i, part);
    V<A> d = epilogue.backward(load(g + i, part), value, affine, r + i, bits + at, part);
    if (residual && gr) store(gr + i, d, part, streamed);
    store(gx + i, input_gradient<A>(d, value, affine, slope, level, through), part, streamed);
  });
}

}  // namespace
