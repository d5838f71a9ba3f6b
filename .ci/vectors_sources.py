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
