"""Random weights and a tokenizer in the places where `WanT2V.__init__` looks for a checkpoint.

T5 and the VAE are small files. The experts are built on their device instead (5.6 GB a file at 14B block shapes would
cost minutes), from the same seed on every rank; FSDP broadcasts rank 0's weights in any case.
"""

from __future__ import annotations

from functools import partial
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

import torch

from .sizes import Size

_SPECIAL_TOKENS = ["<pad>", "</s>", "<unk>"]


def write_tokenizer(folder: Path) -> None:
    """A byte-level tokenizer that `AutoTokenizer.from_pretrained(folder)` loads."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    symbols = _SPECIAL_TOKENS + sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE(vocab={s: i for i, s in enumerate(symbols)}, merges=[], unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="<pad>", eos_token="</s>", unk_token="<unk>")
    fast.save_pretrained(folder)


def shrink(size: Size) -> None:
    """Replace the hard-coded widths of T5 and the VAE by those of `size`. Not undone."""
    import wan.modules.t5 as t5

    t5.umt5_xxl = partial(t5.umt5_xxl, vocab_size=len(_SPECIAL_TOKENS) + 256, **size.t5_arguments)
    vae = _vae_module()
    vae._video_vae = partial(vae._video_vae, dim=size.vae_dim)
    if find_spec("wan.modules.vae2_2") is None:
        return
    import wan.modules.vae2_2 as vae22

    full_width = vae22._video_vae

    def narrow(**arguments):
        return full_width(**{**arguments, "dim": size.vae_dim, "dec_dim": size.vae_dim})

    vae22._video_vae = narrow


def write_checkpoint(folder: Path, config, size: Size, seed: int) -> None:
    """Write T5, VAE and tokenizer under `folder`, with the file names of `config`. Call `shrink` first."""
    import wan.modules.t5 as t5

    folder.mkdir(parents=True, exist_ok=True)
    write_tokenizer(folder / config.t5_tokenizer)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        encoder = t5.umt5_xxl(encoder_only=True, dtype=config.t5_dtype, device="cpu")
        torch.save(encoder.state_dict(), folder / config.t5_checkpoint)
        torch.save(_vae(config, size).state_dict(), folder / config.vae_checkpoint)


def _vae(config, size: Size) -> torch.nn.Module:
    down = [False, True, True]
    if config.vae_stride[1] == 16:
        import wan.modules.vae2_2 as vae22

        return vae22.WanVAE_(dim=size.vae_dim, dec_dim=size.vae_dim, z_dim=48, temperal_downsample=down)
    return _vae_module().WanVAE_(dim=size.vae_dim, z_dim=16, temperal_downsample=down)


def _vae_module():
    """The VAE of Wan2.1's models, which the 14B models of Wan2.2 share; the module was renamed."""
    return import_module("wan.modules.vae2_1" if find_spec("wan.modules.vae2_1") else "wan.modules.vae")


def write_models(folder: Path, config, size: Size, seed: int) -> None:
    """Write the model, or both experts, where `from_pretrained` looks for them. 5.6 GB each at 14B block shapes."""
    from wan.modules.model import WanModel

    experts = [config[key] for key in ("low_noise_checkpoint", "high_noise_checkpoint") if key in config] or [""]
    channels = 48 if config.vae_stride[1] == 16 else 16
    kind = {"model_type": "t2v"} if channels == 16 else {"model_type": "ti2v"}
    for number, expert in enumerate(experts):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed + number)
            model = WanModel(**{**size.dit_arguments, **kind, "in_dim": channels, "out_dim": channels})
            torch.nn.init.normal_(model.head.head.weight, std=0.02)
            model.save_pretrained(folder / expert)


def build_experts_in_memory(model_class: type, size: Size, device: torch.device, seed: int) -> None:
    """Replace `WanModel.from_pretrained` by a seeded construction on `device`. Not undone.

    The head is drawn again because Wan initialises it to zero: every prediction would be zero.
    """

    def from_pretrained(cls, _folder, subfolder):
        with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []), torch.device(device):
            torch.manual_seed(seed + ("low" in subfolder))
            model = cls(**size.dit_arguments)
            torch.nn.init.normal_(model.head.head.weight, std=0.02)
        return model.eval()

    model_class.from_pretrained = classmethod(from_pretrained)
