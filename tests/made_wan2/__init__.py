"""A stand-in for Wan's two repositories: our own code in their shape, with their quirks, small enough for the CPU.

`wan21/` and `wan22/` are roots like a checkout's: put one on sys.path and `import wan`, or run its generate.py. What
both have alike lies in `shared/`, which their packages add to their paths. Quirks that are copied on purpose: forwards
bound to instances with MethodType under sequence parallelism, names copied at import, progress loops over
tqdm(timesteps), cross attentions that inherit from self attentions, a VAE that swallows TypeErrors,
logging.basicConfig, torch.cuda.current_device() as a default argument, models that are moved away between their uses
(the meta device stands for the GPU), and a pipeline that has processes of its own.
"""
