// The binding: addresses and sizes come in as numbers, since torch is neither included nor linked.
#include <nanobind/nanobind.h>
#include <pthread.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cstdlib>
#include <cstring>
#include <new>

#if defined(_OPENMP)
#include <omp.h>
#endif

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

// ---- batch norm -----------------------------------------------------------------------------------

void* at(Address address) { return reinterpret_cast<void*>(address); }

size_t size_of(int type) { return type == kFloat64 ? 8 : type == kFloat32 ? 4 : 2; }

// Before a bit mask stands which kernels laid it out: others may be in use by the time of backward,
// and could not read it.
constexpr int64_t kMaskHead = 64;

// Bytes of the bit mask of (n, c, s), and its head.
int64_t bits_size(bool rows, int64_t n, int64_t c, int64_t s, int type) {
  int64_t lanes = g_kernels->lanes / (type == kFloat64 ? 8 : 4);
  int64_t size = rows ? n * ((c + lanes - 1) / lanes) : n * c * (s / lanes + 2);
  return kMaskHead + size * (lanes == 16 ? 2 : 1);
}
void sign(Address bits, const Kernels* kernels) {
  if (bits) std::memcpy(at(bits), &kernels, sizeof(kernels));
}
const Kernels* signer(Address bits) {
  if (!bits) return g_kernels;
  const Kernels* kernels;
  std::memcpy(&kernels, at(bits), sizeof(kernels));
  return kernels;
}

void set(BatchNorm& bn, bool rows, int64_t n, int64_t c, int64_t s, int type, int parameter_type,
         int activation, Address x, Address residual, Address gamma, Address beta, Address bits,
         Address stats) {
  bn.rows = rows;
  bn.n = n, bn.c = c, bn.s = s;
  bn.type = static_cast<Type>(type);
  bn.parameter_type = static_cast<Type>(parameter_type);
  bn.activation = activation;
  bn.x = at(x), bn.residual = at(residual), bn.gamma = at(gamma), bn.beta = at(beta);
  bn.bits = bits ? at(bits + kMaskHead) : nullptr, bn.stats = static_cast<double*>(at(stats));
  bn.workspace = workspace;
  bn.threads = threads_for(n * c * s);
  int64_t bytes = n * c * s * static_cast<int64_t>(size_of(type));
  bn.streamed = bytes >= g_streamed_above;
  bn.width = g_width;
}

bool forward(bool rows, int64_t n, int64_t c, int64_t s, int type, int parameter_type,
             int activation, Address x, Address residual, Address gamma, Address beta, Address bits,
             Address stats, Address y, bool training, double momentum, double eps, int running_type,
             Address running_mean, Address running_var, Address batches, bool guarded) {
  BatchNormForward bn{};
  set(bn, rows, n, c, s, type, parameter_type, activation, x, residual, gamma, beta, bits, stats);
  bn.y = at(y);
  bn.training = training;
  bn.momentum = momentum, bn.eps = eps;
  bn.running_type = static_cast<Type>(running_type);
  bn.running_mean = at(running_mean), bn.running_var = at(running_var);
  bn.batches = static_cast<int64_t*>(at(batches));
  bn.guarded = guarded;
  bn.streamed = bn.streamed && y % 64 == 0 && (!rows || c * size_of(type) % 64 == 0);
  const Kernels* kernels = g_kernels;
  sign(bits, kernels);
  kernels->batch_norm_forward(bn);
  return !bn.refused;
}

void backward(bool rows, int64_t n, int64_t c, int64_t s, int type, int parameter_type,
              int activation, Address x, Address residual, Address gamma, Address beta,
              Address bits, Address stats, Address g, Address gx, Address gresidual,
              Address ggamma, Address gbeta, bool training) {
  BatchNormBackward bn{};
  set(bn, rows, n, c, s, type, parameter_type, activation, x, residual, gamma, beta, bits, stats);
  bn.training = training;
  bn.g = at(g), bn.gx = at(gx), bn.gresidual = at(gresidual);
  bn.ggamma = at(ggamma), bn.gbeta = at(gbeta);
  bn.streamed = bn.streamed && gx % 64 == 0 && gresidual % 64 == 0 &&
                (!rows || c * size_of(type) % 64 == 0);
  signer(bits)->batch_norm_backward(bn);
}

// ---- layer norm, RMS norm ---------------------------------------------------------------------------

void set(RowNorm& ln, bool centered, int64_t rows, int64_t d, int type, int parameter_type,
         int activation, Address x, Address residual, Address gamma, Address beta, Address bits,
         Address stats) {
  ln.rows = rows, ln.d = d;
  ln.type = static_cast<Type>(type);
  ln.parameter_type = static_cast<Type>(parameter_type);
  ln.activation = activation;
  ln.centered = centered;
  ln.x = at(x), ln.residual = at(residual), ln.gamma = at(gamma), ln.beta = at(beta);
  ln.bits = bits ? at(bits + kMaskHead) : nullptr, ln.stats = at(stats);
  ln.workspace = workspace;
  ln.threads = threads_for(rows * d);
  int64_t row = d * static_cast<int64_t>(size_of(type));
  ln.streamed = rows * row >= g_streamed_above && row % 64 == 0;
}

