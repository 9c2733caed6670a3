from .ring_flash_attn import xdit_ring_flash_attn_func

__all__ = ["xdit_ring_flash_attn_func"]
