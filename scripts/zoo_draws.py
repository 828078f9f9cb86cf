"""How far torch's float32 results and ours are from float64, draw by draw of the rounding.

    python scripts/zoo_draws.py pytorchcv:mnasnet_b1 [--draws 24] [--check gradients]

Says of a network that "differs" in the zoo what kind of difference it is. Each draw moves the
values of the first weight by one rounding; both layouts and both numbers of threads are tried. If
one input of a ReLU lies nearer to 0 than its rounding, distances fall into two groups, and each of
the two implementations is in each of the groups at times; a wrong formula would keep ours in the
worse one.
"""

from __future__ import annotations

import argparse

import torch

from gammabeta.lab.bench.net_variants import converted
from gammabeta.lab.bench.zoo_case import CHECKS, in_layout, redrawn
from gammabeta.lab.bench.zoo_distance import distance
from gammabeta.lab.bench.zoo_models import load
from gammabeta.lab.bench.zoo_outcome import double, prepare, run


def main() -> None:
    """Print the distances."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("network", help="such as pytorchcv:mnasnet_b1")
    parser.add_argument("--draws", type=int, default=24, metavar="N", help="of the rounding")
    parser.add_argument("--check", choices=CHECKS, default="gradients", help="what to compare")
    chosen = parser.parse_args()
    network = load(chosen.network)
    prepare(network)
    true = getattr(run((exact := double(network)).model, exact), chosen.check)
    print(f"{chosen.network}, {chosen.check}: distance from float64 over {chosen.draws} draws")
    print(f"{'layout':14}{'threads':>8}  {'who':10}{'least':>9}{'median':>9}{'largest':>9}")
    for layout in ("nchw", "channels_last"):
        laid_out = in_layout(network, layout)
        forms = {"torch": laid_out.model, "converted": converted(laid_out.model, fuse=True)}
        for threads in (1, 2):
            torch.set_num_threads(threads)
            for who, model in forms.items():
                draws = redrawn(model, chosen.draws, lambda m=model, n=laid_out: run(m, n))
                found = sorted(distance(getattr(one, chosen.check), true) for one in draws)
                middle = found[len(found) // 2]
                print(
                    f"{layout:14}{threads:8}  {who:10}{found[0]:9.1e}{middle:9.1e}{found[-1]:9.1e}"
                )


if __name__ == "__main__":
    main()
