import torch

__all__ = ["flash_attention"]


def flash_attention(q, k, v, k_lens=None, window_size=(-1, -1)):
    """[batch, tokens, heads, channels] each; keys beyond k_lens[0] are padding."""
    length = k.size(1) if k_lens is None else int(k_lens[0])
    q, k, v = (x.transpose(1, 2) for x in (q, k[:, :length], v[:, :length]))
    return torch.nn.functional.scaled_dot_product_attention(q, k, v).transpose(1, 2)
