// Group norm of planes, (N, C, S): a group is one stretch of memory, made of a plane a channel.
#pragma once

#include "group_norm.h"

namespace {

// Whether there are too few groups for each thread to finish its own: then they share the planes.
GB_INLINE bool shares_groups(const GroupNorm& gn) {
  int64_t groups = gn.n * (gn.c / gn.k);
  return gn.threads > 1 && groups < 8 * gn.threads && groups % gn.threads;
}

template <class T, int known, bool residual>
void forward_group_planes(GroupNormForward& gn) {
  using A = C<T>;
  using Word = typename BitWord<A>::type;
  int64_t s = gn.s, k = gn.k, per_example = gn.c / k, slots = slots_of_stretch<A>(s);
  GroupSpace space(gn, 0);
  Epilogue<T, known, residual> epilogue(gn);
  const T *x = (const T*)gn.x, *r = residual ? (const T*)gn.residual : x;
  T* y = (T*)gn.y;
  Word* bits = (Word*)gn.bits;
  auto* stats = (Standard<A>*)gn.stats;
  bool streamed = gn.streamed && s >= kAligned;

  auto measure = [&](int64_t group) {
    stats[group] = standardize(x + group * k * s, k * s, true, gn.eps);
  };
  auto apply_planes = [&](int64_t from, int64_t to) {
    for (int64_t p = from; p < to; p++) {
      ChannelMap<A> map(stats[p / k], space.gamma[p % gn.c], space.beta[p % gn.c]);
      int64_t o = p * s;
      apply(epilogue.of_channel((A)space.below[p % gn.c]), map.affine(), x + o, r + o, y + o, bits, s, head_of<A>(o, s), p * slots,
            streamed, s);
    }
  };

  as_team(gn.threads, [&](Worker me) {
    int64_t groups = gn.n * per_example;
    if (shares_groups(gn)) {
      for (int64_t i = me.from(groups); i < me.to(groups); i++) measure(i);
      me.wait();
      apply_planes(me.from(groups * k), me.to(groups * k));
    } else {
      for (int64_t i = me.from(groups); i < me.to(groups); i++) {
        measure(i);
        apply_planes(i * k, (i + 1) * k);
      }
    }
    if (gn.streamed) end_stream();
  });
}

template <class T, int known, bool residual>
void backward_group_planes(GroupNormBackward& gn) {
  using A = C<T>;
  using Word = typename BitWord<A>::type;
  int64_t s = gn.s, k = gn.k, per_example = gn.c / k, slots = slots_of_stretch<A>(s);
  GroupSpace space(gn, 0);
  Epilogue<T, known, residual> epilogue(gn);
  const T *g = (const T*)gn.g, *x = (const T*)gn.x;
  const T* r = gn.residual ? (const T*)gn.residual : x;
  T *gx = (T*)gn.gx, *gr = (T*)gn.gresidual;
  const Word* bits = (const Word*)gn.bits;
  const auto* stats = (const Standard<A>*)gn.stats;
  bool streamed = gn.streamed && s >= kAligned;

  // Σ g and Σ g·x̂ of planes, blocks of them added up in double.
  auto measure = [&](int64_t from, int64_t to) {
    for (int64_t p = from; p < to; p++) {
      const Standard<A>& group = stats[p / k];
      auto its = epilogue.of_channel((A)space.below[p % gn.c]);
      Affine<A> affine = ChannelMap<A>(group, space.gamma[p % gn.c], space.beta[p % gn.c]).affine();
      V<A> inverse = splat(group.inverse);
      double total = 0, weighted = 0;
      int head = head_of<A>(p * s, s);
      for (int64_t i = 0; i < s;) {
        int64_t more = Blocks::kSize + (i ? 0 : head);
        if (more > s - i) more = s - i;
        int64_t o = p * s + i, slot = p * slots + (i ? (head > 0) + i / kLanes<A> : 0);
        GradientSum<T> sums;
        double more_of[2];
        gradient_sums(its, affine, inverse, g + o, x + o, r + o, bits, more, i ? 0 : head, slot,
                      sums);
        sums.totals(group.shift, group.inverse, more_of);
        total += more_of[0];
        weighted += more_of[1];
        i += more;
      }
      space.gbeta[p] = total;
      space.ggamma[p] = weighted + (double)group.offset * total;
    }
  };
  auto slope_of = [&](int64_t group) {
    double first = 0, second = 0;
    for (int64_t p = group * k; p < (group + 1) * k; p++) {
      first += space.gamma[p % gn.c] * space.gbeta[p];
      second += space.gamma[p % gn.c] * space.ggamma[p];
    }
    return GroupSlope<A>(stats[group], (double)(k * s), first, second);
  };
  auto apply_planes = [&](int64_t from, int64_t to) {
    GroupSlope<A> slope = slope_of(from / k);
    for (int64_t p = from; p < to; p++) {
      if (p % k == 0 && p > from) slope = slope_of(p / k);
      ChannelMap<A> map(stats[p / k], space.gamma[p % gn.c], space.beta[p % gn.c]);
      int64_t o = p * s;
      gradient(epilogue.of_channel((A)space.below[p % gn.c]), map.affine(), splat(slope.slope), splat(slope.level), g + o, x + o, r + o,
               bits, gx + o, gr ? gr + o : gr, s, head_of<A>(o, s), p * slots, kAdded, streamed, s);
    }
  };

  as_team(gn.threads, [&](Worker me) {
    int64_t groups = gn.n * per_example;
    if (shares_groups(gn)) {
      int64_t from = me.from(groups * k), to = me.to(groups * k);
      measure(from, to);
      me.wait();
      if (gx && from < to) apply_planes(from, to);
    } else {
      for (int64_t i = me.from(groups); i < me.to(groups); i++) {
        measure(i * k, (i + 1) * k);
        if (gx) apply_planes(i * k, (i + 1) * k);
      }
    }
    if (gn.streamed) end_stream();
  });
  space.join(gn);
}

}  // namespace
