"""Scopes of Wan's stages that say more than their name, or are not there every time."""

import functools
import inspect
import os

import torch

from wanhook.integrations.wan.progress import EXPERTS, expert_named, expert_of, progress
from wanhook.loading import measured
from wanhook.recording import trace

# Arguments of generate() and of the constructors that describe a request. Never prompts, never paths.
_OF_REQUEST = ("frame_num", "infer_frames", "clip_len", "sampling_steps", "sample_solver", "shift", "seed")
_OF_REQUEST_TOO = ("max_area", "offload_model", "context_scale", "num_repeat")
_CHECKPOINTS = ("checkpoint_path", "vae_pth", "model_id")  # where a component's constructor is told what to load
_OF_LOADING = ("t5_fsdp", "dit_fsdp", "use_sp", "use_usp", "t5_cpu", "init_on_cpu", "convert_model_dtype")


def request(original):
    """generate(): the scope carries what was asked for."""
    signature = _signature(original)

    @functools.wraps(original)
    def generate(self, *args, **kwargs):
        outer = progress.pipeline
        with trace("request", **_describe_request(signature, self, args, kwargs)):
            progress.pipeline, progress.expert = self, None
            try:
                return original(self, *args, **kwargs)
            finally:
                progress.pipeline, progress.expert = outer, None

    return generate


def load(original):
    """A pipeline's constructor."""
    signature = _signature(original)

    @functools.wraps(original)
    def construct(self, *args, **kwargs):
        told = _chosen(_arguments(signature, self, args, kwargs), _OF_LOADING)
        with measured("load", pipeline=type(self).__name__, **told):
            try:
                return original(self, *args, **kwargs)
            finally:
                progress.expert = None

    return construct


def load_part(name: str):
    """A component's constructor, or another part of loading."""

    def wrap(original):
        @functools.wraps(original)
        def construct(*args, **kwargs):
            checkpoint = next((kwargs[key] for key in _CHECKPOINTS if kwargs.get(key)), None)
            with measured(name, checkpoint=checkpoint):
                return original(*args, **kwargs)

        return construct

    return wrap


def load_dit(original):
    """The classmethod from_pretrained()."""

    @functools.wraps(original)
    def from_pretrained(cls, *args, **kwargs):
        subfolder = kwargs.get("subfolder")
        progress.expert = expert_named(subfolder)
        checkpoint = os.path.join(str(args[0]), str(subfolder or "")) if args else None
        with measured("load_dit", checkpoint=checkpoint, **_expert(progress.expert)):
            return original(cls, *args, **kwargs)

    return from_pretrained


def configure(original):
    """_configure_model(): works on the model that was loaded last."""

    @functools.wraps(original)
    def configure_model(self, *args, **kwargs):
        with measured("configure", **_expert(progress.expert)):
            return original(self, *args, **kwargs)

    return configure_model


def expert_switch(original):
    """_prepare_model_for_timestep(): a scope where it changes the expert; the first choice of a request is none."""

    @functools.wraps(original)
    def prepare(self, t, boundary, *args, **kwargs):
        wanted, before = _wanted_expert(t, boundary), progress.expert
        if wanted is None or before is None or before == wanted:
            model = original(self, t, boundary, *args, **kwargs)
        else:
            with trace("expert_switch", expert=wanted):
                model = original(self, t, boundary, *args, **kwargs)
        same = before is not None and model is getattr(self, f"{before}_model", None)
        progress.expert = before if same else expert_of(self, model) or wanted
        return model

    return prepare


def _wanted_expert(t, boundary) -> str | None:
    try:
        # Where the step's number is not known, Wan asks for it itself in a moment, and waits for it as long.
        return progress.wanted_expert(boundary) or EXPERTS[bool(t.item() >= boundary)]
    except Exception:  # somebody's Wan has another rule: its switches are not recorded
        return None


def offload(original):
    """to() and cpu() of a model within a request, where it is on another kind of device yet."""

    @functools.wraps(original)
    def move(self, *args, **kwargs):
        target = None if progress.pipeline is None else _target(original.__name__, args, kwargs)
        if target is None or _is_there(self, target):
            return original(self, *args, **kwargs)
        with trace("offload", to=target):
            return original(self, *args, **kwargs)

    return move


def timesteps(original):
    """set_timesteps() of a solver: nothing is recorded, but the loop will know its timesteps."""

    @functools.wraps(original)
    def set_timesteps(self, *args, **kwargs):
        result = original(self, *args, **kwargs)
        try:
            progress.remember_timesteps(self)
        except Exception:  # another solver: its steps are recorded without their timesteps
            progress.forget_timesteps()
        return result

    return set_timesteps


def _expert(expert: str | None) -> dict:
    return {} if expert is None else {"expert": expert}


def _target(verb: str, args: tuple, kwargs: dict) -> str | None:
    if verb == "cpu":
        return "cpu"
    named = args[0] if args else kwargs.get("device")
    if isinstance(named, torch.device):
        return named.type
    if isinstance(named, str):
        return named.split(":")[0]
    return "cuda" if isinstance(named, int) else None


def _is_there(module: torch.nn.Module, target: str) -> bool:
    parameter = next(module.parameters(), None)
    return parameter is None or parameter.device.type == target


def _signature(function) -> inspect.Signature | None:
    try:
        return inspect.signature(function)
    except (TypeError, ValueError):
        return None


def _arguments(signature: inspect.Signature | None, self, args: tuple, kwargs: dict) -> dict:
    """By name, defaults included; empty where the call does not fit, which is for the callee to say."""
    try:
        bound = signature.bind(self, *args, **kwargs)
    except (AttributeError, TypeError):
        return {}
    bound.apply_defaults()
    return bound.arguments


def _chosen(arguments: dict, names: tuple[str, ...]) -> dict:
    """Only plain values: asking a tensor for its own could wait for the GPU."""
    plain = (bool, int, float, str)
    return {name: arguments[name] for name in names if isinstance(arguments.get(name), plain)}


def _describe_request(signature, pipeline, args: tuple, kwargs: dict) -> dict:
    arguments = _arguments(signature, pipeline, args, kwargs)
    told = {"pipeline": type(pipeline).__name__, **_chosen(arguments, _OF_REQUEST + _OF_REQUEST_TOO)}
    size, scale = arguments.get("size"), arguments.get("guide_scale")
    if isinstance(size, tuple) and len(size) == 2:
        told["width"], told["height"] = size
    for index, one in enumerate(scale if isinstance(scale, tuple) else (scale,)):
        if isinstance(one, int | float):
            told["guide_scale" if not index else f"guide_scale_{index + 1}"] = one
    return told
