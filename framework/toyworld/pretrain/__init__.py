"""Pre-training of the embedded world's models: tokenizer, VAE, CLIP, identity encoder, U-Net.

Everything is written in the standard formats of its library, so ``from_pretrained`` on an exported
folder is all the loading code there is. ``python -m framework.toyworld.pretrain --help`` lists the
stages; ``framework/toyworld/README.md`` has the recipe and what it reached.
"""
