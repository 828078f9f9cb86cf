// Vectors of one compute type, as wide as the instruction set this file is compiled for.
//
// Everything sits in an anonymous namespace: the same source is compiled once an instruction set,
// and no linker may take one build's function for another's. For the same reason nothing here uses
// the C++ library, whose inline functions would be shared between the builds.
#pragma once

#include <stddef.h>
#include <stdint.h>

#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace {

#if defined(__AVX512F__)
constexpr int kVectorBytes = 64;
#elif defined(__AVX2__)
constexpr int kVectorBytes = 32;
#else
constexpr int kVectorBytes = 16;
#endif

// The storage types that are not C++'s own.
struct bfloat16 {
  uint16_t bits;
};
struct float16 {
  uint16_t bits;
};

// What a storage type is computed in.
template <class T>
struct Compute {
  using type = float;
};
template <>
struct Compute<double> {
  using type = double;
};

typedef float vfloat __attribute__((vector_size(kVectorBytes)));
typedef double vdouble __attribute__((vector_size(kVectorBytes)));
typedef int32_t vint32 __attribute__((vector_size(kVectorBytes)));
typedef uint32_t vuint32 __attribute__((vector_size(kVectorBytes)));
typedef int64_t vint64 __attribute__((vector_size(kVectorBytes)));
typedef uint16_t vhalf16 __attribute__((vector_size(kVectorBytes / 2)));

template <class A>
struct VectorOf;
template <>
struct VectorOf<float> {
  using type = vfloat;
  using mask = vint32;
};
template <>
struct VectorOf<double> {
  using type = vdouble;
  using mask = vint64;
};
template <class A>
using V = typename VectorOf<A>::type;
// Comparisons give one of these: all bits set where true.
template <class A>
using M = typename VectorOf<A>::mask;

template <class A>
constexpr int kLanes = kVectorBytes / (int)sizeof(A);

#define GB_INLINE inline __attribute__((always_inline))
// After the parameters of a lambda that is the body of a loop.
#define GB_FLAT __attribute__((always_inline))

// ---- arithmetic -------------------------------------------------------------------------------

template <class A>
GB_INLINE V<A> splat(A a) {
  return a - (V<A>){};
}

// a · b + c, rounded once where the machine can. Named, because the compiler is told not to
// contract by itself: forward and backward have to round alike.
GB_INLINE vfloat fma(vfloat a, vfloat b, vfloat c) {
#if defined(__AVX512F__)
  return (vfloat)_mm512_fmadd_ps((__m512)a, (__m512)b, (__m512)c);
#elif defined(__FMA__)
  return (vfloat)_mm256_fmadd_ps((__m256)a, (__m256)b, (__m256)c);
#else
  return a * b + c;
#endif
}
GB_INLINE vdouble fma(vdouble a, vdouble b, vdouble c) {
#if defined(__AVX512F__)
  return (vdouble)_mm512_fmadd_pd((__m512d)a, (__m512d)b, (__m512d)c);
#elif defined(__FMA__)
  return (vdouble)_mm256_fmadd_pd((__m256d)a, (__m256d)b, (__m256d)c);
#else
  return a * b + c;
#endif
}

// where(mask, a, b), lane by lane.
template <class A>
GB_INLINE V<A> where(M<A> mask, V<A> a, V<A> b) {
  return mask ? a : b;
}

// v where lane < n, 0 elsewhere.
GB_INLINE vfloat keep_first(vfloat v, int n) {
#if defined(__AVX512F__)
  return (vfloat)_mm512_maskz_mov_ps((__mmask16)((1u << n) - 1), (__m512)v);
#else
  vint32 lane;
  for (int i = 0; i < kLanes<float>; i++) lane[i] = i;
  return (vfloat)((vint32)v & (lane < n));
#endif
}
GB_INLINE vdouble keep_first(vdouble v, int n) {
#if defined(__AVX512F__)
  return (vdouble)_mm512_maskz_mov_pd((__mmask8)((1u << n) - 1), (__m512d)v);
#else
  vint64 lane;
  for (int i = 0; i < kLanes<double>; i++) lane[i] = i;
  return (vdouble)((vint64)v & (lane < n));
#endif
}

// ---- bit masks: lane i's truth is bit i ---------------------------------------------------------

