import pytest
import torch

from framework.errors import UserError
from framework.viz.flow import flow_colours, flow_wheel


def test_no_flow_is_white():
    assert flow_colours(torch.zeros(4, 5, 2)).eq(255).all()
    assert flow_colours(torch.zeros(4, 5, 2), limit=3.0).eq(255).all()


def test_colour_depends_on_direction_and_length_only():
    flow = torch.zeros(2, 3, 2)
    flow[0, 0], flow[1, 2] = torch.tensor([2.0, 0.0]), torch.tensor([2.0, 0.0])
    flow[0, 1] = torch.tensor([-2.0, 0.0])
    alone = flow_colours(flow, limit=4.0)
    torch.testing.assert_close(alone[0, 0], alone[1, 2])
    assert not torch.equal(alone[0, 0], alone[0, 1])
    other = flow.clone()
    other[1, 0] = torch.tensor([0.0, 4.0])  # a longer neighbour changes nothing
    torch.testing.assert_close(flow_colours(other, limit=4.0)[0, 0], alone[0, 0])


def test_lengths_beyond_the_limit_are_cut():
    near, far = torch.zeros(1, 1, 2), torch.zeros(1, 1, 2)
    near[..., 0], far[..., 0] = 3.0, 30.0
    assert torch.equal(flow_colours(near, 3.0), flow_colours(far, 3.0))


def test_the_wheel_is_the_key_to_the_colours():
    wheel = flow_wheel(65)
    assert wheel[32, 32].eq(255).all() and wheel[0, 0].eq(255).all()
    right = flow_colours(torch.tensor([[[1.0, 0.0]]]), limit=1.0)[0, 0]
    down = flow_colours(torch.tensor([[[0.0, 1.0]]]), limit=1.0)[0, 0]
    assert torch.equal(wheel[32, 64], right) and torch.equal(wheel[64, 32], down)


def test_wrong_shape_is_named():
    with pytest.raises(UserError, match=r"\(H, W, 2\); got \(2, 4, 4\)"):
        flow_colours(torch.zeros(2, 4, 4))
