"""Wan2.2's own `WanT2V.generate()` with small random weights: acceptance run, end-to-end cost, Kineto beside.

Nothing of Wan2.2 is in here: a checkout of its repository is named by `--wan DIR` or by WAN22_REPO. Nothing is
downloaded: weights and tokenizer are made on the spot. Entry points, all for torchrun with one process a GPU:

    torchrun --nproc-per-node 2 -m benchmarks.wan22.check_real_run --wan DIR --size 14b --out check.json
    torchrun --nproc-per-node 2 -m benchmarks.wan22.overhead --wan DIR --size tiny --out overhead.json
    torchrun --nproc-per-node 2 -m benchmarks.wan22.kineto_sums --wan DIR --size 14b --out sums

Without a GPU `--size cpu` runs the same code over gloo. Besides torch and wanhook, `import wan` needs diffusers,
transformers, accelerate, torchvision, torchaudio, peft, einops, easydict, ftfy, regex, tqdm, opencv-python-headless,
imageio, matplotlib and onnxruntime; flash_attn, decord, librosa and dashscope are stood in for where they are missing.
"""
