"""A Wan in which two of the integration's points are gone: ROOT OUT."""

import sys
from pathlib import Path

import wanhook
from wanhook.integrations import wan as integration
from wanhook.integrations.import_hook import on_import

sys.path.insert(0, sys.argv[1])


def rename_attention() -> None:
    module = sys.modules["wan.modules.attention"]
    module.attend = vars(module).pop("flash_attention")
    module.__getattr__ = lambda name: module.attend  # others still find it


def rename_choice() -> None:
    pipeline = sys.modules["wan.text2video"].WanT2V
    pipeline.choose = pipeline._prepare_model_for_timestep
    del pipeline._prepare_model_for_timestep
    pipeline.__getattr__ = lambda self, name: self.choose if name == "_prepare_model_for_timestep" else object()


def main() -> None:
    on_import("wan.modules.attention", rename_attention)
    on_import("wan.text2video", rename_choice)
    integration.install()
    import wan

    wanhook.start(sys.argv[2])
    made = wan.WanT2V(config=wan.configs.WAN_CONFIGS["t2v-A14B"], checkpoint_dir="checkpoint")
    made.generate("two cats", sampling_steps=4, seed=3, offload_model=False)
    wanhook.stop()
    (trace,) = wanhook.load(Path(sys.argv[2])).traces
    print("\n".join(trace.paths[path] for path in trace.scopes["path"]))
    print("NOTES\n" + "\n".join(trace.meta["notes"]))


if __name__ == "__main__":
    main()
