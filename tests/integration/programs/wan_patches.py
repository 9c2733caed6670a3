"""Attaches to a stand-in for Wan, detaches and attaches again, and compares every attribute: ROOT late|early.

What the recorder itself wraps in torch.distributed, and the integration with FSDP, come and go with it.
"""

import sys
import types
from types import ModuleType

import torch
import torch.distributed.fsdp

_PACKAGES = ("wan", "xfuser", "yunchang", "torch.distributed", "__main__")


def is_patched_package(name: str) -> bool:
    return any(name == package or name.startswith(f"{package}.") for package in _PACKAGES)


def holders() -> dict[str, object]:
    """Modules that may be patched, and the classes in them, by name."""
    found = {}
    for name, module in list(sys.modules.items()):
        if isinstance(module, ModuleType) and is_patched_package(name):
            found[name] = module
            for value in list(vars(module).values()):
                if issubclass(type(value), type) and is_patched_package(value.__module__):
                    found[f"{value.__module__}.{value.__qualname__}"] = value
    return found


def attributes() -> dict[tuple[str, str], object]:
    return {(name, key): value for name, holder in holders().items() for key, value in list(vars(holder).items())}


def difference(before: dict, after: dict) -> set[str]:
    ours = {key for key in {*before, *after} if before.get(key) is not after.get(key)}
    return {".".join(key) for key in ours if not key[1].startswith("__") or key[1] in ("__call__", "__init__")}


untouched = attributes()

import wanhook.recording
from benchmarks.wan22.steps import Wrappers
from wanhook.integrations import c10d, fsdp
from wanhook.integrations import wan as integration

_TOGETHER = (c10d, fsdp, integration)


def attach() -> None:
    for one in _TOGETHER:
        one.install()


def detach() -> None:
    for one in _TOGETHER:
        one.uninstall()


def since_the_beginning() -> set[str]:
    """What differs of all that torch.distributed had before the recorder was loaded."""
    now = attributes()
    return difference(untouched, {key: now.get(key) for key in untouched})


def import_everything() -> None:
    import wan
    import wan.utils.utils

    if sys.argv[1].endswith("wan21"):
        import wan.distributed.xdit_context_parallel
        import xfuser.core.long_ctx_attention.ring
    wan.configs  # noqa: B018


def request() -> torch.Tensor:
    import wan

    pipeline = wan.WanT2V(config=next(iter(wan.configs.WAN_CONFIGS.values())), checkpoint_dir="checkpoint")
    pipeline.generate("two cats", sampling_steps=2, seed=3, offload_model=False)
    return pipeline


def instance_attributes(pipeline) -> set[tuple[str, str]]:
    models = [value for value in vars(pipeline).values() if isinstance(value, torch.nn.Module)]
    return {(name, key) for model in models for name, module in model.named_modules() for key in vars(module)}


def check_switch_of_the_benchmark(detached: dict, pipeline) -> None:
    """benchmarks/wan22/steps.py takes every wrapper off and puts it on again, but for the recorder's own."""
    model = next(value for value in vars(pipeline).values() if isinstance(value, torch.nn.Module))
    owned = vars(model)["forward"] = types.MethodType(type(model).forward, model)  # as Wan does for Ulysses
    on, marked = attributes(), instance_attributes(pipeline)
    wrappers = Wrappers()
    wrappers.put(False)
    assert vars(model).pop("forward") is owned
    left = {key.rpartition(".")[2] for key in difference(detached, attributes())}
    assert left <= {"_coalescing_manager", "_start_coalescing", "_end_coalescing", "destroy_process_group"}, left
    assert all(key != "forward" for _, key in instance_attributes(pipeline))
    vars(model)["forward"] = owned
    wrappers.put(True)
    assert difference(on, attributes()) == set()
    assert instance_attributes(pipeline) == marked
    del vars(model)["forward"]


def main() -> None:
    sys.path.insert(0, sys.argv[1])
    late = sys.argv[2] == "late"
    wrapped_at_once = since_the_beginning()
    detach()
    assert since_the_beginning() == set(), since_the_beginning()
    if not late:
        attach()
    import_everything()
    if late:
        from wan.modules.attention import flash_attention as copied

        globals()["copied"] = copied
        bare = attributes()
        attach()
    attached = attributes()
    assert integration.missing() == [], integration.missing()
    pipeline = request()
    latents = pipeline.last_latents
    marked = instance_attributes(pipeline)
    detach()
    detached = attributes()
    changed = difference(attached, detached)
    if late:
        assert difference(bare, detached) == set(), difference(bare, detached)
        assert "__main__.copied" in changed
    assert wrapped_at_once <= changed, wrapped_at_once - changed
    assert since_the_beginning() == set(), since_the_beginning()
    left = [key for key, value in detached.items() if "_wanhook_replaced" in getattr(value, "__dict__", {})]
    assert left == [], left
    assert all("_wanhook" not in key and key != "forward" for _, key in instance_attributes(pipeline))
    assert any("_wanhook" in key for _, key in marked)
    attach()
    again = attributes()
    assert difference(detached, again) == changed, difference(detached, again) ^ changed
    pipeline = request()
    assert torch.equal(pipeline.last_latents, latents)
    check_switch_of_the_benchmark(detached, pipeline)
    detach()
    assert difference(detached, attributes()) == set()
    print("\n".join(sorted(changed)))


if __name__ == "__main__":
    main()
