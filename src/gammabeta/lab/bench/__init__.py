"""Benchmarks of the layers beside torch's and others': what ``gammabeta bench`` measures.

`timing` is the one harness; `norm`, `step`, `memory` and `error` are what is measured with it, and
`results` the one form of what comes out.
"""
