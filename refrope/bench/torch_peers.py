"""The same work in PyTorch, as its users would write it. Every function raises ImportError where torch is missing."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from refrope import kernels, posgen
from refrope.bench.timing import Task
from refrope.encodings import RoPE
from refrope.nn.configuration import TransformerConfig, initial_weights

Array = npt.NDArray[Any]


def load() -> Any:
    """The module torch, on as many threads as the kernels."""
    import torch

    torch.set_num_threads(kernels.get_num_threads())
    return torch


def rotations(x: Array, cos: Array, sin: Array) -> dict[str, Task]:
    """Rotary embedding of (..., T, D) in the form of Hugging Face's Llama, and as a product of complex numbers."""
    torch = load()
    half, complex_x = torch.tensor(x), torch.view_as_complex(torch.tensor(x).unflatten(-1, (-1, 2)))
    wide_cos, wide_sin = (torch.tensor(np.concatenate([t, t], axis=-1)) for t in (cos, sin))
    turns, out = torch.complex(torch.tensor(cos), torch.tensor(sin)), torch.empty_like(complex_x)

    def hugging_face() -> Any:
        middle = half.shape[-1] // 2
        return half * wide_cos + torch.cat((-half[..., middle:], half[..., :middle]), dim=-1) * wide_sin

    return {"Hugging Face's form": hugging_face, "torch complex": lambda: torch.mul(complex_x, turns, out=out)}


def attentions(q: Array, k: Array, v: Array, dout: Array) -> tuple[Task, Task]:
    """Causal scaled dot product attention: the forward call, and the backward call of one forward."""
    torch = load()
    leaves = [torch.tensor(x, requires_grad=True) for x in (q, k, v)]
    attention = torch.nn.functional.scaled_dot_product_attention
    out, given = attention(*leaves, is_causal=True), torch.tensor(dout)

    def forward() -> Any:
        with torch.no_grad():
            return attention(*leaves, is_causal=True)

    return forward, lambda: torch.autograd.grad(out, leaves, given, retain_graph=True)


def layers(
    x: Array, gain: Array, wide: Array, up: Array, logits: Array, targets: Array, weight: Array, grad: Array
) -> dict[str, Task]:
    """Forward calls of the layers around attention and an AdamW step, by how the names of our cases begin."""
    torch = load()
    functional = torch.nn.functional
    rows, scale, inside, other, scores = (torch.tensor(a) for a in (x, gain, wide, up, logits))
    answers, parameter = torch.tensor(targets), torch.nn.Parameter(torch.tensor(weight))
    parameter.grad = torch.tensor(grad)
    optimizer = torch.optim.AdamW([parameter], lr=1e-3, fused=True)
    return {
        "rmsnorm forward": lambda: functional.rms_norm(rows, scale.shape, scale, 1e-6),
        "ReLU forward": lambda: torch.relu(inside),
        "SwiGLU forward": lambda: functional.silu(inside) * other,
        "dropout": lambda: functional.dropout(inside, 0.1),
        "cross-entropy forward": lambda: functional.cross_entropy(scores, answers),
        "embedding forward": lambda: functional.embedding(answers, rows[:18]),
        "AdamW": optimizer.step,
    }


class Model:
    """The transformer of `refrope.nn.transformer` in PyTorch's own functions: fused attention, RMSNorm, AdamW."""

    def __init__(self, config: TransformerConfig, length: int) -> None:
        self.torch = load()
        self.config, self.length = config, length
        weights = config.views(initial_weights(config, 1, np.float32))
        self.params = {name: self.torch.nn.Parameter(self.torch.tensor(w)) for name, w in weights.items()}
        tables = RoPE(config.head_dim).cos_sin(np.arange(length))
        self.cos, self.sin = (self.torch.tensor(np.tile(t, 2)) for t in tables)

    def logits(self, tokens: Any) -> Any:
        """(B, T) -> (B, T, vocabulary), with the configuration's dropout."""
        c, params, functional = self.config, self.params, self.torch.nn.functional
        drop = c.dropout

        def rotate(x: Any) -> Any:
            half = c.head_dim // 2
            return x * self.cos + self.torch.cat((-x[..., half:], x[..., :half]), dim=-1) * self.sin

        def norm(x: Any, gain: str) -> Any:
            return functional.rms_norm(x, (c.d_model,), params[gain], c.eps)

        x = functional.dropout(functional.embedding(tokens, params["embedding"]), drop)
        for i in range(c.layers):
            p = f"layers.{i}"
            qkv = norm(x, f"{p}.attention.gain") @ params[f"{p}.attention.qkv"]
            q, k, v = qkv.view(len(x), self.length, 3, c.heads, c.head_dim).permute(2, 0, 3, 1, 4)
            o = functional.scaled_dot_product_attention(
                rotate(q), rotate(k), v, dropout_p=drop, is_causal=True, scale=c.softmax_scale
            )
            o = o.transpose(1, 2).reshape(len(x), self.length, -1)
            x = x + functional.dropout(o @ params[f"{p}.attention.out"], drop)
            h = functional.relu(norm(x, f"{p}.feed_forward.gain") @ params[f"{p}.feed_forward.in"])
            x = x + functional.dropout(functional.dropout(h, drop) @ params[f"{p}.feed_forward.out"], drop)
        y = functional.dropout(norm(x, "final.gain"), drop)
        return (y * c.d_model**-0.5) @ params["embedding"].T


def training_step(config: TransformerConfig, batch: posgen.ModelArrays, *, compiled: bool = False) -> Task:
    """A whole step on a batch; the callable returns its loss."""
    model = Model(config, batch.inputs.shape[1])
    torch = model.torch
    optimizer = torch.optim.AdamW(model.params.values(), lr=1e-3, betas=(0.9, 0.999), weight_decay=0.01)
    inputs, mask = torch.tensor(batch.inputs), torch.tensor(batch.loss_mask)
    answers = torch.tensor(batch.targets)[:, mask].flatten()

    def loss_of(tokens: Any) -> Any:
        return torch.nn.functional.cross_entropy(model.logits(tokens)[:, mask].flatten(0, 1), answers)

    forward = torch.compile(loss_of) if compiled else loss_of

    def step() -> float:
        optimizer.zero_grad()
        loss = forward(inputs)
        loss.backward()
        optimizer.step()
        return float(loss.detach())

    return step


def evaluation(config: TransformerConfig, inputs: Array, batch_size: int = 64) -> Task:
    """The most likely next token at every position of all sequences."""
    model = Model(config, inputs.shape[1])
    tokens = model.torch.tensor(inputs)

    def evaluate() -> Any:
        with model.torch.inference_mode():
            parts = tokens.split(batch_size)
            return model.torch.cat([model.logits(part).argmax(dim=-1) for part in parts])

    return evaluate


def llama_prefill(config: TransformerConfig, base: float, tokens: Array) -> Task:
    """All logits of one text by Hugging Face's Llama with random weights. ImportError where transformers is missing."""
    torch = load()
    from transformers import LlamaConfig, LlamaForCausalLM

    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=config.vocabulary,
            hidden_size=config.d_model,
            intermediate_size=config.d_ff,
            num_hidden_layers=config.layers,
            num_attention_heads=config.heads,
            num_key_value_heads=config.key_heads,
            head_dim=config.head_dim,
            max_position_embeddings=tokens.shape[1],
            rope_parameters={"rope_type": "default", "rope_theta": base},
            tie_word_embeddings=config.tied,
        )
    ).eval()
    given = torch.tensor(tokens)

    def prefill() -> Any:
        with torch.inference_mode():
            return model(given).logits

    return prefill
