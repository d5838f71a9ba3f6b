"""The same mathematics in PyTorch's own operations, written from the papers; autograd takes the gradients."""

import torch
import torch.nn.functional as F

DROPOUT_STEPS = 2**32  # refrope's dropout rounds its probability to a multiple of 1 / 2^32


def leaf(array):
    """A float64 tensor with a gradient, sharing no memory with `array`."""
    return torch.tensor(array, dtype=torch.float64, requires_grad=True)


def visible(n_q, n_k, causal):
    """(T_q, T_k) of bool: the last query stands at the last key and nobody looks ahead."""
    if not causal:
        return torch.ones(n_q, n_k, dtype=torch.bool)
    place = torch.arange(n_k)
    return place[None, :] <= place[n_k - n_q :, None]


def attention(q, k, v, *, causal=True, scale=None, bias=None, kept=None, dropout=0.0):
    """Softmax attention (Vaswani et al. 2017, Eq. 1) with grouped queries: the result and log sum exp of the scores.

    `kept` (B, H, T_q, T_k) of bool says which weights dropout leaves.
    """
    group = q.shape[1] // k.shape[1]
    k, v = k.repeat_interleave(group, dim=1), v.repeat_interleave(group, dim=1)
    scores = torch.einsum("bhid,bhjd->bhij", q, k) * (q.shape[-1] ** -0.5 if scale is None else scale)
    if bias is not None:
        scores = scores + bias
    scores = scores.masked_fill(~visible(q.shape[2], k.shape[2], causal), -torch.inf)
    weights = torch.softmax(scores, dim=-1)
    if kept is not None:
        weights = keep(weights, kept, dropout)
    return torch.einsum("bhij,bhjd->bhid", weights, v), torch.logsumexp(scores, dim=-1)


def keep(x, kept, dropout):
    """Dropout (Srivastava et al. 2014) with a given mask."""
    return torch.where(kept, x / (1 - round(dropout * DROPOUT_STEPS) / DROPOUT_STEPS), 0.0)


def turn(x, turns, *, layout="half", suffix=False):
    """Rotary embedding as complex multiplication (Su et al. 2021, Eq. 12): `turns` (T, pairs) are e^(i angle).

    Features beyond the pairs, or before them with `suffix`, stay.
    """
    width = 2 * turns.shape[-1]
    rest = x.shape[-1] - width
    if suffix:
        still, moving = x.split([rest, width], dim=-1)
    else:
        moving, still = x.split([width, rest], dim=-1)
    shape = (-1, 2) if layout == "interleaved" else (2, -1)
    pairs = moving.unflatten(-1, shape)
    axis = -1 if layout == "interleaved" else -2
    product = torch.complex(pairs.select(axis, 0), pairs.select(axis, 1)) * turns
    moved = torch.stack([product.real, product.imag], dim=axis).flatten(-2)
    return torch.cat([still, moved] if suffix else [moved, still], dim=-1)


class Model:
    """A pre-norm decoder with T5's RMSNorm, ReLU feed-forward and tied, scaled head, and rotary positions.

    Parameters
    ----------
    config : object with the fields of `refrope.TransformerConfig`
    weights : dict of arrays
        By refrope's names; `attention.qkv` holds the columns of all queries, all keys, all values.
    """

    def __init__(self, config, weights):
        self.config = config
        self.weights = {name: leaf(w) for name, w in weights.items()}

    def logits(self, tokens, turns, *, masks=None):
        """(B, T) -> (B, T, vocabulary). `masks` holds by site what dropout leaves."""
        c, w = self.config, self.weights

        def drop(x, site):
            return x if masks is None else keep(x, masks[site].reshape(x.shape), c.dropout)

        def norm(x, name):
            return F.rms_norm(x, [c.d_model], w[name], c.eps)

        x = drop(F.embedding(tokens, w["embedding"]), "embedding")
        for i in range(c.layers):
            p = f"layers.{i}.attention"
            to_q, to_k, to_v = w[f"{p}.qkv"].chunk(3, dim=1)
            h = norm(x, f"{p}.gain")
            q, k, v = ((h @ to).unflatten(-1, (c.heads, -1)).transpose(1, 2) for to in (to_q, to_k, to_v))
            dropping = {} if masks is None else {"kept": masks[f"{p}.weights"], "dropout": c.dropout}
            o, _ = attention(turn(q, turns), turn(k, turns), v, scale=c.softmax_scale, **dropping)
            x = x + drop(o.transpose(1, 2).flatten(2) @ w[f"{p}.out"], f"{p}.out")
            p = f"layers.{i}.feed_forward"
            h = drop(F.relu(norm(x, f"{p}.gain") @ w[f"{p}.in"]), f"{p}.in")
            x = x + drop(h @ w[f"{p}.out"], f"{p}.out")
        x = drop(norm(x, "final.gain"), "final")
        return F.linear(x, w["embedding"]) / c.d_model**0.5
