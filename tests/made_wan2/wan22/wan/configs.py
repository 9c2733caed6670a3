from types import SimpleNamespace

import torch

LAYERS, T5_LAYERS = 3, 2


def _config(**more):
    return SimpleNamespace(num_train_timesteps=1000, text_len=16, param_dtype=torch.float32, sample_shift=5.0, **more)


_EXPERTS = {"boundary": 0.9, "low_noise_checkpoint": "low_noise_model", "high_noise_checkpoint": "high_noise_model"}
WAN_CONFIGS = {
    "t2v-A14B": _config(**_EXPERTS),
    "i2v-A14B": _config(**_EXPERTS),
    "ti2v-5B": _config(),
    "s2v-14B": _config(),
    "animate-14B": _config(),
}
