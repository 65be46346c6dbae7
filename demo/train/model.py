"""DeepSeek-V3.2's architecture at demo size, for training. Parameter names follow the Hugging Face checkpoint."""
import math

import torch
import torch.nn as nn
import torch.nn.functional as F


class Config:
    vocab, hidden, layers, heads = 2048, 256, 4, 4
    q_lora, kv_lora, nope, rope, v = 128, 512, 128, 64, 128
    inter, moe_inter, first_dense = 768, 128, 1
    experts, groups, keep_groups, chosen, scaling = 8, 4, 2, 2, 2.5
    index_heads, index_dim, index_topk = 8, 128, 128
    theta, factor, original, max_pos, eps = 1e4, 4.0, 1024, 4096, 1e-6


def linear(i, o):
    return nn.Linear(i, o, bias=False)


def yarn_frequencies(c):
    i = torch.arange(0, c.rope, 2).float() / c.rope
    freq = 1 / (c.theta ** i)
    dim = lambda beta: c.rope * math.log(c.original / (beta * 2 * math.pi)) / (2 * math.log(c.theta))
    low, high = max(math.floor(dim(32)), 0), min(math.ceil(dim(1)), c.rope - 1)
    ramp = ((torch.arange(c.rope // 2).float() - low) / max(high - low, 0.001)).clamp(0, 1)
    return freq / c.factor * ramp + freq * (1 - ramp)


def rope_interleaved(x, cos, sin):
    a, b = x[..., 0::2], x[..., 1::2]
    return torch.stack([a * cos - b * sin, b * cos + a * sin], -1).flatten(-2)


def rope_half_split(x, cos, sin):
    a, b = x.chunk(2, -1)
    return torch.cat([a * cos - b * sin, b * cos + a * sin], -1)


class RMSNorm(nn.Module):
    def __init__(self, d):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(d))

    def forward(self, x):
        return F.rms_norm(x.float(), (x.shape[-1],), self.weight.float(), 1e-6).to(x.dtype)


class Indexer(nn.Module):
    """Lightning indexer: scores every key for every query with a few small heads."""

    def __init__(self, c):
        super().__init__()
        self.c = c
        self.wq_b = linear(c.q_lora, c.index_heads * c.index_dim)
        self.wk = linear(c.hidden, c.index_dim)
        self.k_norm = nn.LayerNorm(c.index_dim, eps=1e-6)
        self.weights_proj = linear(c.hidden, c.index_heads)

    def forward(self, x, qr, cos, sin):
        c, (b, t, _) = self.c, x.shape
        q = self.wq_b(qr).view(b, t, c.index_heads, c.index_dim)
        k = self.k_norm(self.wk(x)).to(q.dtype)
        # The rotated part comes first here (in MLA it comes last), half-split.
        q = torch.cat([rope_half_split(q[..., :c.rope], cos[:, None], sin[:, None]), q[..., c.rope:]], -1).to(x.dtype)
        k = torch.cat([rope_half_split(k[..., :c.rope], cos, sin), k[..., c.rope:]], -1).to(x.dtype)
        w = self.weights_proj(x).float() * c.index_heads ** -0.5 * c.index_dim ** -0.5
        scores = 0
        for h in range(c.index_heads):
            scores = scores + w[..., h, None] * F.relu(q[:, :, h] @ k.transpose(1, 2)).float()
        return scores


class Attention(nn.Module):
    """MLA. mode: "dense" ignores the indexer; "warm" trains it on all keys; "sparse" attends to its selection."""

    def __init__(self, c):
        super().__init__()
        self.c = c
        self.q_a_proj, self.q_a_layernorm = linear(c.hidden, c.q_lora), RMSNorm(c.q_lora)
        self.q_b_proj = linear(c.q_lora, c.heads * (c.nope + c.rope))
        self.kv_a_proj_with_mqa, self.kv_a_layernorm = linear(c.hidden, c.kv_lora + c.rope), RMSNorm(c.kv_lora)
        self.kv_b_proj = linear(c.kv_lora, c.heads * (c.nope + c.v))
        self.o_proj = linear(c.heads * c.v, c.hidden)
        self.indexer = Indexer(c)
        mscale = 0.1 * math.log(c.factor) + 1
        self.scale = (c.nope + c.rope) ** -0.5 * mscale * mscale

    def forward(self, x, cos, sin, mode, index_losses):
        c, (b, t, _) = self.c, x.shape
        qr = self.q_a_layernorm(self.q_a_proj(x))
        q = self.q_b_proj(qr).view(b, t, c.heads, c.nope + c.rope)
        kv = self.kv_a_proj_with_mqa(x)
        latent = self.kv_a_layernorm(kv[..., :c.kv_lora])
        k_rope = rope_interleaved(kv[..., c.kv_lora:].float(), cos, sin).to(x.dtype)
        q_rope = rope_interleaved(q[..., c.nope:].float(), cos[:, None], sin[:, None]).to(x.dtype)
        e = self.kv_b_proj(latent).view(b, t, c.heads, c.nope + c.v)
        Q = torch.cat([q[..., :c.nope], q_rope], -1).transpose(1, 2)
        K = torch.cat([e[..., :c.nope], k_rope[:, :, None].expand(-1, -1, c.heads, -1)], -1).transpose(1, 2)
        V = e[..., c.nope:].transpose(1, 2)
        if mode == "dense":
            o = F.scaled_dot_product_attention(Q, K, V, is_causal=True, scale=self.scale)
        else:
            o = self.selected(x, qr, Q, K, V, cos, sin, mode, index_losses)
        return self.o_proj(o.transpose(1, 2).reshape(b, t, -1))

    def selected(self, x, qr, Q, K, V, cos, sin, mode, index_losses):
        """Attention over the indexer's selection; adds the KL of the indexer to the head-summed attention."""
        b, t, _ = x.shape
        causal = torch.ones(t, t, dtype=torch.bool, device=x.device).tril()
        scores = self.indexer(x.detach(), qr.detach(), cos, sin).masked_fill(~causal, float("-inf"))
        if mode == "warm":
            chosen = causal[None].expand(b, -1, -1)
        else:
            best = scores.detach().topk(min(self.c.index_topk, t), -1).indices
            chosen = torch.zeros(b, t, t, dtype=torch.bool, device=x.device).scatter_(-1, best, True) & causal
        a = (Q @ K.transpose(2, 3)).float() * self.scale
        p = a.masked_fill(~chosen[:, None], float("-inf")).softmax(-1)
        target = p.detach().sum(1)
        target = target / target.sum(-1, keepdim=True)
        log_index = scores.masked_fill(~chosen, float("-inf")).log_softmax(-1)
        kl = torch.where(chosen & (target > 0), target * (target.clamp_min(1e-9).log() - log_index),
                         torch.zeros((), device=x.device))
        index_losses.append(kl.sum(-1).mean())
        return p.to(V.dtype) @ V


class MLP(nn.Module):
    def __init__(self, h, i):
        super().__init__()
        self.gate_proj, self.up_proj, self.down_proj = linear(h, i), linear(h, i), linear(i, h)

    def forward(self, x):
        return self.down_proj(F.silu(self.gate_proj(x)) * self.up_proj(x))


class MoE(nn.Module):
    """All experts are computed and gated: at this size that is faster than routing."""

    def __init__(self, c):
        super().__init__()
        self.c = c
        self.gate = linear(c.hidden, c.experts)
        self.register_buffer("bias", torch.zeros(c.experts))
        n = c.experts * c.moe_inter
        self.gp, self.up, self.dn = linear(c.hidden, n), linear(c.hidden, n), linear(n, c.hidden)
        self.shared_experts = MLP(c.hidden, c.moe_inter)
        self.load = None  # tokens per expert in the last forward pass

    def forward(self, x):
        c = self.c
        with torch.autocast("cuda", enabled=False):
            scores = F.linear(x.float(), self.gate.weight.float()).sigmoid()
        groups = (scores + self.bias).view(*scores.shape[:-1], c.groups, -1)
        best = groups.topk(2, -1).values.sum(-1).topk(c.keep_groups, -1).indices
        keep = torch.zeros(groups.shape[:-1], device=x.device).scatter_(-1, best, 1.0).bool()
        choice = groups.masked_fill(~keep[..., None], float("-inf")).flatten(-2).topk(c.chosen, -1).indices
        w = scores.gather(-1, choice)
        w = w / (w.sum(-1, keepdim=True) + 1e-20) * c.scaling
        gate = torch.zeros_like(scores).scatter(-1, choice, w)
        if self.training:
            ones = torch.ones_like(choice.flatten(), dtype=torch.float)
            self.load = torch.zeros_like(self.bias).scatter_add_(0, choice.flatten(), ones)
        h = (F.silu(self.gp(x)) * self.up(x)).view(*x.shape[:-1], c.experts, c.moe_inter)
        return self.dn((h * gate[..., None].to(h.dtype)).flatten(-2)) + self.shared_experts(x)


class Layer(nn.Module):
    def __init__(self, c, dense):
        super().__init__()
        self.input_layernorm, self.self_attn = RMSNorm(c.hidden), Attention(c)
        self.post_attention_layernorm = RMSNorm(c.hidden)
        self.mlp = MLP(c.hidden, c.inter) if dense else MoE(c)

    def forward(self, x, cos, sin, mode, index_losses):
        x = x + self.self_attn(self.input_layernorm(x), cos, sin, mode, index_losses)
        return x + self.mlp(self.post_attention_layernorm(x))


class Model(nn.Module):
    def __init__(self, c=Config):
        super().__init__()
        self.c = c
        self.embed_tokens = nn.Embedding(c.vocab, c.hidden)
        self.layers = nn.ModuleList([Layer(c, i < c.first_dense) for i in range(c.layers)])
        self.norm, self.lm_head = RMSNorm(c.hidden), linear(c.hidden, c.vocab)
        # The MTP layer predicts the token after next from the final hidden state and the next token.
        self.mtp = Layer(c, False)
        self.enorm, self.hnorm, self.mtp_norm = RMSNorm(c.hidden), RMSNorm(c.hidden), RMSNorm(c.hidden)
        self.eh_proj = linear(2 * c.hidden, c.hidden)
        self.register_buffer("freq", yarn_frequencies(c), persistent=False)
        for p in self.parameters():
            if p.dim() == 2:
                nn.init.normal_(p, std=0.02 if p.shape[0] == c.vocab else 0.8 / math.sqrt(p.shape[1]))

    def forward(self, ids, mode="dense", mtp=True):
        """Logits, logits of the MTP layer (or None), and the indexers' losses."""
        t = ids.shape[1]
        angle = torch.arange(t, device=ids.device).float()[:, None] * self.freq[None]
        cos, sin, index_losses = angle.cos(), angle.sin(), []
        x = self.embed_tokens(ids)
        for layer in self.layers:
            x = layer(x, cos, sin, mode, index_losses)
        h = self.norm(x)
        logits = self.lm_head(h)
        if not mtp:
            return logits, None, index_losses
        y = self.eh_proj(torch.cat([self.enorm(self.embed_tokens(ids[:, 1:])), self.hnorm(h[:, :-1])], -1))
        y = self.mtp(y, cos[:t - 1], sin[:t - 1], mode, index_losses)
        return logits, self.lm_head(self.mtp_norm(y)), index_losses
