// The binding.
#include <nanobind/nanobind.h>
#include <pthread.h>

#include <cstring>
#include <new>

#include "call.h"
#include "guard.h"
#include "tensors.h"

namespace nb = nanobind;

namespace {

// Every stride-th float from the start-th on, as bytes.
nb::bytes sample(Address address, int64_t start, int64_t stride, int64_t count) {
  const float* from = static_cast<const float*>(at(address)) + start;
  nb::bytes bytes = nb::steal<nb::bytes>(
      PyBytes_FromStringAndSize(nullptr, static_cast<Py_ssize_t>(count * sizeof(float))));
  if (!bytes.is_valid()) throw std::bad_alloc();
  char* to = PyBytes_AS_STRING(bytes.ptr());
  for (int64_t i = 0; i < count; ++i)
    std::memcpy(to + i * sizeof(float), from + i * stride, sizeof(float));
  return bytes;
}

}  // namespace

NB_MODULE(_native, m) {
  m.doc() = "Normalization kernels for the CPU.";
  nb::set_leak_warnings(false);  // a graph that lives until the process ends is no leak
  pthread_atfork(nullptr, nullptr, [] { g_forked = true; });
  m.def("instruction_sets", instruction_sets, "Those this machine has, the smallest first.");
  m.def("instruction_set", [] { return g_kernels->name; }, "The one in use.");
  m.def("use_instruction_set", use_instruction_set, "Use another; False if it is not there.");
  m.def("tune", [](int64_t serial, int64_t streamed, int64_t width) {
    g_serial_below = serial, g_streamed_above = streamed, g_width = width;
  });
  m.def("exact_workspace", [](bool exact) { g_exact_workspace = exact; },
        "For tests: let each call's workspace end at a page that may not be touched.");
  m.def("at_new_thread", at_new_thread, "Call this once from each thread, before it uses others.");
  m.def("read_tensors", exchange::set_up, "Read torch's tensors directly from now on; whether.");
  m.def("readable", readable, "Whether all are plain tensors on the CPU with values in memory.");
  m.def("batch_norm", batch_norm, nb::arg("x"), nb::arg("residual").none(),
        nb::arg("weight").none(), nb::arg("bias").none(), nb::arg("mean").none(),
        nb::arg("var").none(), nb::arg("batches").none(), nb::arg("activation"), nb::arg("eps"),
        nb::arg("slope"), nb::arg("training"), nb::arg("momentum"), nb::arg("guarded"),
        "A batch norm of tensors; None if they are not as the kernels take them.");
  m.def("sample", sample, "Every stride-th float of memory, as bytes.");
  m.def("remember", remember, "Running statistics before torch's operator updates them.");
  m.def("commit", commit, "Keep that update if it is finite; returns whether.");
  m.def("accept", accept, "Take new statistics over if they are finite; returns whether.");
  nb::class_<Norm>(m, "Norm", "One call of a norm: all but its tensors.")
      .def("__init__",
           [](Norm* norm, int kind, bool rows, int64_t n, int64_t c, int64_t k, int64_t s, int type,
              int parameter_type, int activation, double eps, bool centered, double slope) {
             new (norm) Norm{static_cast<Kind>(kind), rows, n, c, k, s, type, parameter_type,
                             activation, eps, centered, slope};
           })
      .def_ro("activation", &Norm::activation)
      .def_ro("slope", &Norm::slope)
      .def("average", &Norm::average, "Use the batch's statistics, and update the running ones.")
      .def_ro("type", &Norm::type)
      .def_ro("parameter_type", &Norm::parameter_type)
      .def("elements", &Norm::elements)
      .def_ro("channels_last", &Norm::channels_last)
      .def_ro("channels", &Norm::c)
      .def("alone", [](const Norm& norm) {
             Norm other = norm;
             other.average(false, 0, 0, 0, 0, 0, false);
             return other;
           }, "The same, by statistics that are given.")
      .def("of_activation", [](const Norm& norm, int activation) {
             Norm other = norm;
             other.activation = activation;
             return other;
           }, "The same, with another activation.")
      .def("run", run, nb::arg("x"), nb::arg("residual").none(), nb::arg("weight").none(),
           nb::arg("bias").none(), nb::arg("masked"),
           "Make output, statistics and mask; also whether the batch entered the averages.")
      .def("run_back", run_back, nb::arg("g"), nb::arg("x"), nb::arg("residual").none(),
           nb::arg("weight").none(), nb::arg("bias").none(), nb::arg("statistics"),
           nb::arg("mask").none(), nb::arg("needs_x"), nb::arg("needs_residual"),
           "Make the gradients; None if g is not laid out as x.")
      .def("mask_fits", &Norm::mask_fits)
      .def("mask_size", [](const Norm& norm) { return norm.mask_size(); }, "Bytes of the mask that forward fills.")
      .def("forward", &Norm::forward, nb::arg("x"), nb::arg("residual"), nb::arg("weight"),
           nb::arg("bias"), nb::arg("bits"), nb::arg("statistics"), nb::arg("y"),
           nb::arg("slopes") = 0, nb::call_guard<nb::gil_scoped_release>())
      .def("backward", &Norm::backward, nb::arg("x"), nb::arg("residual"), nb::arg("weight"),
           nb::arg("bias"), nb::arg("bits"), nb::arg("statistics"), nb::arg("g"), nb::arg("gx"),
           nb::arg("gresidual"), nb::arg("gweight"), nb::arg("gbias"), nb::arg("slopes") = 0,
           nb::call_guard<nb::gil_scoped_release>());
}
