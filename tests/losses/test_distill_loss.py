"""The distillation loss against naive loops over the definitions; k-means and temperature against what they promise."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from lowdino_edge.losses.distill import (
    centred_unit,
    kl_distillation,
    spherical_kmeans,
    temperature_for_entropy,
)


def _naive_kl(student: list[float], teacher: list[float], t: float) -> tuple[float, float]:
    def softmax(row: list[float]) -> list[float]:
        e = [math.exp(v / t) for v in row]
        return [v / sum(e) for v in e]

    p, q = softmax(teacher), softmax(student)
    kl = sum(a * math.log(a / b) for a, b in zip(p, q, strict=True))
    return kl, -sum(a * math.log(a) for a in p)


@settings(max_examples=50, deadline=None)
@given(st.integers(1, 5), st.integers(2, 9), st.floats(0.5, 8), st.integers(0, 10**6))
def test_kl_is_the_mean_of_the_definition(b: int, k: int, t: float, seed: int) -> None:
    g = torch.Generator().manual_seed(seed)
    s_BK, t_BK = torch.randn(b, k, generator=g) * 3, torch.randn(b, k, generator=g) * 3
    pairs = [_naive_kl(s, u, t) for s, u in zip(s_BK.tolist(), t_BK.tolist(), strict=True)]
    kl, entropy = kl_distillation(s_BK, t_BK, t)
    assert float(kl) == pytest.approx(sum(p[0] for p in pairs) / b, rel=1e-4, abs=1e-5)
    assert float(entropy) == pytest.approx(sum(p[1] for p in pairs) / b, rel=1e-4, abs=1e-5)
    assert float(kl) > -1e-5 and -1e-5 < float(entropy) < math.log(k) + 1e-5


def test_kl_is_zero_at_the_teacher_and_finite_for_extreme_logits() -> None:
    l_BK = torch.tensor([[1.0, 2.0, -3.0], [0.0, 0.0, 0.0]])
    assert float(kl_distillation(l_BK, l_BK)[0]) == pytest.approx(0, abs=1e-7)
    far_BK = torch.tensor([[1e4, -1e4, 0.0]])
    kl, entropy = kl_distillation(-far_BK, far_BK)
    assert math.isfinite(float(kl)) and float(entropy) == pytest.approx(0, abs=1e-6)


def test_no_gradient_reaches_the_teacher() -> None:
    s_BK, t_BK = torch.randn(4, 6, requires_grad=True), torch.randn(4, 6, requires_grad=True)
    kl_distillation(s_BK, t_BK)[0].backward()
    assert s_BK.grad is not None and t_BK.grad is None
    expected_BK = (F.softmax(s_BK, 1) - F.softmax(t_BK, 1)).detach() / 4  # Hinton: q - p
    assert torch.allclose(s_BK.grad, expected_BK, atol=1e-6)


def test_t_squared_keeps_the_gradient() -> None:
    """In the high-temperature limit T^2 x gradient does not depend on T (Hinton 2015, eq. 4)."""
    torch.manual_seed(0)
    student_BK, teacher_BK = torch.randn(8, 16), torch.randn(8, 16)

    def gradient(t: float) -> torch.Tensor:
        x = student_BK.clone().requires_grad_()
        (t**2 * kl_distillation(x, teacher_BK, t)[0]).backward()
        assert x.grad is not None
        return x.grad

    assert torch.allclose(gradient(50), gradient(100), rtol=0.05, atol=1e-4)


def _clusters(n: int, k: int, d: int, noise: float, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    g = torch.Generator().manual_seed(seed)
    c_KD = F.normalize(torch.randn(k, d, generator=g), dim=1)
    owner_N = torch.arange(n) % k
    return F.normalize(c_KD[owner_N] + noise * torch.randn(n, d, generator=g), dim=1), c_KD, owner_N


def test_kmeans_centres_are_the_directions_of_their_rows() -> None:
    z_ND, _, _ = _clusters(3000, 20, 32, 0.1)
    c_KD = spherical_kmeans(z_ND, 20, seed=0, iterations=40)
    assert torch.allclose(c_KD.norm(dim=1), torch.ones(20), atol=1e-5)
    owner_N = (z_ND @ c_KD.T).argmax(1)
    for k in range(20):  # Lloyd's fixed point: each centre is the normalised sum of its rows
        assert torch.allclose(c_KD[k], F.normalize(z_ND[owner_N == k].sum(0), dim=0), atol=1e-4)


def test_kmeans_explains_rows_better_than_random_rows_do() -> None:
    z_ND, true_KD, _ = _clusters(4000, 50, 16, 0.15)
    random_KD = z_ND[torch.randperm(4000, generator=torch.Generator().manual_seed(1))[:50]]
    found = (z_ND @ spherical_kmeans(z_ND, 50, seed=1).T).max(1).values.mean()
    assert found > (z_ND @ random_KD.T).max(1).values.mean() + 0.02
    assert found > (z_ND @ true_KD.T).max(1).values.mean() - 0.05


def test_kmeans_is_a_function_of_its_seed_and_of_nothing_else() -> None:
    z_ND, _, _ = _clusters(500, 10, 8, 0.2)
    first = spherical_kmeans(z_ND, 10, seed=3)
    torch.manual_seed(99)
    assert torch.equal(first, spherical_kmeans(z_ND, 10, seed=3))
    assert not torch.equal(first, spherical_kmeans(z_ND, 10, seed=4))


def test_kmeans_with_repeated_rows_has_no_dead_centre() -> None:
    z_ND = F.normalize(
        torch.cat([torch.ones(200, 4), torch.randn(8, 4, generator=torch.Generator().manual_seed(0))]), dim=1
    )
    c_KD = spherical_kmeans(z_ND, 6, seed=0)
    assert torch.isfinite(c_KD).all()
    assert torch.allclose(c_KD.norm(dim=1), torch.ones(6), atol=1e-5)
    with pytest.raises(ValueError, match="9 centres for 4 rows"):
        spherical_kmeans(z_ND[:4], 9, seed=0)


@settings(max_examples=25, deadline=None)
@given(st.floats(0.05, 0.95), st.floats(0.02, 1.0), st.integers(0, 1000))
def test_temperature_gives_the_entropy_asked_for(share: float, spread: float, seed: int) -> None:
    cos_NK = torch.randn(64, 32, generator=torch.Generator().manual_seed(seed)) * spread
    t = temperature_for_entropy(cos_NK, share)
    _, entropy = kl_distillation(cos_NK / t, cos_NK / t)
    assert float(entropy) == pytest.approx(share * math.log(32), rel=1e-3)


def test_centring_spreads_a_narrow_cone() -> None:
    g = torch.Generator().manual_seed(0)
    z_ND = torch.randn(400, 24, generator=g) + 5 * torch.ones(24)
    plain, centred = F.normalize(z_ND, dim=1), centred_unit(z_ND, z_ND.mean(0))
    off = ~torch.eye(400, dtype=torch.bool)
    assert (plain @ plain.T)[off].mean() > 0.9
    assert abs(float((centred @ centred.T)[off].mean())) < 0.01
