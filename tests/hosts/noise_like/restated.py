"""The steps of Duo, GIDD and SCDD as dense distributions, restated from their formulas; the real code is asked by
``tests/integrations/test_noise_real.py``. p (V,) f64 is the model's x_theta, now the token x_t.
"""

import torch
from torch import Tensor
from torch.nn.functional import one_hot

Law = Tensor


def duo(p: Tensor, now: int, alpha_t: float, alpha_s: float) -> Law:
    """Its paper's equation 6 (arXiv 2506.10892), every symbol of V noise."""
    V, ratio, here = len(p), alpha_t / alpha_s, one_hot(torch.tensor(now), len(p)).double()
    top = V * alpha_t * p * here + (ratio - alpha_t) * here + (alpha_s - alpha_t) * p + (1 - ratio) * (1 - alpha_s) / V
    return top / (V * alpha_t * p[now] + 1 - alpha_t)


def psi(p: Tensor, now: int, alpha_t: float, alpha_s: float, kappa: float) -> Law:
    """kappa of the posterior, the rest x_0 noised afresh (arXiv 2602.21185)."""
    afresh = alpha_s * duo(p, now, alpha_t, 1.0) + (1 - alpha_s) / len(p)
    return kappa * duo(p, now, alpha_t, alpha_s) + (1 - kappa) * afresh


def mix(t: float, most: float, V: int, mask: int) -> tuple[float, Tensor]:
    """GIDD's alpha_t and beta_t pi_t (V,), gamma 1 (arXiv 2503.04482)."""
    B = 2 * most / (1 - most)
    c = B * (t * (1 - t)) ** 0.5
    even = torch.full((V,), 1 / (V - 1), dtype=torch.float64)
    even[mask] = 0
    return (1 - t) / (1 + c), (t * one_hot(torch.tensor(mask), V) + c * even) / (1 + c)


def gidd(p: Tensor, now: int, t: float, s: float, most: float, mask: int) -> Law:
    """q(x_t | x_s) q_s(x_s) / q_t(x_t), of p (V,) with 0 at the mask."""
    (alpha_t, beta_t), (alpha_s, beta_s) = mix(t, most, len(p), mask), mix(s, most, len(p), mask)
    ratio = alpha_t / alpha_s
    forward = ratio * one_hot(torch.tensor(now), len(p)) + (beta_t - ratio * beta_s)[now]
    return forward * (alpha_s * p + beta_s) / (alpha_t * p + beta_t)[now]


def scdd(p: Tensor, now: int, t: float, s: float, most: float, mask: int) -> Law:
    """Its two cases (arXiv 2603.02230): a visible token stays visible, a mask turns or stays."""
    V = len(p)
    (alpha_t, beta_t), (alpha_s, beta_s) = mix(t, most, V, mask), mix(s, most, V, mask)
    gamma_t, gamma_s = 1 - float(beta_t[mask]), 1 - float(beta_s[mask])
    ratio = alpha_t / alpha_s
    even = gamma_t / gamma_s - ratio
    if now == mask:
        q = (1 - gamma_t / gamma_s) / (1 - gamma_t) * (alpha_s * p + beta_s)
        q[mask] = (1 - gamma_s) / (1 - gamma_t)
        return q
    q = (alpha_s * p + beta_s) * even / (V - 1)
    q[now] += ratio * (alpha_s * p + beta_s)[now]
    q[mask] = 0
    return q / (alpha_t * p + beta_t)[now]
