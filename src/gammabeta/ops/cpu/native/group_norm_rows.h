// Group norm of rows, (N, S, C): channels_last. An example's columns are summed each alone, then
// taken together by groups; what follows is as in batch norm.
#pragma once

#include "batch_norm_rows.h"
#include "group_norm.h"

namespace {

// An example's rows in chunks, and its columns in blocks.
GB_INLINE Chunks chunks_of(const GroupNorm& gn) {
  BatchNorm like{};
  like.n = gn.s;
  like.c = gn.c;
  return Chunks(like);
}

// Each thread takes whole examples, while they are in its cache, unless there are too few: then all
// share each, and `places` are the examples instead of the threads.
template <class A>
struct RowSpaceOfGroups {
  bool shared;
  int64_t c, places, count;
  GroupSpace space;
  Columns<A>* column;  // a place
  double* sums;        // 2·c a chunk
  A* guess;            // c a thread
  A* below;            // c, the activation's slopes below 0

  RowSpaceOfGroups(const GroupNorm& gn, int64_t count)
      : shared(gn.threads > 1 && gn.n < 8 * gn.threads && gn.n % gn.threads),
        c(padded(gn.c)),
        places(shared ? gn.n : gn.threads),
        count(count),
        space(gn, needed(gn)) {
    Scratch scratch{space.rest};
    lay_out(gn, scratch);
    set_slopes(below, gn);
    for (int64_t i = 0; i < places; i++) {
      A* from = numbers + i * 6 * c;
      column[i] = {from,         from + c,     from + 2 * c, from + 3 * c,
                   from + 4 * c, from + 5 * c, below};
    }
  }
  GB_INLINE double* sums_of(int64_t place, int64_t chunk) const {
    return sums + 2 * c * (place * count + chunk);
  }

