"""Importing Wan where its optional packages are missing.

`flash_attn` is asserted by `wan.modules.attention.flash_attention`; the stand-in computes the same through
`scaled_dot_product_attention`. decord, librosa and dashscope are needed by `import wan` alone, never by text-to-video.
A package that is installed is left as it is.
"""

from __future__ import annotations

import importlib.machinery
import importlib.util
import sys
import types
from pathlib import Path

import torch
import torch.nn.functional as functional

_IMPORTED_ONLY = {"decord": ("VideoReader",), "librosa": (), "dashscope": ()}


def flash_attn_varlen_func(q, k, v, cu_seqlens_q, cu_seqlens_k, softmax_scale=None, causal=False, **_unused):
    """q, k, v: [tokens, heads, head_dim] of one sequence. Returns the shape of q. Wan's batches hold one video."""
    if cu_seqlens_q.numel() != 2 or cu_seqlens_k.numel() != 2:
        raise ValueError("the flash_attn stand-in takes one sequence a call")
    q, k, v = (x.transpose(0, 1).unsqueeze(0) for x in (q, k, v))
    out = functional.scaled_dot_product_attention(q, k, v, scale=softmax_scale, is_causal=causal)
    return out.squeeze(0).transpose(0, 1)


def _insert(name: str, **attributes) -> None:
    module = types.ModuleType(name, f"Stand-in for {name}.")
    # Libraries probe with importlib.util.find_spec, which raises for a loaded module without a spec.
    module.__spec__ = importlib.machinery.ModuleSpec(name, None)
    vars(module).update(attributes)
    sys.modules[name] = module


def choose_attention_of_xfuser() -> None:
    """Wan2.1 goes through xfuser on several GPUs; where flash_attn is missing, its attention becomes torch's own.

    Call it before `import_wan`. xfuser itself is left to Wan's generate.py, which imports it after Wan: it takes the
    chooser from yunchang, and finds that the stand-in for flash_attn is no package.
    """
    if importlib.util.find_spec("yunchang") is None or importlib.util.find_spec("flash_attn") is not None:
        return
    kernels = importlib.import_module("yunchang.kernels")
    choose, names = kernels.select_flash_attn_impl, kernels.AttnType
    instead = names.TORCH_FLASH if torch.cuda.is_available() else names.TORCH_MATH
    kernels.select_flash_attn_impl = lambda _asked, **options: choose(instead, **options)


def import_wan(repository: Path) -> types.ModuleType:
    """Import Wan2.1 or Wan2.2 from a checkout and return its module `wan.text2video`.

    Set the CUDA device first: `import wan` asks for the current one.
    Raises FileNotFoundError when `repository` is no checkout of Wan.
    """
    if not (repository / "wan" / "text2video.py").is_file():
        raise FileNotFoundError(f"{repository} holds no wan/text2video.py: name a Wan2.2 checkout (--wan, WAN22_REPO)")
    # Both look for flash_attn while they are imported and would take the stand-in for the whole package.
    importlib.import_module("transformers")
    importlib.import_module("diffusers.models.modeling_utils")
    for name, attributes in _IMPORTED_ONLY.items():
        if importlib.util.find_spec(name) is None:
            _insert(name, **dict.fromkeys(attributes))
    if importlib.util.find_spec("flash_attn") is None and importlib.util.find_spec("flash_attn_interface") is None:
        _insert("flash_attn", flash_attn_varlen_func=flash_attn_varlen_func)
    sys.path.insert(0, str(repository))
    if not torch.cuda.is_available():
        from .without_gpu import current_device_zero

        with current_device_zero():
            return importlib.import_module("wan.text2video")
    return importlib.import_module("wan.text2video")
