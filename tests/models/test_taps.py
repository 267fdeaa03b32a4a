"""What tensors seen inside a foreign network are, and which parameters a score depends on."""

import pytest
import torch
from torch import nn

from segkd.models._taps import Form, as_feature, as_in_inference, before_classifier, cropped, form_of, reached, watched

SIZE = (64, 96)


@pytest.mark.parametrize(("shape", "patch", "form"), [
    ((1, 7, 16, 24), None, Form("channels first", 7, 4)),
    ((1, 16, 24, 7), None, Form("channels last", 7, 4)),
    ((1, 8, 8, 12), None, Form("channels first", 8, 8)),
    ((1, 6, 7), None, Form("tokens", 7, 32)),
    ((1, 5 + 6, 7), None, None),  # only a plain ViT has tokens that are no patches
    ((1, 5 + 24, 7), 16, Form("tokens", 7, 16, 5)),
    ((1, 7, 5, 7), 14, Form("channels first", 7, 14)),
    ((1, 7, 1, 1), None, None),
    ((24, 1, 7), None, None),
    ((1, 7), None, None),
])  # fmt: skip
def test_forms(shape, patch, form):
    assert form_of(torch.zeros(shape), SIZE, patch) == form


def test_what_is_no_tensor_is_no_map():
    assert form_of(None, SIZE, None) is None and form_of((torch.zeros(1, 2, 4, 6),), SIZE, None) is None


def test_every_layout_gives_the_same_map():
    maps = torch.arange(2 * 3 * 4 * 6.0).view(2, 3, 4, 6)
    last = maps.permute(0, 2, 3, 1)
    tokens = torch.cat([torch.full((2, 5, 3), -1.0), last.flatten(1, 2)], dim=1)
    for tensor, form in [(maps, Form("channels first", 3, 16)), (last, Form("channels last", 3, 16)),
                         (tokens, Form("tokens", 3, 16, 5))]:  # fmt: skip
        assert torch.equal(as_feature(tensor, form, SIZE), maps)
        assert torch.equal(cropped(maps, form.stride, (33, 80)), maps[..., :3, :5])


class Net(nn.Module):
    """A convolution that counts, one whose output nobody reads, and a classifier."""

    def __init__(self):
        super().__init__()
        self.inner, self.idle, self.classifier = nn.Conv2d(3, 4, 1), nn.Conv2d(3, 5, 1), nn.Conv2d(4, 5, 1)
        self.auxiliary_head, self.last = nn.Conv2d(4, 5, 1), nn.Conv2d(5, 5, 1)

    def forward(self, x):
        self.idle(x)
        return self.last(self.classifier(self.inner(x).relu()))


def test_reached_parameters():
    net = Net()
    net.inner.bias.requires_grad_(False)
    found = reached([net(torch.ones(1, 3, 2, 2)).sum()])
    assert {name for name, parameter in net.named_parameters() if parameter in found} == {
        "inner.weight", "classifier.weight", "classifier.bias", "last.weight", "last.bias"
    }  # fmt: skip


def test_watched_modules_leave_their_ends_and_no_hook():
    net, x = Net(), torch.ones(1, 3, 2, 2)
    assert before_classifier(net, 5) == ("classifier", "input") and before_classifier(net, 6) is None
    with watched(net, {"head": ("classifier", "input"), "first": ("inner", "output")}) as seen:
        net(x)
    assert torch.equal(seen["first"], net.inner(x)) and torch.equal(seen["head"], net.inner(x).relu())
    seen.clear()
    net(x)
    assert seen == {}


def test_a_look_leaves_modes_and_draws_as_they_were():
    net, state = Net(), torch.get_rng_state()
    net.idle.eval()
    with as_in_inference(net):
        assert not any(module.training for module in net.modules())
        torch.rand(1)
    assert [name for name, module in net.named_modules() if not module.training] == ["idle"]
    assert torch.equal(torch.get_rng_state(), state)
