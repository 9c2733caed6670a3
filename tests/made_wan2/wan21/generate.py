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
from wan.utils.utils import cache_image, cache_video


def parse():
    parser = argparse.ArgumentParser()
    parser.add_argument("--task", choices=list(WAN_CONFIGS), default="t2v-14B")
    parser.add_argument("--save_file", default="video.pt")
    parser.add_argument("--sample_steps", type=int, default=4)
    parser.add_argument("--ulysses_size", type=int, default=1)
    parser.add_argument("--dit_fsdp", action="store_true")
    parser.add_argument("--t5_fsdp", action="store_true")
    parser.add_argument("--offload_model", action="store_true")
    parser.add_argument("--sample_solver", choices=["unipc", "dpm++"], default="unipc")
    parser.add_argument("--requests", type=int, default=1, help="as a server would have them")
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
    if world_size > 1:
        dist.init_process_group(backend="gloo", init_method="env://", rank=rank, world_size=world_size)
    if args.ulysses_size > 1:
        from xfuser.core.distributed import init_distributed_environment, initialize_model_parallel

        init_distributed_environment(rank=dist.get_rank(), world_size=dist.get_world_size())
        initialize_model_parallel(sequence_parallel_degree=world_size, ring_degree=1, ulysses_degree=args.ulysses_size)
    logging.info(f"Generation job args: {args}")
    if dist.is_initialized():
        dist.broadcast_object_list([7] if rank == 0 else [None], src=0)
    kinds = {"t2v": wan.WanT2V, "t2i": wan.WanT2V, "i2v": wan.WanI2V, "flf2v": wan.WanFLF2V, "vace": wan.WanVace}
    kind = args.task.split("-")[0]
    pipeline = kinds[kind](
        config=WAN_CONFIGS[args.task], checkpoint_dir="checkpoint", rank=rank, t5_fsdp=args.t5_fsdp,
        dit_fsdp=args.dit_fsdp, use_usp=args.ulysses_size > 1,
    )  # fmt: skip
    logging.info("Generating video ...")
    image = torch.linspace(-1, 1, 3 * 2 * 8 * 8).view(3, 2, 8, 8)
    given = [args.prompt] + {"t2v": [], "t2i": [], "i2v": [image], "flf2v": [image, image], "vace": [image]}[kind]
    for _ in range(args.requests):
        video = pipeline.generate(
            *given, sample_solver=args.sample_solver, sampling_steps=args.sample_steps, seed=7,
            offload_model=args.offload_model,
        )  # fmt: skip
    torch.save(pipeline.last_latents, f"latents-{rank}.pt")
    if rank == 0 and kind == "t2i":
        logging.info(f"Saving generated image to {args.save_file}")
        cache_image(tensor=video[:, :1][None], save_file=args.save_file)
    elif rank == 0:
        logging.info(f"Saving generated video to {args.save_file}")
        cache_video(tensor=video[None], save_file=args.save_file, fps=16)
    logging.info("Finished.")


if __name__ == "__main__":
    main(parse())
