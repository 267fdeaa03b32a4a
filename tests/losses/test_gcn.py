"""CIRKD's adapters: the attention block against its formula, the projection head's layers."""

import torch
import torch.nn.functional as F

from segkd.losses._gcn import GCN, attend, projection_head


def test_attention_is_the_softmax_of_products():
    query, key, value = (torch.randn(2, c, 3, 4, dtype=torch.float64) for c in (5, 5, 7))
    for scale in (None, 1.0):
        products = torch.einsum("bci,bcj->bij", query.flatten(2), key.flatten(2)) * (scale or 5**-0.5)
        wanted = torch.einsum("bij,bcj->bci", products.softmax(2), value.flatten(2)).view(2, 7, 3, 4)
        torch.testing.assert_close(attend(query, key, value, scale), wanted)


def test_block_in_eval_mode():
    torch.manual_seed(0)
    block = GCN(6).double().eval()
    x = torch.randn(2, 6, 3, 4, dtype=torch.float64)
    q, k, v = (F.conv2d(x, part.weight) for part in (block.query, block.key, block.value))
    scale = (1 + 1e-5) ** -0.5  # batch norm with its first statistics
    y = F.relu(F.conv2d(attend(q, k, v), block.context[0].weight) * scale)
    wanted = F.relu(F.conv2d(torch.cat([x, y], 1), block.output[0].weight) * scale)
    torch.testing.assert_close(block(x), wanted)


def test_projection_head_has_no_biases_but_the_norms():
    names = [(name, tuple(p.shape)) for name, p in projection_head(3, 5).named_parameters()]
    assert names == [("0.weight", (5, 3, 1, 1)), ("1.weight", (5,)), ("1.bias", (5,)), ("3.weight", (5, 5, 1, 1))]
