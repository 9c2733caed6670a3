"""How many scopes and collectives one launch of Wan's generate.py must leave on a rank, from Wan's code alone.

`expected` has the derivation for a request; a launch adds loading: one T5, one VAE, one model or two experts, each
configured and wrapped by FSDP. FSDP's root gathers once a model (T5 and each expert), in the first forward that uses
it.
"""

from __future__ import annotations

from .sizes import Size

ONLY_RANK_0 = {"request/vae_decode", "save"}


def models(task: str) -> int:
    """Two experts in A14B, else one model."""
    return 2 if task.endswith("A14B") else 1


def scopes(task: str, size: Size, steps: int, ranks: int) -> dict[str, int]:
    """Scopes by path, without FSDP's waits. A rank that is alone shards nothing and waits for nobody."""
    second = task in ("t2v-A14B", "ti2v-5B")
    together, wrapped = int(ranks > 1), "load/configure" if second else "load"
    step, forwards, experts = "request/denoise/denoise_step", 2 * steps, models(task)
    block, blocks = f"{step}/dit_forward/block", 2 * steps * size.layers
    found = {
        "load": 1,
        "load/load_t5": 1,
        "load/load_t5/fsdp_wrap": together,
        "load/load_vae": 1,
        "load/load_dit": experts,
        "load/configure": experts * second,
        f"{wrapped}/barrier_wait": experts * together,
        f"{wrapped}/fsdp_wrap": experts * together,
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
        f"{step}/dit_forward/sp_gather": forwards * together,
        f"{step}/scheduler_step": steps,
        f"{step}/expert_switch": experts - 1,
        "request/vae_decode": 1,
        "request/barrier_wait": together,
        "save": 1,
        "barrier_wait": together * second,  # Wan2.1 ends without one
    }
    return {path: count for path, count in found.items() if count}


def arguments(task: str, size: Size, steps: int) -> dict[tuple[str, str, object], int]:
    """How often a scope carries a value of an argument: (scope, argument, value). Four steps of A14B begin with the
    expert for high noise, and every forward calls every block once."""
    found: dict = {("denoise_step", "step", step): 1 for step in range(steps)}
    found |= {("dit_forward", "cond", cond): steps for cond in (True, False)}
    found |= {("block", "index", index): 2 * steps for index in range(size.layers)}
    if models(task) == 2:
        found |= {("load_dit", "expert", expert): 1 for expert in ("low_noise", "high_noise")}
        found["expert_switch", "expert", "low_noise"] = 1
    return found


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
