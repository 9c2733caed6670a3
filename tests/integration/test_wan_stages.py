"""Parts of the Wan integration one by one: which moves are recorded, and timesteps that are on a GPU.

The meta device stands for the GPU: a tensor there has no value to ask for either.
"""

from types import SimpleNamespace

import pytest
import torch

from recorded import recorded, rows
from wanhook.integrations.patches import Patches, original_of
from wanhook.integrations.wan import loops, models, stages
from wanhook.integrations.wan.progress import Progress, progress


@pytest.fixture(autouse=True)
def no_request_left():
    yield
    progress.pipeline = progress.expert = None
    progress.end_loop()
    progress.forget_timesteps()
    models.forget_blocks()


def moved(tmp_path, serve, *arguments, **keywords) -> list[tuple[str, dict]]:
    module = torch.nn.Linear(1, 1)
    progress.pipeline = serve
    with recorded(tmp_path) as result:
        stages.offload(torch.nn.Module.to)(module, *arguments, **keywords)
    return [(row.path, row.args) for row in rows(result.trace)]


@pytest.mark.parametrize("arguments", [("meta",), (torch.device("meta"),), ("meta", torch.float64)])
def test_a_move_to_another_device_is_an_offload(tmp_path, arguments):
    assert moved(tmp_path, object(), *arguments) == [("offload", {"to": "meta"})]


def test_a_move_by_keyword(tmp_path):
    assert moved(tmp_path, object(), device="meta") == [("offload", {"to": "meta"})]


@pytest.mark.parametrize("arguments", [("cpu",), (torch.float64,), (torch.zeros(1),)])
def test_what_is_there_already_is_not_moved(tmp_path, arguments):
    assert moved(tmp_path, object(), *arguments) == []


def test_no_offload_outside_of_a_request(tmp_path):
    assert moved(tmp_path, None, "meta") == []


def test_timesteps_on_a_gpu_are_known_without_asking_it():
    levels = [1.0, 0.97297, 0.9, 0.75]
    solver = SimpleNamespace(
        timesteps=torch.empty(4, dtype=torch.int64, device="meta"),
        sigmas=torch.tensor([*levels, 0.0]),
        config=SimpleNamespace(num_train_timesteps=1000),
    )
    state = Progress()
    state.remember_timesteps(solver)
    assert state.values_of(solver.timesteps) == (1000, 972, 900, 750)
    assert state.values_of(torch.empty(4, device="meta")) == ()
    solver.sigmas = solver.sigmas.to("meta")
    state.remember_timesteps(solver)
    assert state.values_of(solver.timesteps) == ()


class Pipeline:
    boundary, num_train_timesteps = 0.9, 1000
    low_noise_model, high_noise_model = "low", "high"

    def prepare(self, t, boundary, offload_model):
        return self.high_noise_model if t.item() >= boundary else self.low_noise_model


def test_first_choice_of_each_request_is_no_switch(tmp_path):
    pipeline, prepare = Pipeline(), stages.expert_switch(Pipeline.prepare)

    def generate(self):
        for t in loops.TracedProgress(lambda items: items)(torch.tensor([950, 901, 899, 10])):
            prepare(self, t, 900.0, False)

    serve = stages.request(generate)
    with recorded(tmp_path) as result:
        serve(pipeline)
        serve(pipeline)
    switches = [row for row in rows(result.trace) if row.path.endswith("expert_switch")]
    assert [row.args for row in switches] == [{"expert": "low_noise"}] * 2
    steps = [row.args for row in rows(result.trace) if row.path.endswith("denoise_step")]
    assert [step["expert"] for step in steps] == ["high_noise", "high_noise", "low_noise", "low_noise"] * 2


def test_expert_rule_of_somebody_else_costs_its_scope_alone(tmp_path):
    prepare = stages.expert_switch(lambda self, t, boundary, offload: "model")
    progress.expert = "low_noise"
    with recorded(tmp_path) as result:
        assert prepare(Pipeline(), "no tensor", "no number", False) == "model"
    assert rows(result.trace) == []


def test_exception_in_the_loop_closes_its_scopes(tmp_path):
    progress_bar = loops.TracedProgress(lambda items: items)

    def generate():
        for _ in enumerate(progress_bar(torch.tensor([3, 2, 1]))):
            raise ValueError("its own")

    with recorded(tmp_path) as result, pytest.raises(ValueError, match="its own"):
        generate()
    assert [(row.path, row.open) for row in rows(result.trace)] == [("denoise", False), ("denoise/denoise_step", False)]
    assert progress.forwards is None


def test_other_uses_of_tqdm_are_left_alone():
    class Bar:
        monitor = 7

        def __init__(self, iterable=None, total=None):
            self.iterable = iterable

        def __iter__(self):
            return iter(self.iterable)

        def __len__(self):
            return len(self.iterable)

    tqdm = loops.TracedProgress(Bar)
    assert type(tqdm(total=3)) is Bar
    assert list(tqdm([1, 2])) == [1, 2]
    assert tqdm.monitor == 7
    loop = tqdm(torch.tensor([5, 6]))
    assert (len(loop), loop.monitor, [one.item() for one in loop]) == (2, 7, [5, 6])


def test_patches_leave_what_somebody_else_has_replaced_since():
    owner = type("Owner", (), {"name": lambda self: 1})
    patches = Patches()
    patches.replace(owner, "name", lambda original: lambda self: original(self) + 1)
    assert owner().name() == 2
    theirs = owner.name = lambda self: 9
    patches.undo()
    assert owner.name is theirs


def test_patches_of_a_subclass_do_not_nest_with_its_base():
    base = type("Base", (), {"name": classmethod(lambda cls: [cls.__name__])})
    derived = type("Derived", (base,), {})
    before = vars(base)["name"]
    patches = Patches()
    for owner in (base, derived):
        patches.replace(owner, "name", lambda original: lambda cls: ["wrapped", *original(cls)])
    assert (base.name(), derived.name()) == (["wrapped", "Base"], ["wrapped", "Derived"])
    assert original_of(vars(derived)["name"]) is before
    patches.undo()
    assert vars(base)["name"] is before
    assert "name" not in vars(derived)
    with pytest.raises(AttributeError):
        patches.replace(base, "missing", lambda original: original)
