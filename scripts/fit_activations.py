"""Fit the coefficients in kernels/native/elementary.h: python scripts/fit_activations.py

Prints every constant as the float32 it is rounded to, lowest degree first, and what the function
is off by with them, relatively and in exact arithmetic, in units of 2⁻²⁴: half an ulp of a number
just above a power of two.

The fits are minimax ones, found by Lawson's iteration: least squares whose weights are multiplied
by the errors they leave, until the errors are level. A coefficient is rounded once fitted, lowest
degree first, and the others are fitted again, so that they make up for it. The denominator of a
fraction is linearized: its own last value is divided out (Sanathanan and Koerner).
"""

from collections.abc import Callable, Sequence

import numpy as np
from mpmath import erfc, exp, expm1, log, matrix, mp, mpf, pi, qr_solve, sqrt, tanh

mp.dps = 40
POINTS, ROUNDS = 120, 16
Function = Callable[[mpf], mpf]


def to_float32(c: mpf) -> mpf:
    return mpf(float(np.float32(float(c))))


def polynomial(c: Sequence[mpf], x: np.ndarray) -> np.ndarray:
    return sum((a * x**j for j, a in enumerate(c)), x * 0)


def nodes(low: str | mpf, high: str | mpf) -> np.ndarray:
    """Denser at both ends, as the zeros of a Chebyshev polynomial are."""
    low, high = mpf(low), mpf(high)
    turn = [mp.cos(pi * (i + 0.5) / POINTS) for i in range(POINTS)]
    return np.array([(low + high - (high - low) * c) / 2 for c in turn], dtype=object)


class Fit:
    """Of ``f`` at ``x``: |numerator / denominator − f| / scale is levelled."""

    def __init__(self, x: np.ndarray, f: Function, scale: Function) -> None:
        self.x = x
        self.f, self.scale = (np.array([g(v) for v in x], dtype=object) for g in (f, scale))

    def unrounded(self, known: list[mpf], top: int, below: int) -> tuple[list[mpf], list[mpf]]:
        """A numerator that starts with ``known``, a denominator that starts with 1."""
        x, weight, denominator, best = self.x, self.x * 0 + 1, self.x * 0 + 1, (mp.inf, [], [])
        for i in range(ROUNDS):
            columns = [x**j for j in range(len(known), top + 1)]
            columns += [-self.f * x**j for j in range(1, below + 1)]
            row = np.array([sqrt(w) for w in weight], dtype=object) / (self.scale * denominator)
            a = matrix((np.array(columns) * row).T.tolist())
            c = list(qr_solve(a, matrix(((self.f - polynomial(known, x)) * row).tolist()))[0])
            split = top + 1 - len(known)
            p, q = known + c[:split], [mpf(1), *c[split:]]
            denominator = polynomial(q, x)
            errors = abs(polynomial(p, x) / denominator - self.f) / self.scale
            best = min(best, (max(errors), p, q))
            if i > 2:  # the denominator has settled
                weight = weight * errors / sum(weight * errors)
        return best[1], best[2]

    def rounded(self, known: list[mpf], top: int, below: int = 0) -> tuple[list[mpf], list[mpf]]:
        q = [to_float32(c) for c in self.unrounded(known, top, below)[1]]
        numerator = Fit(self.x, lambda _: mpf(0), lambda _: mpf(0))
        numerator.f, numerator.scale = (v * polynomial(q, self.x) for v in (self.f, self.scale))
        while len(known) <= top:
            c = numerator.unrounded(known, top, 0)[0][len(known)]
            known = [*known, to_float32(c)]
        error = max(abs(polynomial(known, self.x) / polynomial(q, self.x) - self.f) / self.scale)
        print(f"  error: {float(error * 2**24):.3f}")
        return known, q


def show(name: str, c: Sequence[mpf]) -> None:
    print(f"  {name}:", ", ".join(f"{float(x).hex().replace('0000000p', 'p')}f" for x in c))


def main() -> None:
    print("e^x: n = round(x / ln 2), r = x − n ln 2")
    ln2 = log(mpf(2))
    high = mpf(round(ln2 * 2**16)) / 2**16  # 16 bits: times an n of 8 bits it is exact
    show("1 / ln 2", [to_float32(1 / ln2)])
    show("ln 2, high and low", [high, to_float32(ln2 - high)])
    edge = ln2 / 2 * mpf("1.0001")  # n is rounded from a rounded x / ln 2
    fit = Fit(nodes(-edge, edge), lambda r: (expm1(r) - r) / r**2, lambda r: exp(r) / r**2)
    show("(e^r − 1 − r) / r²", fit.rounded([], 4)[0])

    print("tanh z = z + z³ p(z²), |z| ≤ 0.6")
    z2 = nodes("0", "0.36")
    odd = lambda s: tanh(sqrt(s)) / sqrt(s)  # noqa: E731
    show("p", Fit(z2, lambda s: (odd(s) - 1) / s, lambda s: odd(s) / s).rounded([], 4)[0])

    print("e^(−a²/2) / Φ(−a) = 2 + a (√(2π) − p(a) / q(a)), a ≤ 14.6: from there a Φ(−a) is 0")
    root = to_float32(sqrt(2 * pi))
    show("√(2π) and its inverse", [root, to_float32(1 / sqrt(2 * pi))])
    whole = lambda a: 2 * exp(-a * a / 2) / erfc(a / sqrt(mpf(2)))  # noqa: E731
    t = nodes(0, mpf("14.6") / mpf("15.6"))
    fit = Fit(t / (1 - t), lambda a: root - (whole(a) - 2) / a, lambda a: whole(a) / a)
    p, q = fit.rounded([], 4, 5)
    show("p", p)
    show("q", q)


if __name__ == "__main__":
    main()
