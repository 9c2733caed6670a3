"""How many scopes and collectives one launch of Wan2.2's generate.py must leave on a rank, from Wan's code alone.

`expected` has the derivation for a request; a launch adds loading: one T5, one VAE, one model or two experts, each
configured and wrapped by FSDP. FSDP's root gathers once a model (T5 and each expert), in the first forward that uses
it.
"""

from __future__ import annotations

from .sizes import Size

ONLY_RANK_0 = {"request/vae_decode", "save"}


def models(task: str) -> int:
    """Two experts in A14B, one model in 5B."""
    return 2 if task.endswith("A14B") else 1


def scopes(task: str, size: Size, steps: int) -> dict[str, int]:
    """Scopes by path, without FSDP's waits."""
    step, forwards, experts = "request/denoise/denoise_step", 2 * steps, models(task)
    block, blocks = f"{step}/dit_forward/block", 2 * steps * size.layers
    return {
        "load": 1,
        "load/load_t5": 1,
        "load/load_t5/fsdp_wrap": 1,
        "load/load_vae": 1,
        "load/load_dit": experts,
        "load/configure": experts,
        "load/configure/barrier_wait": experts,
        "load/configure/fsdp_wrap": experts,
        "request": 1,
        "request/text_encode": 2,
        "request/denoise": 1,
        step: steps,
        f"{step}/dit_forward": forwards,
        block: blocks,
        f"{block}/self_attn": blocks,
        f"{block}/self_attn/attn_kernel": blocks,
        f"{block}/cross_attn": blocks,
        f"{block}/cross_attn/attn_kernel": blocks,
        f"{block}/ffn": blocks,
        f"{step}/dit_forward/sp_gather": forwards,
        f"{step}/scheduler_step": steps,
        **({f"{step}/expert_switch": 1} if experts == 2 else {}),
        "request/vae_decode": 1,
        "request/barrier_wait": 1,
        "save": 1,
        "barrier_wait": 1,
    }


def collectives(task: str, size: Size, steps: int, ranks: int) -> dict[str, int]:
    """Collectives by role; nothing is exchanged by a rank that is alone."""
    if ranks == 1:
        return {}
    forwards = 2 * steps
    return {
        "qkv": 3 * size.layers * forwards,
        "out": size.layers * forwards,
        "sp_gather": forwards,
        "fsdp": size.layers * forwards + 2 * size.t5_layers + 1 + models(task),
    }
