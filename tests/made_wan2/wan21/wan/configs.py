from types import SimpleNamespace

_TASKS = ("t2v-14B", "t2i-14B", "i2v-14B", "flf2v-14B", "vace-14B")
WAN_CONFIGS = {task: SimpleNamespace(num_train_timesteps=1000, text_len=16) for task in _TASKS}
