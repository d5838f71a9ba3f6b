"""Where every formula stands in print or in code."""

from __future__ import annotations

from vectors_formulas import Parameters

Source = dict[str, str]

_SOURCES: dict[str, Source] = {
    "rope": {
        "paper": "arXiv:2104.09864",
        "equation": "Eq. 15 (frequencies), Eq. 34 (rotation)",
        "note": "Su et al. 2021, RoFormer. Partial rotation as in GPT-NeoX (prefix) and DeepSeek-V2 (suffix).",
    },
    "linear": {"paper": "arXiv:2306.15595", "equation": "Eq. 4", "note": "Chen et al. 2023, position interpolation."},
    "ntk": {
        "paper": "arXiv:2309.00071",
        "equation": "Section 3.1",
        "note": "NTK-aware, bloc97 2023: base * s^(d/(d-2)), so stretch s^(j/(d/2-1)).",
    },
    "ntk scaled-base": {
        "paper": "arXiv:2403.00071",
        "equation": "appendix",
        "note": "Base * s, so stretch s^(j/(d/2)), as the Resonance paper's appendix has it.",
    },
    "ntk fixed": {
        "paper": "J. Su 2023, kexue.fm/archives/9706",
        "equation": "as reported",
        "note": "Stretch s^((j+1)/(d/2)).",
    },
    "ntk mixed": {
        "paper": "J. Su 2023, kexue.fm/archives/9706",
        "equation": "as reported",
        "note": "Stretch exp(a (j+1)^b) with a = ln(s) / (d/2)^b and b = mixed_b.",
    },
    "dynamic-ntk": {
        "paper": "arXiv:2309.00071",
        "equation": "Section 3.3",
        "note": "Base * (s N/L - (s-1))^(d/(d-2)) for a length N > L, as in transformers 5.23.",
    },
    "dynamic-ntk vllm": {
        "paper": "arXiv:2309.00071",
        "equation": "Section 3.3",
        "note": "The same at N = s L for every length, base * (s^2 - s + 1)^(d/(d-2)), as vLLM works it out once.",
    },
    "ntk-by-parts": {
        "paper": "arXiv:2309.00071",
        "equation": "Section 3.2",
        "note": "YaRN's forerunner, two index ramps: LlamaPartNTKScaledRotaryEmbedding, jquesnelle/yarn at 995db5b5.",
    },
    "yarn index": {
        "paper": "arXiv:2309.00071",
        "equation": "Section 3.2 and 3.4",
        "note": "Ramp over the pair index as in the authors' code, jquesnelle/yarn at 995db5b5, not as printed. "
        "mscale and mscale_all_dim: arXiv:2405.04434 and DeepSeek's inference code; both must be given and not 0.",
    },
    "yarn turns": {
        "paper": "arXiv:2309.00071",
        "equation": "Section 3.2 and 3.4",
        "note": "Ramp linear in the number of turns L / wavelength, as printed.",
    },
    "yarn wavelength": {
        "paper": "arXiv:2403.00071",
        "equation": "Section 3 and appendix",
        "note": "Ramp linear in the number of turns, and wavelengths mixed, as the Resonance paper prints YaRN.",
    },
    "yarn target": {
        "paper": "arXiv:2403.00071",
        "equation": "code only",
        "note": "Index ramp that counts turns within round(s L): sheryc/resonance_rope at 4a7f5a70, its PosGen part.",
    },
    "llama3": {
        "paper": "meta-llama/llama-models",
        "equation": "apply_scaling",
        "note": "Equal to YaRN's printed ramp without temperature. Equal ends make a step.",
    },
    "longrope": {
        "paper": "arXiv:2402.13753",
        "equation": "Section 3 and the released code",
        "note": "Amplitude sqrt(1 + ln(s) / ln(L)) for s > 1; the long list above L tokens. Lists are made up.",
    },
    "xpos": {
        "paper": "arXiv:2212.10554",
        "equation": "Section 2.1 and Algorithm 1",
        "note": "zeta_j = (2j/d + gamma) / (1 + gamma); q * zeta^((m - centre) / scale_base), k * its inverse.",
    },
    "fope": {
        "paper": "arXiv:2412.17739",
        "equation": "Section 3",
        "note": "Pairs of more than one turn within train_length turn. cos_coefficients and sin_coefficients multiply "
        "their rows of cos and sin from the right. Padding `ones` as in a copy of the authors' code.",
    },
    "proportional": {
        "paper": "arXiv:2410.06205",
        "equation": "p-RoPE",
        "note": "floor(proportion * d / 2) pairs turn; proportion * d is a float64 product, as in transformers 5.23.",
    },
    "posgen": {
        "paper": "arXiv:2403.00071",
        "equation": "the PosGen section and its Figure 2",
        "note": "The semirecursive pointer is floor((l - (j + k)) / 2), as in the code and the figure.",
    },
    "rerope": {
        "paper": "J. Su 2023, kexue.fm/archives/9708",
        "equation": "ReRoPE",
        "note": "f = min(d, w). log_length as in bojone/rerope, whose code always has it.",
    },
    "leaky-rerope": {
        "paper": "J. Su 2023, kexue.fm/archives/9708",
        "equation": "Leaky ReRoPE",
        "note": "f = d below w, then w + (d - w) / slowdown; bojone/rerope.",
    },
    "self-extend": {
        "paper": "arXiv:2401.01325",
        "equation": "Section 3 and the released code",
        "note": "f = d below W, then m // G - n // G + W - W // G, or W - W / G (shift `fraction`): datamllab/LongLM.",
    },
    "dual-chunk": {
        "paper": "arXiv:2402.17463",
        "equation": "Section 3 and the released code",
        "note": "Chunks of c = chunk - local tokens, HKUNLP/ChunkLlama. Without that code's amplitude.",
    },
    "string": {
        "paper": "arXiv:2410.18745",
        "equation": "Section 4 and the released code",
        "note": "f = d below S, then d - S + W. `overlap`: the released prefill counts distance S twice.",
    },
    "alibi": {
        "paper": "arXiv:2108.12409",
        "equation": "Section 3",
        "note": "Slopes for a number of heads that is no power of two: the authors' released code.",
    },
    "t5": {
        "paper": "arXiv:1910.10683",
        "equation": "Section 2.1 and the released code",
        "note": "Causal buckets; exact ones where the released code's float32 logarithm falls one short.",
    },
    "kerple": {
        "paper": "arXiv:2205.09921",
        "equation": "Eq. 4 and 5",
        "note": "-p ln(1 + a d), or -a d^p; letters and bounds as in the authors' code.",
    },
    "fire": {
        "paper": "arXiv:2310.04418",
        "equation": "as in the code of arXiv:2405.14722",
        "note": "Constants 1e-6 and the layers were read there, not in the paper.",
    },
    "dape": {
        "paper": "arXiv:2405.14722 (kernel 1), arXiv:2410.04798 (larger ones)",
        "equation": "and the authors' code",
        "note": "Edge `padded` is theirs; with `open` the hidden layer does not depend on how many keys follow.",
    },
    "sinusoidal": {
        "paper": "arXiv:1706.03762",
        "equation": "Section 3.5",
        "note": "Layout `interleaved` as printed; `half` has all sines first, as transformers has it.",
    },
    "mrope": {
        "paper": "arXiv:2409.12191",
        "equation": "Section 2.1; Qwen2-VL and Qwen3-VL in transformers 5.24",
        "note": "Interleaved as in Qwen3-VL. leftover `fourth` as in ggml's IMROPE.",
    },
    "axial-2d": {
        "paper": "transformers 5.24",
        "equation": "Qwen2-VL's vision (shared), Pixtral (evenodd), Llama 4's vision (offset)",
        "note": "Ids are row, column. In `offset` they count from 1, and the class token has 0, 0.",
    },
}


def source(parameters: Parameters) -> Source:
    """The source of a group's formula; Resonance's names the one inside too."""
    variant = parameters["variant"]
    if variant == "resonance":
        inner = source(parameters["encoding"])
        when = "after" if parameters["dialect"] == "after" else "before"
        return {
            "paper": "arXiv:2403.00071",
            "equation": "Section 4.1, Theorem 1",
            "note": f"Wavelengths rounded to whole tokens {when} the scaling of {inner['paper']}, {inner['equation']}.",
        }
    if variant == "yarn":
        kind = "wavelength" if parameters["blend"] == "wavelength" else parameters["ramp"]
        return _SOURCES["yarn target" if parameters["target_ramp"] else f"yarn {kind}"]
    return _SOURCES.get(f"{variant} {parameters.get('dialect')}", _SOURCES.get(variant, {}))
