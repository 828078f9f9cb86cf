"""Regenerate the embedded digits from scikit-learn's copy: python scripts/make_digits.py

Needs scikit-learn (any version: the data set has not changed since 1998). The same bytes each
time, so that a test can compare them.
"""

import sys
from pathlib import Path

import numpy as np
from sklearn.datasets import load_digits

TARGET = Path(__file__).parents[1] / "src/gammabeta/lab/data/digits/digits.npz"


def main(target: Path = TARGET) -> None:
    digits = load_digits()
    images = digits.images.astype(np.uint8)  # 0 … 16, exact
    np.savez_compressed(target, images=images, labels=digits.target.astype(np.uint8))
    print(f"{target}: {len(images)} images, {target.stat().st_size} bytes")


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else TARGET)
