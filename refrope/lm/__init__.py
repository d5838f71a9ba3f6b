"""Language models on real text: checkpoints and tokenizers, perplexity, generation, retrieval over long contexts."""
