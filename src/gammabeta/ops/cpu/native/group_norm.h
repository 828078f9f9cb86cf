// Group norm, and instance norm: what is common to both layouts. An example's c channels come in
// groups of k; a group is normalized over its channels and their s positions, and γ and β are (c,).
#pragma once

#include "standardize.h"

namespace {

// What maps one channel of a group whose statistics are `group`: as the layer does, for the
// epilogue, in numbers that forward and backward pass make alike.
template <class A>
struct ChannelMap {
  A shift, scale, offset;
  ChannelMap(const Standard<A>& group, double gamma, double beta)
      : shift(group.shift),
        scale((A)(gamma * (double)group.inverse)),
        offset((A)(beta + gamma * (double)group.offset)) {}
  GB_INLINE Affine<A> affine() const { return {splat(shift), splat(scale), splat(offset)}; }
};

// gx = g·scale + (x − shift)·slope + level: how a group's gradient depends on x, from the sums over
// the group of γ g and of γ g x̂.
template <class A>
struct GroupSlope {
  A slope, level;
  GroupSlope(const Standard<A>& group, double n, double first, double second) {
    double inverse = group.inverse, by_normal = -inverse * second / n;
    slope = (A)(by_normal * inverse);
    level = (A)(by_normal * (double)group.offset - inverse * first / n);
  }
};

// γ, β and the activation's slopes below 0 in double; the channels' gradients of both for every example, joined at the end.
struct GroupSpace {
  double *gamma, *beta, *below, *gbeta, *ggamma;
  char* rest;  // `more` bytes

  GroupSpace(const GroupNorm& gn, size_t more) {
    Scratch scratch{nullptr};
    lay_out(gn, more, scratch);
    scratch = {gn.workspace(scratch.used)};
    lay_out(gn, more, scratch);
    get_numbers(gamma, gn.gamma, gn.parameter_type, gn.c, 1);
    get_numbers(beta, gn.beta, gn.parameter_type, gn.c, 0);
    set_slopes(below, gn);
  }
  // Over the examples, in their order, whoever computed them.
  void join(const GroupNormBackward& gn) {
    for (int64_t i = 1; i < gn.n; i++)
#pragma GCC ivdep
      for (int64_t c = 0; c < gn.c; c++)
        gbeta[c] += gbeta[i * gn.c + c], ggamma[c] += ggamma[i * gn.c + c];
    set_numbers(gn.gbeta, gn.parameter_type, gbeta, gn.c);
    set_numbers(gn.ggamma, gn.parameter_type, ggamma, gn.c);
  }

 private:
  void lay_out(const GroupNorm& gn, size_t more, Scratch& scratch) {
    gamma = scratch.take<double>(gn.c);
    beta = scratch.take<double>(gn.c);
    below = scratch.take<double>(gn.c);
    gbeta = scratch.take<double>(gn.n * gn.c);
    ggamma = scratch.take<double>(gn.n * gn.c);
    rest = scratch.take<char>((int64_t)more);
  }
};

}  // namespace