 private:
  A* numbers;
  size_t needed(const GroupNorm& gn) {
    Scratch scratch{nullptr};
    lay_out(gn, scratch);
    return scratch.used;
  }
  void lay_out(const GroupNorm& gn, Scratch& scratch) {
    column = scratch.take<Columns<A>>(places);
    numbers = scratch.take<A>(6 * c * places);
    guess = scratch.take<A>(c * gn.threads);
    below = scratch.take<A>(c);
    sums = scratch.take<double>(2 * c * places * count);
  }
};

// What maps the columns of an example, from its groups' statistics.
template <class A>
GB_INLINE void set_columns(const GroupNorm& gn, const GroupSpace& space, const Standard<A>* groups,
                           const Columns<A>& column) {
  for (int64_t c = 0; c < gn.c; c++) {
    const Standard<A>& group = groups[c / gn.k];
    ChannelMap<A> map(group, space.gamma[c], space.beta[c]);
    column.shift[c] = map.shift;
    column.scale[c] = map.scale;
    column.offset[c] = map.offset;
    column.inverse[c] = group.inverse;
  }
}

// Run measure(example, chunk, place, me), settle(example, place), apply(example, chunk, place) over
// all there is.
template <class Space, class Measure, class Settle, class Apply>
GB_INLINE void over_examples(const GroupNorm& gn, const Space& space, Measure&& measure,
                             Settle&& settle, Apply&& apply) {
  int64_t count = space.count;
  as_team(gn.threads, [&](Worker me) {
    if (space.shared) {
      int64_t from = me.from(gn.n * count), to = me.to(gn.n * count);
      for (int64_t t = from; t < to; t++) measure(t / count, t % count, t / count, me);
      me.wait();
      for (int64_t i = me.from(gn.n); i < me.to(gn.n); i++) settle(i, i);
      me.wait();
      for (int64_t t = to; t-- > from;) apply(t / count, t % count, t / count);
    } else {
      for (int64_t i = me.from(gn.n); i < me.to(gn.n); i++) {
        for (int64_t p = 0; p < count; p++) measure(i, p, (int64_t)me.index, me);
        settle(i, (int64_t)me.index);
        for (int64_t p = count; p-- > 0;) apply(i, p, (int64_t)me.index);
      }
    }
    if (gn.streamed) end_stream();
  });
}

// The moments of groups, from those of their columns.
template <class A>
GB_INLINE Standard<A> join_columns(const Chunks& chunks, const double* sums, int64_t stride,
                                   int64_t c0, int64_t k, double eps) {
  double n = (double)(k * chunks.rows), mean = 0, m2 = 0;
  for (int64_t p = 0; p < chunks.count; p++) {
    double total = 0, rows = (double)(chunks.to(p) - chunks.from(p));
    for (int64_t c = c0; c < c0 + k; c++) total += sums[2 * stride * p + c];
    mean += total * (rows / n);
  }
  for (int64_t p = 0; p < chunks.count; p++) {
    double total = 0, rows = (double)(chunks.to(p) - chunks.from(p));
    for (int64_t c = c0; c < c0 + k; c++) {
      double d = sums[2 * stride * p + c] - mean;
      m2 += sums[2 * stride * p + stride + c];
      total += d * d;
    }
    m2 += total * rows;
  }
  double inverse = 1 / __builtin_sqrt(m2 / n + eps);
  return {(A)mean, (A)inverse, (A)(((double)(A)mean - mean) * inverse)};
}

template <class T, int known, bool residual>
void forward_group_rows(GroupNormForward& gn) {
  using A = C<T>;
  using Word = typename BitWord<A>::type;
  Chunks chunks = chunks_of(gn);
  RowSpaceOfGroups<A> at(gn, chunks.count);
  Epilogue<T, known, residual> epilogue(gn);
  int64_t row = gn.c, slots = (row + kLanes<A> - 1) / kLanes<A>, groups = gn.c / gn.k;
  const T *all_x = (const T*)gn.x, *all_r = residual ? (const T*)gn.residual : all_x;
  auto* stats = (Standard<A>*)gn.stats;

  over_examples(
      gn, at,
      [&](int64_t i, int64_t p, int64_t place, const Worker& me) {
        for (int64_t b = 0; b < chunks.blocks; b++)
          chunk_moments(all_x + i * gn.s * row, row, chunks.from(p), chunks.to(p), chunks.first(b),
                        chunks.last(b), gn.eps, at.sums_of(place, p), at.c,
                        at.guess + at.c * me.index);
      },
      [&](int64_t i, int64_t place) {
        for (int64_t j = 0; j < groups; j++)
          stats[i * groups + j] = join_columns<A>(chunks, at.sums_of(place, 0), at.c, j * gn.k, gn.k, gn.eps);
        set_columns(gn, at.space, stats + i * groups, at.column[place]);
      },
      [&](int64_t i, int64_t p, int64_t place) {
        int64_t o = i * gn.s * row;
        for (int64_t b = 0; b < chunks.blocks; b++)
          apply_rows(epilogue, at.column[place], all_x + o, all_r + o, (T*)gn.y + o,
                     (Word*)gn.bits + i * gn.s * slots, row, slots, chunks.from(p), chunks.to(p),
                     chunks.first(b), chunks.last(b), gn.streamed, Before<residual>{});
      });
}

template <class T, int known, bool residual>
void backward_group_rows(GroupNormBackward& gn) {
  using A = C<T>;
  using Word = typename BitWord<A>::type;
  Chunks chunks = chunks_of(gn);
  RowSpaceOfGroups<A> at(gn, chunks.count);
  Epilogue<T, known, residual> epilogue(gn);
  int64_t row = gn.c, slots = (row + kLanes<A> - 1) / kLanes<A>, groups = gn.c / gn.k;
  const T *all_g = (const T*)gn.g, *all_x = (const T*)gn.x;
  const T* all_r = gn.residual ? (const T*)gn.residual : all_x;
  const auto* stats = (const Standard<A>*)gn.stats;
  GroupSpace& space = at.space;
  if (at.shared)
    for (int64_t i = 0; i < gn.n; i++) set_columns(gn, space, stats + i * groups, at.column[i]);

  over_examples(
      gn, at,
      [&](int64_t i, int64_t p, int64_t place, const Worker&) {
        if (!at.shared && p == 0) set_columns(gn, space, stats + i * groups, at.column[place]);
        int64_t o = i * gn.s * row;
        for (int64_t b = 0; b < chunks.blocks; b++)
          gradient_sums_of_rows(epilogue, at.column[place], all_g + o, all_x + o, all_r + o,
                                (const Word*)gn.bits + i * gn.s * slots, row, slots, chunks.from(p),
                                chunks.to(p), chunks.first(b), chunks.last(b), at.sums_of(place, p),
                                at.c);
      },
      [&](int64_t i, int64_t place) {
        double *gbeta = space.gbeta + i * gn.c, *ggamma = space.ggamma + i * gn.c;
        const Columns<A>& column = at.column[place];
        for (int64_t j = 0; j < groups; j++) {
          const Standard<A>& group = stats[i * groups + j];
          double first = 0, second = 0;
          for (int64_t c = j * gn.k; c < (j + 1) * gn.k; c++) {
            double total = 0, weighted = 0;
            for (int64_t p = 0; p < chunks.count; p++) {
              total += at.sums_of(place, p)[c];
              weighted += at.sums_of(place, p)[at.c + c];
            }
            gbeta[c] = total;
            ggamma[c] = weighted + (double)group.offset * total;
            first += space.gamma[c] * gbeta[c];
            second += space.gamma[c] * ggamma[c];
          }
          GroupSlope<A> slope(group, (double)(gn.k * gn.s), first, second);
          for (int64_t c = j * gn.k; c < (j + 1) * gn.k; c++)
            column.slope[c] = slope.slope, column.level[c] = slope.level;
        }
      },
      [&](int64_t i, int64_t p, int64_t place) {
        if (!gn.gx) return;
        int64_t o = i * gn.s * row;
        for (int64_t b = 0; b < chunks.blocks; b++)
          gradient_rows(epilogue, at.column[place], all_g + o, all_x + o, all_r + o,
                        (const Word*)gn.bits + i * gn.s * slots, (T*)gn.gx + o,
                        gn.gresidual ? (T*)gn.gresidual + o : nullptr, row, slots, chunks.from(p),
                        chunks.to(p), chunks.first(b), chunks.last(b), kAdded, gn.streamed, Before<true>{});
      });
  space.join(gn);
}

}  // namespace
