"""Encodings of several axes against the classes of transformers that they follow."""

import numpy as np
import pytest
import torch
from transformers import Llama4VisionConfig, PixtralVisionConfig, Qwen2VLConfig, Qwen3VLConfig
from transformers.models.llama4.modeling_llama4 import Llama4VisionRotaryEmbedding
from transformers.models.pixtral.modeling_pixtral import PixtralVisionRotaryEmbedding
from transformers.models.qwen2_vl.configuration_qwen2_vl import Qwen2VLVisionConfig
from transformers.models.qwen2_vl.modeling_qwen2_vl import Qwen2VLRotaryEmbedding, Qwen2VLVisionRotaryEmbedding
from transformers.models.qwen3_vl.modeling_qwen3_vl import Qwen3VLTextRotaryEmbedding

from refrope import RoPE
from refrope.encodings import Axial2D, MRoPE, grid_positions

# The peers compute angles in float32: one of at most 100 radians is off by 100 * 2^-23, twice.
FLOAT32_ANGLES = 100 * 2.0**-22


def check(encoding, ids, cos, sin):
    """The peer's tables, whose columns may be there twice."""
    for table, theirs in zip(encoding.cos_sin(ids, np.float64), (cos, sin), strict=True):
        theirs = theirs.double().numpy()
        assert np.abs(table - theirs[..., : encoding.pairs]).max() < FLOAT32_ANGLES
        assert np.array_equal(theirs[..., -encoding.pairs :], theirs[..., : encoding.pairs])


@pytest.mark.parametrize(
    ("rotary", "config", "sections", "interleaved"),
    [
        (Qwen2VLRotaryEmbedding, Qwen2VLConfig, (16, 24, 24), False),
        (Qwen3VLTextRotaryEmbedding, Qwen3VLConfig, (24, 20, 20), True),
    ],
)
def test_mrope_gives_the_tables_of_qwen(rotary, config, sections, interleaved):
    rope = {"rope_type": "default", "rope_theta": 1e6, "mrope_section": list(sections)}
    text = config(text_config={"hidden_size": 512, "num_attention_heads": 4, "rope_parameters": rope}).text_config
    text.head_dim = 128
    ids = np.random.default_rng(5).integers(0, 100, (7, 3))
    cos, sin = rotary(text)(torch.zeros(1), torch.tensor(ids.T[:, None]))
    check(MRoPE(RoPE(128, 1e6), sections, interleaved), ids[None], cos, sin)


def test_shared_gives_the_tables_of_qwen2_vl_vision():
    config = Qwen2VLVisionConfig(embed_dim=320, num_heads=4)
    ids = grid_positions(3, 5)
    cos, sin = Qwen2VLVisionRotaryEmbedding(config)(torch.zeros(1), torch.tensor(ids))
    check(Axial2D(80), ids, cos, sin)


def test_evenodd_gives_the_tables_of_pixtral():
    config = PixtralVisionConfig(hidden_size=256, num_attention_heads=4)
    ids = grid_positions(3, 5)
    cos, sin = PixtralVisionRotaryEmbedding(config)(torch.zeros(1), torch.tensor(ids))
    check(Axial2D(64, config.rope_parameters["rope_theta"], "evenodd"), ids, cos, sin)


def test_offset_gives_the_table_of_llama_4_vision():
    config = Llama4VisionConfig(hidden_size=176, num_attention_heads=2, image_size=70, patch_size=14)
    table = Llama4VisionRotaryEmbedding(config).freqs_ci[:, 0]
    axial = Axial2D(88, config.rope_parameters["rope_theta"], "offset")
    ids = np.concatenate([grid_positions(5, 5, axial.first_id), [[0, 0]]])
    check(axial, ids, table.real, table.imag)
