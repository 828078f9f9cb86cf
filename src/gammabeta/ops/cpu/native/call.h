// One call of a norm, by the addresses and sizes of its tensors: torch is neither included nor linked.
#pragma once

#include <cstring>
#include <type_traits>

#include "machine.h"

namespace {

using Address = uintptr_t;

void* at(Address address) { return reinterpret_cast<void*>(address); }

size_t size_of(int type) { return type == kFloat64 ? 8 : type == kFloat32 ? 4 : 2; }

// Before a bit mask stands which kernels laid it out: others may be in use by the time of backward,
// and could not read it.
constexpr int64_t kMaskHead = 64;

void sign(Address bits, const Kernels* kernels) {
  if (bits) std::memcpy(at(bits), &kernels, sizeof(kernels));
}
const Kernels* signer(Address bits) {
  if (!bits) return g_kernels;
  const Kernels* kernels;
  std::memcpy(&kernels, at(bits), sizeof(kernels));
  return kernels;
}

enum Kind : int { kBatch, kRow, kGroup };

// One call of a norm: all but its tensors. What forward is called with, backward is too.
struct Norm {
  Kind kind;
  bool rows;           // the layout is (n, c) or (n, s, c); else (n, c, s)
  int64_t n, c, k, s;  // a row norm has n rows of c values; k channels make a group
  int type, parameter_type;
  int activation;
  double eps;
  bool centered = true;  // false: RMS norm
  double slope = 0.01;   // of LeakyReLU below 0, and of a PReLU that has but one

  bool channels_last = false;  // whether that is how x came, in more than two dims

  // Of a batch norm: whether the mini-batch's statistics are used, and what they are averaged into.
  bool training = false;
  double momentum = 0;
  int running_type = 0;
  Address running_mean = 0, running_var = 0, batches = 0;
  bool guarded = false;

  void average(bool uses_batch, double weight, int its_type, Address mean, Address var,
               Address count, bool refuses) {
    training = uses_batch;
    momentum = weight, running_type = its_type;
    running_mean = mean, running_var = var, batches = count;
    guarded = refuses;
  }

  int64_t elements() const { return n * c * s; }
  int64_t bytes() const { return elements() * static_cast<int64_t>(size_of(type)); }

  // Bytes of the mask of a ReLU or ReLU6 after a residual, and its head.
  int64_t mask_size(int vector_bytes) const {
    int64_t lanes = vector_bytes / (type == kFloat64 ? 8 : 4);
    int64_t size = rows ? n * s * ((c + lanes - 1) / lanes) : n * c * (s / lanes + 2);
    return kMaskHead + size * (lanes == 16 ? 2 : 1);
  }
  int64_t mask_size() const { return mask_size(g_kernels->lanes); }
  // Whether a mask of so many bytes was made for this call, by any of the kernels.
  bool mask_fits(int64_t size) const {
    for (int i = 0; i < 3; i++)
      if (const Kernels* kernels = usable(i); kernels && mask_size(kernels->lanes) == size)
        return true;
    return false;
  }

  // Whether rows of c values, one after the other, all begin at a multiple of 64 bytes.
  bool aligned_rows() const { return c * static_cast<int64_t>(size_of(type)) % 64 == 0; }

  void sizes(BatchNorm& bn) const {
    bn.rows = rows;
    bn.n = n, bn.c = c, bn.s = s;
    bn.width = g_width;
    bn.streamed = !rows || aligned_rows();
  }
  void sizes(RowNorm& ln) const {
    ln.rows = n, ln.d = c;
    ln.centered = centered;
    ln.streamed = aligned_rows();
  }
  void sizes(GroupNorm& gn) const {
    gn.rows = rows;
    gn.n = n, gn.c = c, gn.k = k, gn.s = s;
    gn.streamed = !rows || aligned_rows();
  }

  // What all kernels are told.
  template <class Work>
  Work work(Address x, Address residual, Address gamma, Address beta, Address bits, Address stats,
            Address written, Address also_written, Address slopes) const {
    Work w{};
    sizes(w);
    w.type = static_cast<Type>(type);
    w.parameter_type = static_cast<Type>(parameter_type);
    w.activation = activation;
    w.slope = slope;
    if constexpr (!std::is_base_of_v<RowNorm, Work>) w.slopes = at(slopes);
    w.x = at(x), w.residual = at(residual), w.gamma = at(gamma), w.beta = at(beta);
    w.bits = bits ? at(bits + kMaskHead) : nullptr;
    w.stats = static_cast<decltype(w.stats)>(at(stats));
    w.workspace = workspace;
    w.threads = threads_for(elements());
    w.streamed = w.streamed && bytes() >= g_streamed_above && written % 64 == 0 &&
                 also_written % 64 == 0;
    return w;
  }

  // Whether the batch entered the running statistics.
  bool forward(Address x, Address residual, Address gamma, Address beta, Address bits,
               Address stats, Address y, Address slopes = 0) const {
    const Kernels* kernels = g_kernels;
    sign(bits, kernels);
    auto run = [&](auto w, auto kernel) {
      w.y = at(y);
      w.eps = eps;
      (kernels->*kernel)(w);
    };
    if (kind == kRow) {
      run(work<RowNormForward>(x, residual, gamma, beta, bits, stats, y, 0, slopes),
          &Kernels::row_norm_forward);
    } else if (kind == kGroup) {
      run(work<GroupNormForward>(x, residual, gamma, beta, bits, stats, y, 0, slopes),
          &Kernels::group_norm_forward);
    } else {
      auto bn = work<BatchNormForward>(x, residual, gamma, beta, bits, stats, y, 0, slopes);
      bn.y = at(y);
      bn.eps = eps;
      bn.training = training;
      bn.streamed = bn.streamed && training;  // in evaluation what comes next reads it at once
      bn.momentum = momentum;
      bn.running_type = static_cast<Type>(running_type);
      bn.running_mean = at(running_mean), bn.running_var = at(running_var);
      bn.batches = static_cast<int64_t*>(at(batches));
      bn.guarded = guarded;
      kernels->batch_norm_forward(bn);
      return !bn.refused;
    }
    return true;
  }

  void backward(Address x, Address residual, Address gamma, Address beta, Address bits,
                Address stats, Address g, Address gx, Address gresidual, Address ggamma,
                Address gbeta, Address slopes = 0) const {
    const Kernels* kernels = signer(bits);
    auto run = [&](auto w, auto kernel) {
      w.g = at(g), w.gx = at(gx), w.gresidual = at(gresidual);
      w.ggamma = at(ggamma), w.gbeta = at(gbeta);
      if constexpr (std::is_same_v<decltype(w), BatchNormBackward>) w.training = training;
      (kernels->*kernel)(w);
    };
    if (kind == kRow)
      run(work<RowNormBackward>(x, residual, gamma, beta, bits, stats, gx, gresidual, slopes),
          &Kernels::row_norm_backward);
    else if (kind == kGroup)
      run(work<GroupNormBackward>(x, residual, gamma, beta, bits, stats, gx, gresidual, slopes),
          &Kernels::group_norm_backward);
    else
      run(work<BatchNormBackward>(x, residual, gamma, beta, bits, stats, gx, gresidual, slopes),
          &Kernels::batch_norm_backward);
  }
};

}  // namespace
