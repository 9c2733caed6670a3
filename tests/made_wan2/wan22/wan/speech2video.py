from functools import partial

import torch
from tqdm import tqdm

from .distributed.fsdp import shard_model
from .modules.s2v.audio_encoder import AudioEncoder
from .modules.s2v.model_s2v import WanModel_S2V
from .modules.vae2_1 import Wan2_1_VAE
from .parts import GPU, Parts


class WanS2V(Parts):
    def __init__(self, config, checkpoint_dir, rank=0, t5_fsdp=False, dit_fsdp=False, use_sp=False):
        shard_fn = partial(shard_model, device_id=0)
        self.begin(config, rank, shard_fn if t5_fsdp else None, use_sp)
        self.vae = Wan2_1_VAE()
        model = WanModel_S2V.from_pretrained(checkpoint_dir)
        self.model = self._configure_model(model=model, use_sp=use_sp, dit_fsdp=dit_fsdp, shard_fn=shard_fn)
        self.audio_encoder = AudioEncoder(model_id=f"{checkpoint_dir}/wav2vec2-large-xlsr-53-english")

    def _configure_model(self, model, use_sp, dit_fsdp, shard_fn):
        return self.configured(model, use_sp, dit_fsdp, shard_fn)

    def encode_audio(self, audio_path, infer_frames):
        return self.audio_encoder.extract_audio_feat(audio_path, return_all_layers=True), 2

    def load_pose_cond(self, pose_video, num_repeat, infer_frames, size):
        return [self.vae.encode([torch.ones(3, 2, 4, 4)])[0] for _ in range(num_repeat)]

    @torch.no_grad()
    def generate(
        self, input_prompt, ref_image, num_repeat=2, shift=5.0, sample_solver="unipc", sampling_steps=4,
        guide_scale=1.0, seed=-1, offload_model=True,
    ):  # fmt: skip
        cond, _ = self.encoded(input_prompt, offload_model)
        audio, _ = self.encode_audio("speech.wav", infer_frames=2)
        self.load_pose_cond(None, num_repeat, infer_frames=2, size=(8, 8))
        out = []
        for clip in range(num_repeat):
            solver, timesteps = self.solver(sample_solver, sampling_steps, shift)
            latents = [self.noise(seed + clip)[0] + self.vae.encode([ref_image])[0]]
            if offload_model or self.init_on_cpu:
                self.model.to(GPU)
            for _, t in enumerate(tqdm(timesteps)):
                moved = self.model(latents, t=torch.stack([t]), context=cond, seq_len=32, audio_input=audio)[0]
                latents = [solver.step(moved, t, latents[0], return_dict=False)[0]]
            if offload_model:
                self.model.cpu()
            out.append(latents[0])
        return self.finished([torch.cat(out, dim=1)], self.vae.decode, everywhere=True)
