// Every kernel, for the instruction set that this file is compiled for: once each, with
// -DGB_KERNELS=<table> and the flags that go with it.
#include "batch_norm_folded.h"
#include "group_norm_planes.h"
#include "group_norm_rows.h"
#include "row_norm.h"

namespace {

// Types and instruction sets that are there to be right rather than fast look every activation up:
// each kernel compiled for one of its own takes a second.
template <class T>
constexpr bool kTuned = kVectorBytes > 16 && sizeof(T) <= sizeof(C<T>) && sizeof(C<T>) == 4;
template <>
constexpr bool kTuned<float16> = false;

// Call f<T, known, residual>() for the arguments' type, activation and residual.
template <class T, class Norm, class F>
void with_tail(const Norm& bn, bool residual, F&& f) {
  bool is_relu = bn.activation == kReLU || bn.activation == kReLU6;
  if constexpr (kTuned<T>) {
    if (bn.activation == kNone && residual) return f.template operator()<T, kKnownNone, true>();
    if (bn.activation == kNone) return f.template operator()<T, kKnownNone, false>();
    if (is_relu && !residual) return f.template operator()<T, kKnownReLU, false>();
  }
  // With its bit mask a ReLU after a residual is a case of its own.
  if (is_relu && residual) return f.template operator()<T, kKnownReLU, true>();
  if (residual) return f.template operator()<T, kLookedUp, true>();
  return f.template operator()<T, kLookedUp, false>();
}
template <class Norm, class F>
void with_type(const Norm& bn, bool residual, F&& f) {
  switch (bn.type) {
    case kFloat32: return with_tail<float>(bn, residual, f);
    case kBFloat16: return with_tail<bfloat16>(bn, residual, f);
    case kFloat16: return with_tail<float16>(bn, residual, f);
    case kFloat64: return with_tail<double>(bn, residual, f);
  }
}

struct Forward {
  BatchNormForward& bn;
  template <class T, int known, bool residual>
  void operator()() const {
    if (bn.rows)
      forward_rows<T, known, residual>(bn);
    else if (folds(bn))
      forward_folded<T, known, residual>(bn);
    else
      forward_planes<T, known, residual>(bn);
  }
};
struct Backward {
  BatchNormBackward& bn;
  template <class T, int known, bool residual>
  void operator()() const {
    if (bn.rows)
      backward_rows<T, known, residual>(bn);
    else if (folds(bn))
      backward_folded<T, known, residual>(bn);
    else
      backward_planes<T, known, residual>(bn);
  }
};

void batch_norm_forward(BatchNormForward& bn) {
  with_type(bn, bn.residual != nullptr, Forward{bn});
}
void batch_norm_backward(BatchNormBackward& bn) {
  with_type(bn, bn.residual != nullptr || bn.bits != nullptr, Backward{bn});
}

struct RowForward {
  RowNormForward& ln;
  template <class T, int known, bool residual>
  void operator()() const {
    forward_row_norm<T, known, residual>(ln);
  }
};
struct RowBackward {
  RowNormBackward& ln;
  template <class T, int known, bool residual>
  void operator()() const {
    backward_row_norm<T, known, residual>(ln);
  }
};

void row_norm_forward(RowNormForward& ln) {
  with_type(ln, ln.residual != nullptr, RowForward{ln});
}
void row_norm_backward(RowNormBackward& ln) {
  with_type(ln, ln.residual != nullptr || ln.bits != nullptr, RowBackward{ln});
}

struct GroupForward {
  GroupNormForward& gn;
  template <class T, int known, bool residual>
  void operator()() const {
    gn.rows ? forward_group_rows<T, known, residual>(gn) : forward_group_planes<T, known, residual>(gn);
  }
};
struct GroupBackward {
  GroupNormBackward& gn;
  template <class T, int known, bool residual>
  void operator()() const {
    gn.rows ? backward_group_rows<T, known, residual>(gn) : backward_group_planes<T, known, residual>(gn);
  }
};

void group_norm_forward(GroupNormForward& gn) {
  with_type(gn, gn.residual != nullptr, GroupForward{gn});
}
void group_norm_backward(GroupNormBackward& gn) {
  with_type(gn, gn.residual != nullptr || gn.bits != nullptr, GroupBackward{gn});
}

}  // namespace

#define GB_TEXT_(x) #x
#define GB_TEXT(x) GB_TEXT_(x)
const Kernels GB_KERNELS = {GB_TEXT(GB_NAME), kVectorBytes,
                            batch_norm_forward, batch_norm_backward,
                            row_norm_forward, row_norm_backward,
                            group_norm_forward, group_norm_backward};
