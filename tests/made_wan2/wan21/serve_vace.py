"""In the place of Wan2.1's gradio/vace.py, which holds a WanVaceMP: one request."""

import torch

import wan
from wan.configs import WAN_CONFIGS


def main():
    served = wan.WanVaceMP(WAN_CONFIGS["vace-14B"], "checkpoint", use_usp=True)
    frames = torch.linspace(-1, 1, 3 * 2 * 8 * 8).view(3, 2, 8, 8)
    video = served.generate("two cats box", frames, sampling_steps=4, seed=7, offload_model=False)
    torch.save(video, "video.pt")
    served.end()


if __name__ == "__main__":
    main()
