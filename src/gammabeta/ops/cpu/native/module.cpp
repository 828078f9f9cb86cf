// The binding: addresses and sizes come in as numbers, since torch is neither included nor linked.
#include <nanobind/nanobind.h>
#include <pthread.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cmath>
#include <cstdlib>
#include <cstring>
#include <new>
#include <type_traits>

#if defined(_OPENMP)
#include <omp.h>
#endif

#include "exchange.h"
#include "table.h"

namespace nb = nanobind;

namespace {

using Address = uintptr_t;

// ---- instruction sets ---------------------------------------------------------------------------

const Kernels* usable(int i) {
#if defined(__x86_64__) && !defined(GB_BASELINE_ALONE)
  if (i == 2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
      __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq"))
    return &kKernelsAVX512;
  if (i == 1 && __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma"))
    return &kKernelsAVX2;
#endif
  return i == 0 ? &kKernelsBaseline : nullptr;
}
const Kernels* best() {
  for (int i = 2; i > 0; i--)
    if (const Kernels* kernels = usable(i)) return kernels;
  return usable(0);
}
const Kernels* g_kernels = best();

nb::list instruction_sets() {
  nb::list names;
  for (int i = 0; i < 3; i++)
    if (const Kernels* kernels = usable(i)) names.append(kernels->name);
  return names;
}
bool use_instruction_set(const char* name) {
  for (int i = 0; i < 3; i++)
    if (const Kernels* kernels = usable(i); kernels && !std::strcmp(kernels->name, name)) {
      g_kernels = kernels;
      return true;
    }
  return false;
}

// ---- threads --------------------------------------------------------------------------------------

// A forked child has none of its parent's OpenMP threads, and would wait for them for ever.
bool g_forked = false;
int64_t g_serial_below = 32768;  // elements: waking a thread costs more than it saves
int64_t g_streamed_above = 8 << 20;  // bytes
int64_t g_width = 0;

// Called once by each thread before it uses others.
PyObject* g_at_new_thread = nullptr;

void at_new_thread(nb::callable f) { g_at_new_thread = f.release().ptr(); }
void meet_thread() {
  thread_local bool met = false;
  if (met || !g_at_new_thread) return;
  met = true;
  nb::gil_scoped_acquire gil;
  nb::handle f(g_at_new_thread);
  f();
}

int threads_for(int64_t elements) {
#if defined(_OPENMP)
  if (elements >= g_serial_below && !g_forked) {
    meet_thread();
    return omp_get_max_threads();
  }
#endif
  return 1;
}

// One block of memory a Python thread, kept between calls.
struct Workspace {
  char* memory = nullptr;
  size_t size = 0;
  ~Workspace() { std::free(memory); }
};

// For tests: a block of the exact size for each call, which ends at a page that may not be touched.
bool g_exact_workspace = false;
struct ExactWorkspace {
  char* pages = nullptr;
  size_t size = 0;
  ~ExactWorkspace() { release(); }
  void release() {
    if (pages) munmap(pages, size);
    pages = nullptr;
  }
  char* take(size_t bytes) {
    size_t page = static_cast<size_t>(sysconf(_SC_PAGESIZE));
    size_t room = (bytes + page - 1) / page * page;
    release();
    size = room + page;
    void* p = mmap(nullptr, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (p == MAP_FAILED) throw std::bad_alloc();
    pages = static_cast<char*>(p);
    if (mprotect(pages + room, page, PROT_NONE)) throw std::bad_alloc();
    return pages + room - bytes;
  }
};

char* workspace(size_t size) {
  if (g_exact_workspace) {
    thread_local ExactWorkspace exact;
    return exact.take(size);
  }
  thread_local Workspace space;
  if (space.size < size) {
    std::free(space.memory);
    space.size = (size + size / 2 + 4095) / 4096 * 4096;
    space.memory = static_cast<char*>(std::aligned_alloc(4096, space.size));
    if (!space.memory) {
      space.size = 0;
      throw std::bad_alloc();
    }
  }
  return space.memory;
}

// ---- one call of a norm -----------------------------------------------------------------------------------

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
  double slope = 0.01;   // of LeakyReLU below 0

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
            Address written, Address also_written) const {
    Work w{};
    sizes(w);
    w.type = static_cast<Type>(type);
    w.parameter_type = static_cast<Type>(parameter_type);
    w.activation = activation;
    w.slope = slope;
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
               Address stats, Address y) const {
    const Kernels* kernels = g_kernels;
    sign(bits, kernels);
    auto run = [&](auto w, auto kernel) {
      w.y = at(y);
      w.eps = eps;
      (kernels->*kernel)(w);
    };
    if (kind == kRow) {
      run(work<RowNormForward>(x, residual, gamma, beta, bits, stats, y, 0),
          &Kernels::row_norm_forward);
    } else if (kind == kGroup) {
      run(work<GroupNormForward>(x, residual, gamma, beta, bits, stats, y, 0),
          &Kernels::group_norm_forward);
    } else {
      auto bn = work<BatchNormForward>(x, residual, gamma, beta, bits, stats, y, 0);
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
                Address gbeta) const {
    const Kernels* kernels = signer(bits);
    auto run = [&](auto w, auto kernel) {
      w.g = at(g), w.gx = at(gx), w.gresidual = at(gresidual);
      w.ggamma = at(ggamma), w.gbeta = at(gbeta);
      if constexpr (std::is_same_v<decltype(w), BatchNormBackward>) w.training = training;
      (kernels->*kernel)(w);
    };
    if (kind == kRow)
      run(work<RowNormBackward>(x, residual, gamma, beta, bits, stats, gx, gresidual),
          &Kernels::row_norm_backward);
    else if (kind == kGroup)
      run(work<GroupNormBackward>(x, residual, gamma, beta, bits, stats, gx, gresidual),
          &Kernels::group_norm_backward);
    else
      run(work<BatchNormBackward>(x, residual, gamma, beta, bits, stats, gx, gresidual),
          &Kernels::batch_norm_backward);
  }
};

// ---- a batch norm of torch's tensors as they are ---------------------------------------------------

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

// ---- the guard, where torch's operator updates the running statistics ------------------------------

template <class Bits>
bool finite(const void* values, int64_t n, Bits exponent) {
  const Bits* bits = static_cast<const Bits*>(values);
  Bits bad = 0;
  for (int64_t i = 0; i < n; i++) bad |= (bits[i] & exponent) == exponent;
  return !bad;
}
bool all_finite(const void* values, int64_t n, int type) {
  switch (type) {
    case kFloat32: return finite<uint32_t>(values, n, 0x7f800000u);
    case kBFloat16: return finite<uint16_t>(values, n, 0x7f80);
    case kFloat16: return finite<uint16_t>(values, n, 0x7c00);
    default: return finite<uint64_t>(values, n, 0x7ff0000000000000u);
  }
}

// The statistics as they are before an update.
nb::bytes remember(Address mean, Address var, int64_t c, int type) {
  size_t size = static_cast<size_t>(c) * size_of(type);
  PyObject* kept = PyBytes_FromStringAndSize(nullptr, static_cast<Py_ssize_t>(2 * size));
  if (!kept) throw nb::python_error();
  char* to = PyBytes_AS_STRING(kept);
  std::memcpy(to, at(mean), size);
  std::memcpy(to + size, at(var), size);
  return nb::steal<nb::bytes>(kept);
}

// Count the batch if its update is finite; else put back what was there.
bool commit(Address mean, Address var, int64_t c, int type, nb::bytes kept, Address batches) {
  size_t size = static_cast<size_t>(c) * size_of(type);
  if (all_finite(at(mean), c, type) && all_finite(at(var), c, type)) {
    if (batches) ++*static_cast<int64_t*>(at(batches));
    return true;
  }
  std::memcpy(at(mean), kept.c_str(), size);
  std::memcpy(at(var), kept.c_str() + size, size);
  return false;
}

// Take new statistics over if they are finite; count the batch as entered or refused.
bool accept(Address new_mean, Address new_var, Address mean, Address var, int64_t c, int type,
            Address batches, Address refused) {
  size_t size = static_cast<size_t>(c) * size_of(type);
  bool entered = all_finite(at(new_mean), c, type) && all_finite(at(new_var), c, type);
  if (entered) {
    std::memcpy(at(mean), at(new_mean), size);
    std::memcpy(at(var), at(new_var), size);
  }
  if (Address count = entered ? batches : refused) ++*static_cast<int64_t*>(at(count));
  return entered;
}

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
      .def("run", run, nb::arg("x"), nb::arg("residual").none(), nb::arg("weight").none(),
           nb::arg("bias").none(), nb::arg("masked"),
           "Make output, statistics and mask; also whether the batch entered the averages.")
      .def("run_back", run_back, nb::arg("g"), nb::arg("x"), nb::arg("residual").none(),
           nb::arg("weight").none(), nb::arg("bias").none(), nb::arg("statistics"),
           nb::arg("mask").none(), nb::arg("needs_x"), nb::arg("needs_residual"),
           "Make the gradients; None if g is not laid out as x.")
      .def("mask_fits", &Norm::mask_fits)
      .def("mask_size", [](const Norm& norm) { return norm.mask_size(); }, "Bytes of the mask that forward fills.")
      .def("forward", &Norm::forward, nb::call_guard<nb::gil_scoped_release>())
      .def("backward", &Norm::backward, nb::call_guard<nb::gil_scoped_release>());
}
