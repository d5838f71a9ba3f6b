"""A LLaMA put together from refrope's functions: what a user of them would write, forward and backward."""

import numpy as np


class Llama:
    """Logits and gradients of a model with transformers' weights.

    Parameters
    ----------
    ops : refrope.kernels or NumpyOps
    config : transformers.LlamaConfig
    weights : dict of float64 arrays by the names of transformers' state dict, each linear weight (out, in)
    """

    def __init__(self, ops, config, weights):
        self.ops, self.config, self.weights = ops, config, weights
        self.grads, self.saved = {}, []

    def forward(self, tokens, tables):
        """(B, T) -> (B, T, vocabulary)."""
        ops, c = self.ops, self.config
        self.tokens, self.tables, self.batch = tokens.ravel(), tables, len(tokens)
        x = ops.embedding_forward(self.tokens, self.weights["model.embed_tokens.weight"])
        self.saved = []
        for i in range(c.num_hidden_layers):
            x = self._mlp_forward(f"model.layers.{i}", self._attention_forward(f"model.layers.{i}", x))
        y, inv_rms = self._norm("model.norm.weight", x)
        self.saved.append((x, y, inv_rms))
        return self._linear(self._head(), y).reshape(*tokens.shape, -1)

    def backward(self, dlogits):
        """Gradients of all weights, by name."""
        c, self.grads = self.config, {}
        x, y, inv_rms = self.saved.pop()
        dy = self._linear_backward(self._head(), dlogits.reshape(len(x), -1), y)
        dx = self._norm_backward("model.norm.weight", dy, x, inv_rms)
        for i in reversed(range(c.num_hidden_layers)):
            dx = self._attention_backward(f"model.layers.{i}", self._mlp_backward(f"model.layers.{i}", dx))
        name = "model.embed_tokens.weight"
        dtable = self.grads.setdefault(name, np.zeros_like(self.weights[name]))
        self.ops.embedding_backward(dx, self.tokens, dtable)
        return self.grads

    def _attention_forward(self, p, x):
        ops, c = self.ops, self.config
        n, inv_rms = self._norm(f"{p}.input_layernorm.weight", x)
        q, k, v = (self._heads(self._linear(f"{p}.self_attn.{name}_proj.weight", n)) for name in "qkv")
        q, k = ops.rotate(q, *self.tables), ops.rotate(k, *self.tables)
        o, lse = ops.attention_forward(q, k, v)
        rows = self._rows(o)
        self.saved.append((x, n, inv_rms, q, k, v, o, lse, rows))
        assert o.shape[1] == c.num_attention_heads
        return x + self._linear(f"{p}.self_attn.o_proj.weight", rows)

    def _attention_backward(self, p, dy):
        ops = self.ops
        x, n, inv_rms, q, k, v, o, lse, rows = self.saved.pop()
        do = self._heads(self._linear_backward(f"{p}.self_attn.o_proj.weight", dy, rows))
        dq, dk, dv = ops.attention_backward(do, q, k, v, o, lse)
        dq, dk = (ops.rotate(g, *self.tables, transpose=True) for g in (dq, dk))
        dn = sum(
            self._linear_backward(f"{p}.self_attn.{name}_proj.weight", self._rows(g), n)
            for name, g in zip("qkv", (dq, dk, dv), strict=True)
        )
        return self._norm_backward(f"{p}.input_layernorm.weight", dn, x, inv_rms, residual=dy)

    def _mlp_forward(self, p, x):
        n, inv_rms = self._norm(f"{p}.post_attention_layernorm.weight", x)
        gate, up = (self._linear(f"{p}.mlp.{name}_proj.weight", n) for name in ("gate", "up"))
        h = self.ops.swiglu_forward(gate, up)
        self.saved.append((x, n, inv_rms, gate, up, h))
        return x + self._linear(f"{p}.mlp.down_proj.weight", h)

    def _mlp_backward(self, p, dy):
        x, n, inv_rms, gate, up, h = self.saved.pop()
        dh = self._linear_backward(f"{p}.mlp.down_proj.weight", dy, h)
        dgate, dup = self.ops.swiglu_backward(dh, gate, up)
        dn = self._linear_backward(f"{p}.mlp.gate_proj.weight", dgate, n)
        dn += self._linear_backward(f"{p}.mlp.up_proj.weight", dup, n)
        return self._norm_backward(f"{p}.post_attention_layernorm.weight", dn, x, inv_rms, residual=dy)

    def _head(self):
        return "model.embed_tokens.weight" if self.config.tie_word_embeddings else "lm_head.weight"

    def _norm(self, name, x):
        return self.ops.rmsnorm_forward(x, self.weights[name], eps=self.config.rms_norm_eps)

    def _norm_backward(self, name, dy, x, inv_rms, residual=None):
        dx, self.grads[name] = self.ops.rmsnorm_backward(dy, x, self.weights[name], inv_rms, residual=residual)
        return dx

    def _linear(self, name, x):
        return self.ops.linear_forward(x, self.weights[name].T)

    def _linear_backward(self, name, dy, x):
        dx, dweight = self.ops.linear_backward(dy, x, self.weights[name].T)
        self.grads[name] = dweight.T.copy()
        return dx

    def _heads(self, rows):
        """(N, H D) -> (B, H, T, D)."""
        return rows.reshape(self.batch, len(rows) // self.batch, -1, self.config.head_dim).transpose(0, 2, 1, 3)

    def _rows(self, heads):
        return heads.transpose(0, 2, 1, 3).reshape(len(self.tokens), -1)
