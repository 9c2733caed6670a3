import argparse
import logging
import os
import sys
import warnings

warnings.filterwarnings("ignore")

import torch
import torch.distributed as dist

import wan
from wan.configs import WAN_CONFIGS
from wan.distributed.util import init_distributed_group
from wan.utils.utils import merge_video_audio, save_image, save_video


def parse():
    parser = argparse.ArgumentParser()
    parser.add_argument("--task", choices=list(WAN_CONFIGS), default="t2v-A14B")
    parser.add_argument("--save_file", default="video.pt")
    parser.add_argument("--sample_steps", type=int, default=4)
    parser.add_argument("--ulysses_size", type=int, default=1)
    parser.add_argument("--dit_fsdp", action="store_true")
    parser.add_argument("--t5_fsdp", action="store_true")
    parser.add_argument("--offload_model", action="store_true")
    parser.add_argument("--break_with", help="a module to import first, which makes something fail")
    parser.add_argument("--prompt", default="two cats box")
    return parser.parse_args()


def init_logging(rank):
    if rank == 0:
        layout, handler = "[%(asctime)s] %(levelname)s: %(message)s", logging.StreamHandler(stream=sys.stdout)
        logging.basicConfig(level=logging.INFO, format=layout, handlers=[handler])
    else:
        logging.basicConfig(level=logging.ERROR)


def main(args):
    rank, world_size = int(os.getenv("RANK", 0)), int(os.getenv("WORLD_SIZE", 1))
    init_logging(rank)
    if args.break_with:
        __import__(args.break_with)
    if world_size > 1:
        dist.init_process_group(backend="gloo", init_method="env://", rank=rank, world_size=world_size)
    if args.ulysses_size > 1:
        init_distributed_group()
    logging.info(f"Generation job args: {args}")
    if dist.is_initialized():
        dist.broadcast_object_list([7] if rank == 0 else [None], src=0)
    kinds = {"t2v": wan.WanT2V, "ti2v": wan.WanTI2V, "i2v": wan.WanI2V, "s2v": wan.WanS2V, "animate": wan.WanAnimate}
    kind = args.task.split("-")[0]
    pipeline = kinds[kind](
        config=WAN_CONFIGS[args.task], checkpoint_dir="checkpoint", rank=rank, t5_fsdp=args.t5_fsdp,
        dit_fsdp=args.dit_fsdp, use_sp=args.ulysses_size > 1,
    )  # fmt: skip
    logging.info("Generating video ...")
    image = torch.linspace(-1, 1, 3 * 2 * 8 * 8).view(3, 2, 8, 8)
    given = {"t2v": [args.prompt], "ti2v": [args.prompt, image], "i2v": [args.prompt, image],
             "s2v": [args.prompt, image], "animate": [image]}[kind]  # fmt: skip
    video = pipeline.generate(*given, sampling_steps=args.sample_steps, seed=7, offload_model=args.offload_model)
    torch.save(pipeline.last_latents, f"latents-{rank}.pt")
    if rank == 0:
        logging.info(f"Saving generated video to {args.save_file}")
        if args.save_file.endswith(".png"):  # for others to call: Wan2.2's own generate.py makes no images
            save_image(tensor=video[:, :1][None], save_file=args.save_file)
        else:
            save_video(tensor=video[None], save_file=args.save_file, fps=16)
        if kind == "s2v":
            merge_video_audio(video_path=args.save_file, audio_path="talk.wav")
    if dist.is_initialized():
        dist.barrier()
        dist.destroy_process_group()
    logging.info("Finished.")


if __name__ == "__main__":
    main(parse())
