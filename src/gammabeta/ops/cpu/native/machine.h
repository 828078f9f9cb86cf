// What a call runs on: the instruction set, the threads, and memory to work in.
#pragma once

#include <nanobind/nanobind.h>
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

}  // namespace
