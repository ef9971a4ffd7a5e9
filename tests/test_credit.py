"""Entropy, credit and norms against closed forms."""

import math

import pytest
import torch

from scr import ConfigError
from scr.credit import attention_entropy, credit_entropy, hidden_norms, patch_credit


def test_entropy_of_known_distributions():
    assert attention_entropy(torch.ones(6, 6)).item() == pytest.approx(math.log(36))
    assert attention_entropy(torch.ones(6, 6), normalized=True).item() == pytest.approx(1)
    assert attention_entropy(torch.tensor([0.0, 5.0, 0.0])).item() == 0
    assert attention_entropy(torch.tensor([2.0]), normalized=True).item() == 0
    assert attention_entropy(torch.tensor([1.0, 3.0])).item() == pytest.approx(
        -0.25 * math.log(0.25) - 0.75 * math.log(0.75)
    )


def test_entropy_does_not_depend_on_scale():
    attention = torch.rand(24, 24)
    assert attention_entropy(attention * 1e-6).item() == pytest.approx(attention_entropy(attention).item())


@pytest.mark.parametrize("bad", [torch.zeros(3), torch.tensor([1.0, -1.0]), torch.tensor([1.0, torch.inf])])
def test_entropy_refuses_what_is_no_distribution(bad):
    with pytest.raises(ConfigError, match="entropy"):
        attention_entropy(bad)


def test_credit_is_gradient_norm_times_hidden_norm():
    hidden = torch.randn(5, 7, requires_grad=True)
    weight = torch.randn(7)
    (hidden @ weight).sum().backward()
    expected = weight.norm() * hidden.detach().norm(dim=-1)
    assert torch.allclose(patch_credit(hidden.grad, hidden.detach()), expected)
    assert torch.allclose(hidden_norms(hidden.detach()), hidden.detach().norm(dim=-1))
    assert credit_entropy(expected).item() == pytest.approx(attention_entropy(expected).item())
