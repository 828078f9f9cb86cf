// What the binding and the kernels agree on: arguments, and one table of kernels an instruction set.
#pragma once

#include <stddef.h>
#include <stdint.h>

enum Type : int { kFloat32, kBFloat16, kFloat16, kFloat64 };

// A batch norm over n·s values of each of c channels. In `rows`, x is (n, c) and s is 1; else it is
// (n, c, s). Both are dense. Pointers may be null where a thing is not there.
struct BatchNorm {
  bool rows;
  int64_t n, c, s;
  Type type, parameter_type;
  int activation;
  double slope;         // of LeakyReLU below 0
  const void* slopes;   // of PReLU, one a channel, of parameter_type; null: all are `slope`
  const void *x, *residual, *gamma, *beta;
  void* bits;     // what a ReLU or ReLU6 after a residual let through; see slots()
  double* stats;  // (2, c): mean and 1 / √(variance + ε), for the backward pass
  char* (*workspace)(size_t);  // memory to work in, aligned to 64; lives until the next call
  int threads;
  bool streamed;   // store past the caches
  int64_t width;   // in rows: channels that one thread finishes while they are in its cache, or 0
};

struct BatchNormForward : BatchNorm {
  void* y;
  bool training;
  double momentum;  // NaN: the cumulative average
  double eps;
  Type running_type;
  void *running_mean, *running_var;
  int64_t* batches;
  bool guarded;
  bool refused;  // result: the batch was kept out of the running statistics
};

struct BatchNormBackward : BatchNorm {
  bool training;
  const void* g;
  void *gx, *gresidual, *ggamma, *gbeta;
};

// Layer norm, and RMS norm where not `centered`: rows of d values, each normalized alone. γ and β
// are (d,).
struct RowNorm {
  int64_t rows, d;
  Type type, parameter_type;
  int activation;
  double slope;  // of LeakyReLU below 0
  bool centered;
  const void *x, *residual, *gamma, *beta;
  void* bits;   // as above
  void* stats;  // (rows, 3) of the compute type: what makes x̂ of x, see Standard
  char* (*workspace)(size_t);
  int threads;
  bool streamed;
};

struct RowNormForward : RowNorm {
  void* y;
  double eps;
};

struct RowNormBackward : RowNorm {
  const void* g;
  void *gx, *gresidual, *ggamma, *gbeta;
};

// Group norm of n examples of c channels, in groups of k, and s positions; instance norm where k is
// 1. In `rows`, x is (n, s, c), else (n, c, s). γ and β are (c,).
struct GroupNorm {
  bool rows;
  int64_t n, c, k, s;
  Type type, parameter_type;
  int activation;
  double slope;         // of LeakyReLU below 0
  const void* slopes;   // of PReLU, one a channel, of parameter_type; null: all are `slope`
  const void *x, *residual, *gamma, *beta;
  void* bits;
  void* stats;  // (n · c / k, 3), as above
  char* (*workspace)(size_t);
  int threads;
  bool streamed;
};

struct GroupNormForward : GroupNorm {
  void* y;
  double eps;
};

struct GroupNormBackward : GroupNorm {
  const void* g;
  void *gx, *gresidual, *ggamma, *gbeta;
};

struct Kernels {
  const char* name;
  int lanes;
  void (*batch_norm_forward)(BatchNormForward&);
  void (*batch_norm_backward)(BatchNormBackward&);
  void (*row_norm_forward)(RowNormForward&);
  void (*row_norm_backward)(RowNormBackward&);
  void (*group_norm_forward)(GroupNormForward&);
  void (*group_norm_backward)(GroupNormBackward&);
};

extern const Kernels kKernelsBaseline, kKernelsAVX2, kKernelsAVX512;
