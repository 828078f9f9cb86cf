// Torch's tensors as they come from Python, read and made without torch's headers.
//
// Torch's tensor type carries DLPack's C exchange interface: functions that say where a tensor's
// values are, of what type and in what layout, in nanoseconds. To ask for the same in Python takes a
// dozen attributes; in the cold caches that a convolution leaves behind, that costs more than to
// normalize a small tensor.
#pragma once

#include <nanobind/nanobind.h>

#include <cstdint>

#include "table.h"

namespace exchange {

namespace nb = nanobind;

// DLPack 1, as in https://dmlc.github.io/dlpack: only what is read here.
struct Tensor {
  void* data;
  int32_t device, device_id;
  int32_t dims;
  struct {
    uint8_t code, bits;
    uint16_t lanes;
  } dtype;
  int64_t *shape, *strides;
  uint64_t byte_offset;
};
struct Interface {
  uint32_t major, minor;
  Interface* older;
  void *allocate, *from_object, *to_object;
  int (*read)(void* object, Tensor* out);
};
enum : int { kCPU = 1, kInt = 0, kFloat = 2, kBFloat = 4 };

inline Interface* g_interface = nullptr;
inline PyTypeObject *g_tensor = nullptr, *g_parameter = nullptr;
inline PyObject *g_empty_like = nullptr, *g_empty = nullptr;
inline PyObject *g_is_neg = nullptr, *g_storage_offset = nullptr;
inline PyObject *g_keywords = nullptr, *g_cpu = nullptr, *g_types[5] = {};  // by Type, then uint8

// Whether this torch can be read so.
inline bool set_up(nb::handle capsule, nb::handle tensor, nb::handle parameter,
                   nb::handle empty_like, nb::handle empty, nb::handle is_neg,
                   nb::handle storage_offset, nb::handle cpu, nb::tuple types) {
  auto* found = static_cast<Interface*>(PyCapsule_GetPointer(capsule.ptr(), "dlpack_exchange_api"));
  if (!found) {
    PyErr_Clear();
    return false;
  }
  while (found && found->major != 1) found = found->older;
  if (!found || !found->read) return false;
  g_tensor = reinterpret_cast<PyTypeObject*>(tensor.inc_ref().ptr());
  g_parameter = reinterpret_cast<PyTypeObject*>(parameter.inc_ref().ptr());
  g_empty_like = empty_like.inc_ref().ptr();
  g_empty = empty.inc_ref().ptr();
  g_is_neg = is_neg.inc_ref().ptr();
  g_storage_offset = storage_offset.inc_ref().ptr();
  for (int i = 0; i < 5; i++) g_types[i] = nb::object(types[i]).release().ptr();
  g_cpu = cpu.inc_ref().ptr();
  g_keywords = PyTuple_Pack(2, PyUnicode_InternFromString("dtype"),
                            PyUnicode_InternFromString("device"));
  g_interface = found;
  return true;
}

// What a plain tensor on the CPU is.
struct View {
  Tensor t;
  int type = -1;  // of Type; -2 for int64

  uintptr_t address() const { return reinterpret_cast<uintptr_t>(t.data) + t.byte_offset; }
  int64_t numel() const {
    int64_t n = 1;
    for (int i = 0; i < t.dims; i++) n *= t.shape[i];
    return n;
  }
  // Whether values follow each other in the order of the dims: 0, `last` to dims − 1, and 1, where
  // channels come last; else as they are.
  bool dense(bool channels_last) const {
    int64_t stride = 1;
    auto next = [&](int i) {
      bool good = t.shape[i] == 1 || t.strides[i] == stride;
      stride *= t.shape[i];
      return good;
    };
    if (channels_last && !next(1)) return false;
    for (int i = t.dims - 1; i >= 0; i--)
      if (!(channels_last && i == 1) && !next(i)) return false;
    return true;
  }
  bool same_shape(const View& other) const {
    if (t.dims != other.t.dims) return false;
    for (int i = 0; i < t.dims; i++)
      if (t.shape[i] != other.t.shape[i]) return false;
    return true;
  }
};

// Read a tensor; false if it is not one of torch's own, on the CPU, with values in memory.
inline bool read(nb::handle object, View& v, bool may_be_negative = true) {
  PyTypeObject* type = Py_TYPE(object.ptr());
  if (type != g_tensor && type != g_parameter) return false;
  if (g_interface->read(object.ptr(), &v.t)) {
    PyErr_Clear();
    return false;
  }
  if (v.t.device != kCPU || v.t.dtype.lanes != 1 || !v.t.data) return false;
  auto [code, bits, lanes] = v.t.dtype;
  (void)lanes;
  if (code == kFloat) v.type = bits == 32 ? kFloat32 : bits == 64 ? kFloat64 : bits == 16 ? kFloat16 : -1;
  if (code == kBFloat && bits == 16) v.type = kBFloat16;
  if (code == kInt && bits == 64) v.type = -2;
  if (v.type == -1) return false;
  if (v.address() < (uintptr_t{1} << 40)) {
    // Of a part of a freed storage, torch gives the offset as the address.
    PyObject* offset = PyObject_CallOneArg(g_storage_offset, object.ptr());
    if (!offset) throw nb::python_error();
    bool whole = PyLong_AsLong(offset) == 0;
    Py_DECREF(offset);
    if (!whole) return false;
  }
  if (may_be_negative) {  // its values may be the negatives of what is in memory
    PyObject* answer = PyObject_CallOneArg(g_is_neg, object.ptr());
    if (!answer) throw nb::python_error();
    bool negative = answer == Py_True;
    Py_DECREF(answer);
    if (negative) return false;
  }
  return true;
}

inline nb::object made(PyObject* tensor, View& v) {
  if (!tensor) throw nb::python_error();
  nb::object object = nb::steal(tensor);
  if (!read(object, v, false)) throw nb::type_error("torch made a tensor that cannot be read");
  return object;
}

// A tensor in the layout of `like`, without values yet.
inline nb::object empty_like(nb::handle like, View& v) {
  return made(PyObject_CallOneArg(g_empty_like, like.ptr()), v);
}

// One of `n` values of a type; 4 for uint8.
inline nb::object empty(int64_t n, int type, uintptr_t& address) {
  nb::object number = nb::int_(n);
  PyObject* arguments[] = {number.ptr(), g_types[type], g_cpu};
  PyObject* tensor = PyObject_Vectorcall(g_empty, arguments, 1, g_keywords);
  if (!tensor) throw nb::python_error();
  nb::object object = nb::steal(tensor);
  Tensor t;
  if (g_interface->read(tensor, &t)) throw nb::python_error();
  address = reinterpret_cast<uintptr_t>(t.data) + t.byte_offset;
  return object;
}

}  // namespace exchange
