// The threads of one call, the work each gets, and the numbers they share.
#pragma once

#include "table.h"
#include "vector.h"

#if defined(_OPENMP)
#include <omp.h>
#endif

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/asan_interface.h>
#endif

namespace {

// One thread among those of a call. Work is cut into pieces that do not depend on their number, so
// that no result does.
struct Worker {
  int index, count;
  GB_INLINE int64_t from(int64_t tasks) const { return tasks * index / count; }
  GB_INLINE int64_t to(int64_t tasks) const { return tasks * (index + 1) / count; }
  GB_INLINE void wait() const {
#if defined(_OPENMP)
    if (count > 1) {
#pragma omp barrier
    }
#endif
  }
};

template <class F>
GB_INLINE void as_team(int threads, F&& f) {
#if defined(_OPENMP)
  if (threads > 1) {
#pragma omp parallel num_threads(threads)
    f(Worker{omp_get_thread_num(), omp_get_num_threads()});
    return;
  }
#endif
  f(Worker{0, 1});
}

// Memory to work in, handed out piece by piece on lines of their own. Without memory it only counts.
// To lay out twice, first to count and then to hand out, has to take the same pieces both times.
struct Scratch {
  char* at;
  size_t used = 0;
  template <class A>
  GB_INLINE A* take(int64_t n) {
    size_t size = n * sizeof(A), whole = (size + 63) / 64 * 64 + kRedZone;
    A* p = at ? (A*)(at + used) : nullptr;
    if (at) fence(at + used, size, whole);
    used += whole;
    return p;
  }

 private:
  // Under the address sanitizer what stands between two pieces may not be touched. A worker's own
  // memory is laid out anew in each call, within a piece that is its own.
#if defined(__SANITIZE_ADDRESS__)
  static constexpr size_t kRedZone = 64;
  static void fence(char* p, size_t size, size_t whole) {
    __asan_unpoison_memory_region(p, size);
    __asan_poison_memory_region(p + size, whole - size);
  }
#else
  static constexpr size_t kRedZone = 0;
  static void fence(char*, size_t, size_t) {}
#endif
};

// ---- numbers of a type known at run time ----------------------------------------------------------

GB_INLINE double number_at(const void* p, Type type, int64_t i) {
  switch (type) {
    case kFloat32: return ((const float*)p)[i];
    case kBFloat16: return to_number(((const bfloat16*)p)[i]);
    case kFloat16: return to_number(((const float16*)p)[i]);
    default: return ((const double*)p)[i];
  }
}
// out = p[0 .. n), or all `otherwise` where there is no p.
inline void get_numbers(double* out, const void* p, Type type, int64_t n, double otherwise) {
  if (!p)
    for (int64_t i = 0; i < n; i++) out[i] = otherwise;
  else if (type == kFloat32)
    for (int64_t i = 0; i < n; i++) out[i] = ((const float*)p)[i];
  else
    for (int64_t i = 0; i < n; i++) out[i] = number_at(p, type, i);
}
inline void set_numbers(void* p, Type type, const double* from, int64_t n) {
  if (!p) return;
  for (int64_t i = 0; i < n; i++) switch (type) {
      case kFloat32: ((float*)p)[i] = (float)from[i]; break;
      case kBFloat16: ((bfloat16*)p)[i] = from_number<bfloat16>((float)from[i]); break;
      case kFloat16: ((float16*)p)[i] = from_number<float16>((float)from[i]); break;
      default: ((double*)p)[i] = from[i];
    }
}
GB_INLINE double rounded(double x, Type type) {
  switch (type) {
    case kFloat32: return (float)x;
    case kBFloat16: return to_number(from_number<bfloat16>((float)x));
    case kFloat16: return to_number(from_number<float16>((float)x));
    default: return x;
  }
}

}  // namespace
