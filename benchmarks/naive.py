"""Reference implementation for benchmarks: the published fast step (arXiv:2502.01567).

It has full fp32 logits, gradients of all weights and a dense window mask. The code is in `ltm_eval/inference/bench.py`,
where an installed wheel finds it too. As a script, this file times one such step of LTM-S:

    python benchmarks/naive.py
"""

from __future__ import annotations

from ltm_eval.inference.bench import NaiveFit, NaiveStep, decoder, objective

__all__ = ["NaiveFit", "NaiveStep", "decoder", "objective"]


def main() -> None:
    import torch
    from torch.utils.benchmark import Timer

    from ltm_eval.model.config import ModelConfig
    from ltm_eval.model.decoder import LatentThoughtModel

    config = ModelConfig(
        dim=512,
        n_layers=3,
        n_heads=8,
        n_kv_heads=8,
        vocab_size=50258,
        multiple_of=32,
        max_seq_len=1024,
        window_size=256,
        max_z_len=24,
    )
    model = LatentThoughtModel(config)
    model.init_weights(torch.Generator().manual_seed(0))
    naive = NaiveFit(dict(model.named_parameters()), config)
    tokens = torch.randint(0, 50257, (1, 1024), generator=torch.Generator().manual_seed(0))
    z = torch.zeros(1, *config.latent_shape)
    timer = Timer("naive.step((tokens, tokens), z, z, z)", globals=locals(), num_threads=torch.get_num_threads())
    print(timer.timeit(5))


if __name__ == "__main__":
    main()
