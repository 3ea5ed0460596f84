"""The decoder, its ELBO terms, its tokenizer and its checkpoints."""

__all__ = ["checkpoint", "compiling", "config", "decoder", "elbo", "inputs", "live", "tokenizer"]
