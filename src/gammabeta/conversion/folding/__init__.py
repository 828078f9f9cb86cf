"""The parts of `gammabeta.fold`: plan, arithmetic, change, proof and report."""