GB_INLINE unsigned to_bits(vint32 m) {
#if defined(__AVX512DQ__)
  return _mm512_movepi32_mask((__m512i)m);
#elif defined(__AVX2__)
  return (unsigned)_mm256_movemask_ps((__m256)m);
#elif defined(__x86_64__)
  return (unsigned)_mm_movemask_ps((__m128)m);
#else
  unsigned bits = 0;
  for (int i = 0; i < kLanes<float>; i++) bits |= (unsigned)(m[i] & 1) << i;
  return bits;
#endif
}
GB_INLINE unsigned to_bits(vint64 m) {
#if defined(__AVX512DQ__)
  return _mm512_movepi64_mask((__m512i)m);
#elif defined(__AVX2__)
  return (unsigned)_mm256_movemask_pd((__m256d)m);
#elif defined(__x86_64__)
  return (unsigned)_mm_movemask_pd((__m128d)m);
#else
  unsigned bits = 0;
  for (int i = 0; i < kLanes<double>; i++) bits |= (unsigned)(m[i] & 1) << i;
  return bits;
#endif
}

// v where its lane's bit is set, 0 elsewhere.
GB_INLINE vfloat keep_bits(vfloat v, unsigned bits) {
#if defined(__AVX512F__)
  return (vfloat)_mm512_maskz_mov_ps((__mmask16)bits, (__m512)v);
#else
  vint32 bit;
  for (int i = 0; i < kLanes<float>; i++) bit[i] = 1 << i;
  return (vfloat)((vint32)v & ((bit & (int32_t)bits) != 0));
#endif
}
GB_INLINE vdouble keep_bits(vdouble v, unsigned bits) {
#if defined(__AVX512F__)
  return (vdouble)_mm512_maskz_mov_pd((__mmask8)bits, (__m512d)v);
#else
  vint64 bit;
  for (int i = 0; i < kLanes<double>; i++) bit[i] = 1 << i;
  return (vdouble)((vint64)v & ((bit & (int64_t)bits) != 0));
#endif
}

// ---- conversion, one number -----------------------------------------------------------------------

template <class To, class From>
GB_INLINE To bit_cast(From from) {
  static_assert(sizeof(To) == sizeof(From), "bit_cast changes no size");
  To to;
  __builtin_memcpy(&to, &from, sizeof(to));
  return to;
}

GB_INLINE double to_number(double x) { return x; }
GB_INLINE float to_number(float x) { return x; }
GB_INLINE float to_number(bfloat16 x) { return bit_cast<float>((uint32_t)x.bits << 16); }
GB_INLINE float to_number(float16 x) {
  uint32_t sign = (uint32_t)(x.bits & 0x8000) << 16, rest = x.bits & 0x7fff;
  if (rest >= 0x7c00) return bit_cast<float>(sign | 0x7f800000 | (rest & 0x3ff) << 13);
  // Scaling by a power of two is exact, subnormals included.
  float magnitude = bit_cast<float>(rest << 13) * 0x1p112f;
  return bit_cast<float>(sign | bit_cast<uint32_t>(magnitude));
}

template <class T, class A>
GB_INLINE T from_number(A x);
template <>
GB_INLINE double from_number<double, double>(double x) {
  return x;
}
template <>
GB_INLINE float from_number<float, float>(float x) {
  return x;
}
template <>
GB_INLINE bfloat16 from_number<bfloat16, float>(float x) {
  uint32_t u = bit_cast<uint32_t>(x);
  if (x != x) return {(uint16_t)0x7fc0};
  return {(uint16_t)((u + 0x7fff + (u >> 16 & 1)) >> 16)};
}
template <>
GB_INLINE float16 from_number<float16, float>(float x) {
  uint32_t u = bit_cast<uint32_t>(x), sign = u >> 16 & 0x8000;
  u &= 0x7fffffff;
  if (u > 0x7f800000) return {(uint16_t)(sign | 0x7e00)};
  if (u >= 0x477ff000) return {(uint16_t)(sign | 0x7c00)};  // 65520 and above round to infinity
  if (u < 0x38800000) {  // subnormal: adding ½ leaves the value's half-precision bits at the end
    float shifted = bit_cast<float>(u) + 0.5f;
    return {(uint16_t)(sign | (bit_cast<uint32_t>(shifted) - 0x3f000000))};
  }
  uint32_t odd = u >> 13 & 1;
  return {(uint16_t)(sign | (u - 0x38000000 + 0xfff + odd) >> 13)};
}

// ---- loads and stores -------------------------------------------------------------------------------

template <class T>
using C = typename Compute<T>::type;

