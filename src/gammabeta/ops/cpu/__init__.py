"""The CPU backend: kernels in C++, and what decides when they can serve."""
