// The guard, where torch's operator updates the running statistics.
#pragma once

#include "call.h"

namespace {

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

}  // namespace