void row_norm_forward(bool centered, int64_t rows, int64_t d, int type, int parameter_type,
                      int activation, Address x, Address residual, Address gamma, Address beta,
                      Address bits, Address stats, Address y, double eps) {
  RowNormForward ln{};
  set(ln, centered, rows, d, type, parameter_type, activation, x, residual, gamma, beta, bits, stats);
  ln.y = at(y);
  ln.eps = eps;
  ln.streamed = ln.streamed && y % 64 == 0;
  const Kernels* kernels = g_kernels;
  sign(bits, kernels);
  kernels->row_norm_forward(ln);
}

void row_norm_backward(bool centered, int64_t rows, int64_t d, int type, int parameter_type,
                       int activation, Address x, Address residual, Address gamma, Address beta,
                       Address bits, Address stats, Address g, Address gx, Address gresidual,
                       Address ggamma, Address gbeta) {
  RowNormBackward ln{};
  set(ln, centered, rows, d, type, parameter_type, activation, x, residual, gamma, beta, bits, stats);
  ln.g = at(g), ln.gx = at(gx), ln.gresidual = at(gresidual);
  ln.ggamma = at(ggamma), ln.gbeta = at(gbeta);
  ln.streamed = ln.streamed && gx % 64 == 0 && gresidual % 64 == 0;
  signer(bits)->row_norm_backward(ln);
}

// ---- group norm, instance norm ----------------------------------------------------------------------

void set(GroupNorm& gn, bool rows, int64_t n, int64_t c, int64_t k, int64_t s, int type,
         int parameter_type, int activation, Address x, Address residual, Address gamma,
         Address beta, Address bits, Address stats) {
  gn.rows = rows;
  gn.n = n, gn.c = c, gn.k = k, gn.s = s;
  gn.type = static_cast<Type>(type);
  gn.parameter_type = static_cast<Type>(parameter_type);
  gn.activation = activation;
  gn.x = at(x), gn.residual = at(residual), gn.gamma = at(gamma), gn.beta = at(beta);
  gn.bits = bits ? at(bits + kMaskHead) : nullptr, gn.stats = at(stats);
  gn.workspace = workspace;
  gn.threads = threads_for(n * c * s);
  int64_t size = static_cast<int64_t>(size_of(type));
  gn.streamed = n * c * s * size >= g_streamed_above && (!rows || c * size % 64 == 0);
}

void group_norm_forward(bool rows, int64_t n, int64_t c, int64_t k, int64_t s, int type,
                        int parameter_type, int activation, Address x, Address residual,
                        Address gamma, Address beta, Address bits, Address stats, Address y,
                        double eps) {
  GroupNormForward gn{};
  set(gn, rows, n, c, k, s, type, parameter_type, activation, x, residual, gamma, beta, bits, stats);
  gn.y = at(y);
  gn.eps = eps;
  gn.streamed = gn.streamed && y % 64 == 0;
  const Kernels* kernels = g_kernels;
  sign(bits, kernels);
  kernels->group_norm_forward(gn);
}

void group_norm_backward(bool rows, int64_t n, int64_t c, int64_t k, int64_t s, int type,
                         int parameter_type, int activation, Address x, Address residual,
                         Address gamma, Address beta, Address bits, Address stats, Address g,
                         Address gx, Address gresidual, Address ggamma, Address gbeta) {
  GroupNormBackward gn{};
  set(gn, rows, n, c, k, s, type, parameter_type, activation, x, residual, gamma, beta, bits, stats);
  gn.g = at(g), gn.gx = at(gx), gn.gresidual = at(gresidual);
  gn.ggamma = at(ggamma), gn.gbeta = at(gbeta);
  gn.streamed = gn.streamed && gx % 64 == 0 && gresidual % 64 == 0;
  signer(bits)->group_norm_backward(gn);
}

}  // namespace

NB_MODULE(_native, m) {
  m.doc() = "Normalization kernels for the CPU.";
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
  m.def("bits_size", bits_size, "Bytes of the mask that forward fills.");
  m.def("batch_norm_forward", forward, nb::call_guard<nb::gil_scoped_release>());
  m.def("batch_norm_backward", backward, nb::call_guard<nb::gil_scoped_release>());
  m.def("row_norm_forward", row_norm_forward, nb::call_guard<nb::gil_scoped_release>());
  m.def("row_norm_backward", row_norm_backward, nb::call_guard<nb::gil_scoped_release>());
  m.def("group_norm_forward", group_norm_forward, nb::call_guard<nb::gil_scoped_release>());
  m.def("group_norm_backward", group_norm_backward, nb::call_guard<nb::gil_scoped_release>());
}
