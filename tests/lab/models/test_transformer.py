from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from gammabeta.lab.models.transformer import TOKEN_NORMS, Block, PatchTransformer, TokenBatchNorm


def small(norm: str = "layer", seed: int = 0) -> PatchTransformer:
    return PatchTransformer(8, 3, patch=2, width=8, depth=2, heads=2, norm=norm, seed=seed)


@pytest.mark.parametrize("norm", TOKEN_NORMS)
def test_it_classifies_rows_and_images_alike(norm: str) -> None:
    model, x = small(norm).eval(), torch.randn(3, 64)
    assert torch.equal(model(x), model(x.reshape(3, 1, 8, 8)))
    assert model(x).shape == (3, 3)


def test_patches_are_cut_as_unfold_cuts_them() -> None:
    model, x, seen = small(), torch.randn(2, 64), []
    model.embed.register_forward_hook(lambda _, args, __: seen.append(args[0]))
    model(x)
    unfolded = nn.functional.unfold(x.reshape(2, 1, 8, 8), 2, stride=2)
    assert torch.equal(seen[0], unfolded.transpose(1, 2))


def test_attention_is_torchs() -> None:
    torch.manual_seed(0)
    block, x = Block(8, 2, "none"), torch.randn(3, 5, 8)
    theirs = nn.MultiheadAttention(8, 2, batch_first=True)
    with torch.no_grad():
        theirs.in_proj_weight.copy_(block.queries.weight)
        theirs.in_proj_bias.copy_(block.queries.bias)
        theirs.out_proj.load_state_dict(block.mix.state_dict())
    middle = x + theirs(x, x, x, need_weights=False)[0]
    torch.testing.assert_close(block(x), middle + block.mlp(middle))


def test_token_batch_norm_is_over_all_tokens_of_all_examples() -> None:
    x = torch.randn(4, 7, 3) * 5 + 2
    y: Tensor = TokenBatchNorm(3)(x)
    torch.testing.assert_close(y.mean((0, 1)), torch.zeros(3), atol=1e-6, rtol=0)
    torch.testing.assert_close(y.var((0, 1), correction=0), torch.ones(3), atol=1e-4, rtol=0)


def test_the_seed_alone_decides_the_weights() -> None:
    state = torch.get_rng_state()
    one, batch, other = small("layer"), small("batch"), small("layer", seed=1)
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(one.blocks[1].mix.weight, batch.blocks[1].mix.weight)  # type: ignore[union-attr, arg-type]
    assert torch.equal(one.positions, batch.positions)
    assert not torch.equal(one.positions, other.positions)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"norm": "layr"}, "did you mean 'layer'"),
        ({"patch": 3}, "side=8 must be a positive multiple of 3"),
        ({"heads": 3}, "width=64 must be a positive multiple of 3"),
    ],
)
def test_misuse_is_one_line(options: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        PatchTransformer(**{"side": 8, "classes": 3, "patch": 2, **options})  # type: ignore[arg-type]
