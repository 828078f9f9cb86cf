// A batch norm of torch's tensors as they are, read by their own interface.
#pragma once

#include <cmath>

#include "call.h"
#include "exchange.h"

namespace {

using exchange::View;

// The type of two parameters of c values each, -1 where they are not as the kernels take them.
int common_type(const View& x, nb::handle one, nb::handle other, int64_t c, Address* addresses) {
  int type = -1;
  nb::handle both[] = {one, other};
  for (int i = 0; i < 2; i++) {
    addresses[i] = 0;
    if (both[i].is_none()) continue;
    View v;
    if (!exchange::read(both[i], v) || v.type < 0 || v.t.dims != 1 || v.t.shape[0] != c ||
        !v.dense(false) || (type >= 0 && v.type != type))
      return -1;
    type = v.type;
    addresses[i] = v.address();
  }
  if (type < 0) return x.type;
  return type == x.type || (type == kFloat32 && x.type != kFloat64) ? type : -1;
}

bool is_there(nb::handle object) { return !object.is_none(); }

// A batch norm of x, or None where the kernels do not take its tensors as they are.
nb::object batch_norm(nb::handle x_, nb::handle residual, nb::handle weight, nb::handle bias,
                      nb::handle mean, nb::handle var, nb::handle batches, int activation,
                      double eps, double slope, bool training, double momentum, bool guarded) {
  View x;
  if (!exchange::read(x_, x) || x.type < 0 || x.t.dims < 2) return nb::none();
  int64_t elements = x.numel(), n = x.t.shape[0], c = x.t.shape[1];
  if (!elements || !(eps > 0) || std::isinf(eps) || std::isinf(momentum)) return nb::none();
  Norm norm{kBatch, true, n, c, 1, 1, x.type, 0, activation, eps, true, slope};
  bool last = false;
  if (x.t.dims == 2) {
    if (!x.dense(false)) return nb::none();
  } else if (x.dense(false)) {
    norm.rows = false;
    norm.s = elements / (n * c);
  } else if (x.dense(true)) {
    norm.n = elements / c;
    last = true;
  } else {
    return nb::none();
  }
  norm.channels_last = last;
  if (is_there(residual)) {
    View r;
    if (!exchange::read(residual, r) || r.type != x.type || !r.same_shape(x) || !r.dense(last))
      return nb::none();
  }
  Address parameters[2], running[2], count = 0;
  norm.parameter_type = common_type(x, weight, bias, c, parameters);
  int running_type = common_type(x, mean, var, c, running);
  if (norm.parameter_type < 0 || running_type < 0 || is_there(mean) != is_there(var) ||
      (training && elements / c < 2))
    return nb::none();
  if (is_there(batches)) {
    View v;
    if (!exchange::read(batches, v) || v.type != -2 || v.numel() != 1) return nb::none();
    count = v.address();
  }
  norm.average(training, momentum, running_type, running[0], running[1], count, guarded);
  return nb::cast(norm);
}

// Whether all are plain tensors on the CPU with values in memory; None is one, too.
bool readable(nb::args tensors) {
  for (nb::handle tensor : tensors) {
    View v;
    if (is_there(tensor) && !exchange::read(tensor, v, false)) return false;
  }
  return true;
}

// The output, the statistics, the mask, and whether the batch entered the running statistics.
nb::tuple run(const Norm& norm, nb::handle x_, nb::handle residual, nb::handle weight,
              nb::handle bias, bool masked) {
  View x, r, y;
  Address parameters[2], stats, bits = 0;
  if (!exchange::read(x_, x, false)) throw nb::value_error("the input's memory was freed");
  common_type(x, weight, bias, norm.c, parameters);
  if (is_there(residual) && !exchange::read(residual, r, false))
    throw nb::value_error("the residual's memory was freed");
  nb::object output = exchange::empty_like(x_, y);
  nb::object statistics = exchange::empty(2 * norm.c, kFloat64, stats);
  nb::object mask = nb::none();
  if (masked && is_there(residual)) mask = exchange::empty(norm.mask_size(), 4, bits);
  bool entered;
  {
    nb::gil_scoped_release others_may_run;
    entered = norm.forward(x.address(), is_there(residual) ? r.address() : 0, parameters[0],
                           parameters[1], bits, stats, y.address());
  }
  return nb::make_tuple(output, statistics, mask, entered);
}

// The gradients of x, weight, bias and residual; None where g is not laid out as x.
nb::object run_back(const Norm& norm, nb::handle g_, nb::handle x_, nb::handle residual,
                    nb::handle weight, nb::handle bias, nb::handle statistics, nb::handle mask,
                    bool needs_x, bool needs_residual) {
  View g, x, r, stats, made;
  bool last = norm.channels_last;
  if (!exchange::read(g_, g) || !exchange::read(x_, x) || g.type != x.type || x.type != norm.type ||
      !g.same_shape(x) || !g.dense(last) || !x.dense(last) || x.numel() != norm.elements() ||
      !exchange::read(statistics, stats, false) || stats.type != kFloat64 ||
      stats.numel() != 2 * norm.c || !stats.dense(false))
    return nb::none();
  if (is_there(residual) && (!exchange::read(residual, r) || r.type != x.type ||
                             !r.same_shape(x) || !r.dense(last)))
    return nb::none();
  Address parameters[2], bits = 0, gweight = 0, gbias = 0, gx = 0, gresidual = 0;
  if (common_type(x, weight, bias, norm.c, parameters) != norm.parameter_type) return nb::none();
  if (is_there(mask)) {
    exchange::Tensor t;
    if (exchange::g_interface->read(mask.ptr(), &t)) throw nb::python_error();
    if (t.dtype.code != 1 || t.dtype.bits != 8 || t.dims != 1 || !norm.mask_fits(t.shape[0]))
      return nb::none();
    bits = reinterpret_cast<Address>(t.data) + t.byte_offset;
  }
  nb::object of[4] = {nb::none(), nb::none(), nb::none(), nb::none()};
  auto make = [&](int i, nb::handle like, Address& address) {
    of[i] = exchange::empty_like(like, made);
    address = made.address();
  };
  if (is_there(weight)) make(1, weight, gweight);
  if (is_there(bias)) make(2, bias, gbias);
  if (needs_residual && norm.activation) make(3, x_, gresidual);
  // One loop writes both, and gx where it goes.
  if (needs_x || gresidual) make(0, x_, gx);
  {
    nb::gil_scoped_release others_may_run;
    norm.backward(x.address(), is_there(residual) ? r.address() : 0, parameters[0], parameters[1],
                  bits, stats.address(), g.address(), gx, gresidual, gweight, gbias);
  }
  if (!needs_x) of[0] = nb::none();
  if (needs_residual && !norm.activation) of[3] = nb::borrow(g_);
  return nb::make_tuple(of[0], of[1], of[2], of[3]);
}

}  // namespace
