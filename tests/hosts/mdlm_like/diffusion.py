"""A masked diffusion model with the face of MDLM's `diffusion.Diffusion`."""

import itertools

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class LogLinear(nn.Module):
    """Chance of a mask at t is (1 - eps) t."""

    def total_noise(self, t: Tensor) -> Tensor:
        return -torch.log1p(-(1 - 1e-3) * t)

    def forward(self, t: Tensor) -> tuple[Tensor, Tensor]:
        return self.total_noise(t), (1 - 1e-3) / (1 - (1 - 1e-3) * t)


class FinalLayer(nn.Module):
    def __init__(self, size: int, vocab_size: int, cond_dim: int) -> None:
        super().__init__()
        self.norm_final = nn.LayerNorm(size)
        self.linear = nn.Linear(size, vocab_size)
        self.adaLN_modulation = nn.Linear(cond_dim, 2 * size)

    def forward(self, x: Tensor, c: Tensor) -> Tensor:
        shift, scale = self.adaLN_modulation(c)[:, None].chunk(2, dim=2)
        return self.linear(self.norm_final(x) * (1 + scale) + shift)


class DIT(nn.Module):
    """Token and place embeddings, a few transformer layers, an output layer that takes (x, c)."""

    def __init__(self, config, vocab_size: int) -> None:
        super().__init__()
        size, cond = config.model.hidden_size, config.model.cond_dim
        self.vocab_embed = nn.Embedding(vocab_size, size)
        self.place = nn.Parameter(0.1 * torch.randn(config.model.length, size))
        self.sigma_map = nn.Sequential(nn.Linear(1, cond), nn.SiLU(), nn.Linear(cond, cond))
        layer = nn.TransformerEncoderLayer(size, config.model.n_heads, 2 * size, dropout=0.0, batch_first=True)
        self.blocks = nn.TransformerEncoder(layer, config.model.n_blocks, enable_nested_tensor=False)
        self.output_layer = FinalLayer(size, vocab_size, cond)

    def forward(self, indices: Tensor, sigma: Tensor) -> Tensor:
        c = F.silu(self.sigma_map(sigma[:, None]))
        return self.output_layer(self.blocks(self.vocab_embed(indices) + self.place), c)


class EMA:
    def __init__(self, parameters, decay: float) -> None:
        self.decay = decay
        self.shadow_params = [p.detach().clone() for p in parameters]

    def update(self, parameters) -> None:
        for shadow, p in zip(self.shadow_params, parameters, strict=True):
            shadow.lerp_(p.detach(), 1 - self.decay)

    def store(self, parameters) -> None:
        self.kept = [p.detach().clone() for p in parameters]

    def copy_to(self, parameters) -> None:
        for shadow, p in zip(self.shadow_params, parameters, strict=True):
            p.data.copy_(shadow)

    def restore(self, parameters) -> None:
        for kept, p in zip(self.kept, parameters, strict=True):
            p.data.copy_(kept)


class Diffusion(nn.Module):
    def __init__(self, config, tokenizer) -> None:
        super().__init__()
        self.config, self.tokenizer = config, tokenizer
        self.mask_index, self.vocab_size = tokenizer.vocab_size, tokenizer.vocab_size + 1
        self.parameterization, self.time_conditioning = config.parameterization, config.time_conditioning
        self.sampler = config.sampling.predictor
        self.backbone, self.noise = DIT(config, self.vocab_size), LogLinear()
        self.ema = EMA(self.weights(), config.training.ema) if config.training.ema else None

    def weights(self):
        return itertools.chain(self.backbone.parameters(), self.noise.parameters())

    @property
    def device(self) -> torch.device:
        return self.backbone.place.device

    @classmethod
    def load_from_checkpoint(cls, path, tokenizer, config) -> "Diffusion":
        saved = torch.load(path, weights_only=True)
        model = cls(config, tokenizer)
        model.load_state_dict(saved["state_dict"])
        if model.ema:
            model.ema.shadow_params = saved["ema"]["shadow_params"]
        return model

    def forward(self, x: Tensor, sigma: Tensor) -> Tensor:
        """Log-posterior: the mask is never drawn, a visible token is certain."""
        sigma = sigma.flatten() if self.time_conditioning else torch.zeros(len(x), device=x.device)
        logits = self.backbone(x, sigma)
        logits[..., self.mask_index] = -1e6
        known = F.one_hot(x, self.vocab_size).float().log().clamp(min=-1e6)
        return torch.where((x == self.mask_index)[..., None], logits.log_softmax(-1), known)

    def _loss(self, x: Tensor) -> Tensor:
        t = torch.rand(len(x), 1).clamp(min=1e-2)
        masked = torch.rand(x.shape) < t
        log_p = self.forward(torch.where(masked, self.mask_index, x), self.noise(t)[0])
        return -(log_p.gather(-1, x[..., None])[..., 0] * masked / t).mean()

    def _sample_prior(self, *size: int) -> Tensor:
        return torch.full(size, self.mask_index)

    def _ddpm_caching_update(self, x: Tensor, t: Tensor, dt: float, p_x0: Tensor | None = None):
        if p_x0 is None:
            p_x0 = self.forward(x, self.noise(t)[0]).exp()
        leave = torch.rand(x.shape, device=x.device) < dt / t
        drawn = torch.distributions.Categorical(p_x0).sample()
        return p_x0, torch.where((x == self.mask_index) & leave, drawn, x)

    @torch.no_grad()
    def _sample(self, num_steps=None, eps=1e-5):
        num_steps = num_steps or self.config.sampling.steps
        x = self._sample_prior(self.config.loader.eval_batch_size, self.config.model.length).to(self.device)
        times, dt = torch.linspace(1, eps, num_steps + 1), (1 - eps) / num_steps
        for t in times[:-1]:
            x = self._ddpm_caching_update(x, t.expand(len(x), 1), dt)[1]
        return self.forward(x, self.noise(times[-1].expand(len(x), 1))[0]).argmax(-1)

    def restore_model_and_sample(self, num_steps, eps=1e-5):
        self.ema.store(self.weights())
        self.ema.copy_to(self.weights())
        self.backbone.eval()
        samples = self._sample(num_steps=num_steps, eps=eps)
        self.ema.restore(self.weights())
        self.backbone.train()
        return samples

    def restore_model_and_semi_ar_sample(self, stride_length, num_strides, dt=0.001):
        return 0, [], []


class RemaskingDiffusion(Diffusion):
    """The face of ReMDM's class: its update also takes and gives minus the probability each token was written with."""

    def _dfm_caching_update(self, x, t, p_x0=None):
        return p_x0, x, t

    def _ddpm_caching_update(self, x, t, dt, p_x0=None, conf=None):
        if p_x0 is None:
            p_x0 = self.forward(x, self.noise(t)[0]).exp()
        kept_t, kept_s = 1 - t, 1 - t + dt
        visible = x != self.mask_index
        share = conf.masked_fill(~visible, -torch.inf).softmax(-1).nan_to_num()
        remasked = visible & (torch.rand(x.shape) < share * ((1 - kept_s) / kept_t).clamp(max=1))
        filled = ~visible & (torch.rand(x.shape) < (kept_s - kept_t) / (1 - kept_t))
        drawn = torch.distributions.Categorical(p_x0).sample()
        conf = torch.where(filled, -p_x0.gather(-1, drawn[..., None])[..., 0], conf)
        return p_x0, torch.where(filled, drawn, x.masked_fill(remasked, self.mask_index)), conf