GB_INLINE vfloat load(const float* p) {
  vfloat v;
  __builtin_memcpy(&v, p, sizeof(v));
  return v;
}
GB_INLINE vdouble load(const double* p) {
  vdouble v;
  __builtin_memcpy(&v, p, sizeof(v));
  return v;
}
GB_INLINE vfloat widen(vhalf16 h, bfloat16) {
#if defined(__AVX512F__)
  return (vfloat)_mm512_slli_epi32(_mm512_cvtepu16_epi32((__m256i)h), 16);
#elif defined(__AVX2__)
  return (vfloat)_mm256_slli_epi32(_mm256_cvtepu16_epi32((__m128i)h), 16);
#else
  return (vfloat)(__builtin_convertvector(h, vuint32) << 16);
#endif
}
GB_INLINE vfloat widen(vhalf16 h, float16) {
#if defined(__AVX512F__)
  return (vfloat)_mm512_cvtph_ps((__m256i)h);
#elif defined(__F16C__)
  return (vfloat)_mm256_cvtph_ps((__m128i)h);
#else
  vfloat v;
  for (int i = 0; i < kLanes<float>; i++) v[i] = to_number(float16{h[i]});
  return v;
#endif
}
GB_INLINE vhalf16 narrow(vfloat v, bfloat16) {
  vuint32 u = (vuint32)v;
  vuint32 rounded = (u + 0x7fff + (u >> 16 & 1)) >> 16;
  vint32 nan = v != v;
  rounded = (vuint32)(nan ? (vint32)(vuint32{} + 0x7fc0) : (vint32)rounded);
#if defined(__AVX512F__)
  return (vhalf16)_mm512_cvtepi32_epi16((__m512i)rounded);
#elif defined(__AVX2__)
  __m256i packed = _mm256_packus_epi32((__m256i)rounded, (__m256i)rounded);
  return (vhalf16)_mm256_castsi256_si128(_mm256_permute4x64_epi64(packed, 0x08));
#else
  return __builtin_convertvector(rounded, vhalf16);
#endif
}
GB_INLINE vhalf16 narrow(vfloat v, float16) {
#if defined(__AVX512F__)
  return (vhalf16)_mm512_cvtps_ph((__m512)v, _MM_FROUND_TO_NEAREST_INT);
#elif defined(__F16C__)
  return (vhalf16)_mm256_cvtps_ph((__m256)v, _MM_FROUND_TO_NEAREST_INT);
#else
  vhalf16 h;
  for (int i = 0; i < kLanes<float>; i++) h[i] = from_number<float16>((float)v[i]).bits;
  return h;
#endif
}
template <class H>
GB_INLINE vfloat load_half(const H* p) {
  vhalf16 h;
  __builtin_memcpy(&h, p, sizeof(h));
  return widen(h, H{});
}
GB_INLINE vfloat load(const bfloat16* p) { return load_half(p); }
GB_INLINE vfloat load(const float16* p) { return load_half(p); }

// The first n < lanes numbers; the other lanes are 0, and their memory is not touched.
GB_INLINE vfloat load(const float* p, int n) {
#if defined(__AVX512F__)
  return (vfloat)_mm512_maskz_loadu_ps((__mmask16)((1u << n) - 1), p);
#else
  float a[kLanes<float>] = {};
  for (int i = 0; i < n; i++) a[i] = p[i];
  return load(a);
#endif
}
GB_INLINE vdouble load(const double* p, int n) {
#if defined(__AVX512F__)
  return (vdouble)_mm512_maskz_loadu_pd((__mmask8)((1u << n) - 1), p);
#else
  double a[kLanes<double>] = {};
  for (int i = 0; i < n; i++) a[i] = p[i];
  return load(a);
#endif
}
template <class H>
GB_INLINE vfloat load_half(const H* p, int n) {
#if defined(__AVX512BW__) && defined(__AVX512VL__)
  return widen((vhalf16)_mm256_maskz_loadu_epi16((__mmask16)((1u << n) - 1), p), H{});
#else
  H a[kLanes<float>] = {};
  for (int i = 0; i < n; i++) a[i] = p[i];
  return load_half(a);
#endif
}
GB_INLINE vfloat load(const bfloat16* p, int n) { return load_half(p, n); }
GB_INLINE vfloat load(const float16* p, int n) { return load_half(p, n); }

GB_INLINE void store(float* p, vfloat v) { __builtin_memcpy(p, &v, sizeof(v)); }
GB_INLINE void store(double* p, vdouble v) { __builtin_memcpy(p, &v, sizeof(v)); }
template <class H>
GB_INLINE void store_half(H* p, vfloat v) {
  vhalf16 h = narrow(v, H{});
  __builtin_memcpy(p, &h, sizeof(h));
}
GB_INLINE void store(bfloat16* p, vfloat v) { store_half(p, v); }
GB_INLINE void store(float16* p, vfloat v) { store_half(p, v); }

GB_INLINE void store(float* p, vfloat v, int n) {
#if defined(__AVX512F__)
  _mm512_mask_storeu_ps(p, (__mmask16)((1u << n) - 1), (__m512)v);
#else
  for (int i = 0; i < n; i++) p[i] = v[i];
#endif
}
GB_INLINE void store(double* p, vdouble v, int n) {
#if defined(__AVX512F__)
  _mm512_mask_storeu_pd(p, (__mmask8)((1u << n) - 1), (__m512d)v);
#else
  for (int i = 0; i < n; i++) p[i] = v[i];
#endif
}
template <class H>
GB_INLINE void store_half(H* p, vfloat v, int n) {
  vhalf16 h = narrow(v, H{});
#if defined(__AVX512BW__) && defined(__AVX512VL__)
  _mm256_mask_storeu_epi16(p, (__mmask16)((1u << n) - 1), (__m256i)h);
#else
  for (int i = 0; i < n; i++) p[i].bits = h[i];
#endif
}
GB_INLINE void store(bfloat16* p, vfloat v, int n) { store_half(p, v, n); }
GB_INLINE void store(float16* p, vfloat v, int n) { store_half(p, v, n); }

// A store past the caches. `p` is aligned to the bytes it writes.
GB_INLINE void stream_bytes(void* p, const void* v, size_t bytes) {
#if defined(__AVX512F__)
  if (bytes == 64) return _mm512_stream_si512((__m512i*)p, _mm512_loadu_si512(v));
#endif
#if defined(__AVX2__)
  if (bytes == 32) return _mm256_stream_si256((__m256i*)p, _mm256_loadu_si256((const __m256i*)v));
#endif
#if defined(__x86_64__)
  if (bytes == 16) return _mm_stream_si128((__m128i*)p, _mm_loadu_si128((const __m128i*)v));
  if (bytes == 8) {
    long long word;
    __builtin_memcpy(&word, v, 8);
    return _mm_stream_si64((long long*)p, word);
  }
#endif
  __builtin_memcpy(p, v, bytes);
}
GB_INLINE void stream(float* p, vfloat v) { stream_bytes(p, &v, sizeof(v)); }
GB_INLINE void stream(double* p, vdouble v) { stream_bytes(p, &v, sizeof(v)); }
template <class H>
GB_INLINE void stream_half(H* p, vfloat v) {
  vhalf16 h = narrow(v, H{});
  stream_bytes(p, &h, sizeof(h));
}
GB_INLINE void stream(bfloat16* p, vfloat v) { stream_half(p, v); }
GB_INLINE void stream(float16* p, vfloat v) { stream_half(p, v); }

// Ask for the line at p, which will be read soon; p may be anywhere.
GB_INLINE void fetch(const void* p) { __builtin_prefetch(p, 0, 2); }
GB_INLINE void fetch_near(const void* p) { __builtin_prefetch(p, 0, 3); }

// Streamed stores are seen by other threads only after this.
GB_INLINE void end_stream() {
#if defined(__x86_64__)
  _mm_sfence();
#endif
}

// ---- in double --------------------------------------------------------------------------------

// The low or the high half of a vector's lanes.
GB_INLINE vdouble low(vfloat v) {
#if defined(__AVX512F__)
  return (vdouble)_mm512_cvtps_pd(_mm512_castps512_ps256((__m512)v));
#elif defined(__AVX2__)
  return (vdouble)_mm256_cvtps_pd(_mm256_castps256_ps128((__m256)v));
#else
  vdouble d;
  for (int i = 0; i < kLanes<double>; i++) d[i] = v[i];
  return d;
#endif
}
GB_INLINE vdouble high(vfloat v) {
#if defined(__AVX512DQ__)
  return (vdouble)_mm512_cvtps_pd(_mm512_extractf32x8_ps((__m512)v, 1));
#elif defined(__AVX2__)
  return (vdouble)_mm256_cvtps_pd(_mm256_extractf128_ps((__m256)v, 1));
#else
  vdouble d;
  for (int i = 0; i < kLanes<double>; i++) d[i] = v[i + kLanes<double>];
  return d;
#endif
}

// As many numbers as there are lanes of double.
GB_INLINE vdouble load_double(const double* p) { return load(p); }
GB_INLINE vdouble load_double(const float* p) {
#if defined(__AVX512F__)
  return (vdouble)_mm512_cvtps_pd(_mm256_loadu_ps(p));
#elif defined(__AVX2__)
  return (vdouble)_mm256_cvtps_pd(_mm_loadu_ps(p));
#else
  vdouble d;
  for (int i = 0; i < kLanes<double>; i++) d[i] = p[i];
  return d;
#endif
}

// The sum of the lanes, added in double and in the order of a binary tree.
GB_INLINE double sum(vdouble v) {
  double s[kLanes<double>];
  store(s, v);
  for (int half = kLanes<double> / 2; half; half /= 2)
    for (int i = 0; i < half; i++) s[i] += s[i + half];
  return s[0];
}
GB_INLINE double sum(vfloat v) { return sum(low(v) + high(v)); }

// d[0 .. lanes) += v.
GB_INLINE void add_to(double* d, vfloat v) {
  store(d, load(d) + low(v));
  store(d + kLanes<double>, load(d + kLanes<double>) + high(v));
}
GB_INLINE void add_to(double* d, vdouble v) { store(d, load(d) + v); }

}  // namespace
