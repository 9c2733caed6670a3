"""wanhook.loading in this process: what a load leaves in the trace, and that it never gets into the program's way."""

import json
import os
import threading

import pytest
import torch

import wanhook
from recorded import EXCEPTION, paths, recorded, rows
from wanhook import loading

MIB = 1 << 20


def marks_of(trace):
    """(path of the scope, figures) of each measurement."""
    own = [row for row, name in enumerate(trace.marks["name"]) if trace.strings[name] == loading.MARK]
    around = trace.path_of(trace.marks["scope"])
    return [(trace.paths[around[row]], trace.mark_args[row]) for row in own]


@pytest.fixture
def checkpoint(tmp_path):
    file = tmp_path / "weights-of-somebody.pth"
    file.write_bytes(os.urandom(6 * MIB))
    return file


def kernel_counts_reads():
    """Some containers show a /proc/self/io of zeros."""
    return bool(loading.Reading.now().read_call_bytes)


def test_a_load_is_measured_inside_its_scope(tmp_path, checkpoint):
    inner_scope = loading.measured("load_t5", checkpoint=checkpoint, expert="low_noise")
    with recorded(tmp_path / "run") as result, loading.measured("load"), inner_scope:
        kept = checkpoint.read_bytes()
    assert paths(result.trace) == ["load", "load/load_t5"]
    assert rows(result.trace)[1].args == {"expert": "low_noise"}
    (inner, t5), (outer, whole) = marks_of(result.trace)
    assert (inner, outer) == ("load/load_t5", "load")
    assert t5["checkpoint_bytes"] == len(kept)
    assert not kernel_counts_reads() or len(kept) <= t5["read_call_bytes"] <= whole["read_call_bytes"]
    assert 0 < t5["thread_cpu_ns"] <= whole["thread_cpu_ns"]
    assert t5["process_cpu_ns"] <= whole["process_cpu_ns"]
    assert t5["resident_bytes_begin"] > 0 < t5["resident_bytes_end"]
    assert t5["shared"] is False
    assert "checkpoint_bytes" not in whole


def test_no_path_gets_into_the_file(tmp_path, checkpoint):
    with recorded(tmp_path / "run") as result, loading.measured("load_t5", checkpoint=checkpoint):
        pass
    assert b"somebody" not in result.trace.path.read_bytes()


def test_mapped_files_are_seen_in_resident_memory(tmp_path):
    torch.save(torch.zeros(4 * MIB), tmp_path / "model.pt")
    with recorded(tmp_path / "run") as result, loading.measured("load_vae"):
        mapped = torch.load(tmp_path / "model.pt", mmap=True, weights_only=True)
        total = float(mapped.sum())
    figures = marks_of(result.trace)[0][1]
    assert total == 0
    if "resident_file_bytes_end" not in figures:
        pytest.skip("this kernel does not tell resident file pages")
    assert figures["resident_file_bytes_end"] - figures["resident_file_bytes_begin"] >= 12 * MIB
    assert figures["read_call_bytes"] < 12 * MIB


def test_the_program_s_exception_goes_through(tmp_path):
    with recorded(tmp_path / "run") as result, pytest.raises(OSError, match="no weights"), loading.measured("load"):
        raise OSError("no weights")
    assert rows(result.trace)[0].flags == EXCEPTION
    assert len(marks_of(result.trace)) == 1


@pytest.mark.parametrize("broken", ["now", "mark"])
def test_what_goes_wrong_in_measuring_costs_the_figures_alone(tmp_path, monkeypatch, broken):
    def fail(*args, **kwargs):
        raise ValueError("planted")

    owner = loading.Reading if broken == "now" else loading
    monkeypatch.setattr(owner, broken, fail)
    with recorded(tmp_path / "run") as result, loading.measured("load"):
        done = True
    assert done
    assert paths(result.trace) == ["load"]
    assert marks_of(result.trace) == []


def test_without_proc_there_are_fewer_figures(tmp_path, monkeypatch):
    monkeypatch.setattr(loading, "_fields", lambda path: {})
    with recorded(tmp_path / "run") as result, loading.measured("load"):
        pass
    figures = marks_of(result.trace)[0][1]
    assert set(figures) == {"thread_cpu_ns", "process_cpu_ns", "major_faults", "minor_faults", "shared"}


def test_two_threads_that_load_at_once_say_so(tmp_path):
    both = threading.Barrier(2, timeout=20)

    def other():
        with loading.measured("load_vae"):
            both.wait()
            both.wait()

    with recorded(tmp_path / "run") as result:
        thread = threading.Thread(target=other)
        with loading.measured("load_t5"):
            thread.start()
            both.wait()
            both.wait()
        thread.join()
        with loading.measured("load_clip"):
            pass
    shared = {path: figures["shared"] for path, figures in marks_of(result.trace)}
    assert shared == {"load_t5": True, "load_vae": True, "load_clip": False}


def test_nothing_is_read_while_nothing_is_recorded(monkeypatch):
    monkeypatch.setenv("WANHOOK", "0")
    monkeypatch.setattr(loading.Reading, "now", lambda: pytest.fail("measured"))
    native = wanhook.recording._C
    native.set_outermost_hooks(lambda out, verified: 0, lambda number: None, wanhook.recording.decorate)
    try:
        with loading.measured("load"):
            pass
    finally:
        native.set_outermost_hooks(
            wanhook.recording._begin_outermost, wanhook.recording._end_outermost, wanhook.recording.decorate
        )


def test_checkpoint_bytes(tmp_path, checkpoint):
    assert loading.checkpoint_bytes(checkpoint) == loading.checkpoint_bytes(str(checkpoint)) == 6 * MIB
    assert loading.checkpoint_bytes(tmp_path) is None
    (tmp_path / "model-1.safetensors").write_bytes(b"x" * 10)
    (tmp_path / "config.json").write_bytes(b"x" * 1000)
    assert loading.checkpoint_bytes(tmp_path) == 10
    for none in (None, 3, "Wan-AI/Wan2.2-T2V-A14B", tmp_path / "gone", "a\0b", object()):
        assert loading.checkpoint_bytes(none) is None


def folder(directory, **sizes):
    """Files of so many bytes; __ stands for a dot."""
    for name, size in sizes.items():
        (directory / name.replace("__", ".")).write_bytes(b"x" * size)
    return directory


def index(*files):
    return json.dumps({"weight_map": {f"layer.{number}.weight": file for number, file in enumerate(files)}})


def test_only_the_model_s_own_weights_count_in_a_folder_of_all_components(tmp_path):
    """ti2v-5B, S2V, Animate and all of Wan2.1 load the model from the folder that holds T5, VAE and CLIP too."""
    others = {"models_t5_umt5-xxl-enc-bf16__pth": 1000, "Wan2__2_VAE__pth": 300, "relighting_lora__ckpt": 50}
    folder(tmp_path, **others, **{"models_clip_open-clip__pth": 200})
    parts = [f"diffusion_pytorch_model-0000{number}-of-00002.safetensors" for number in (1, 2)]
    for part, size in zip(parts, (7, 9), strict=True):
        (tmp_path / part).write_bytes(b"x" * size)
    assert loading.checkpoint_bytes(tmp_path) == 16
    folder(tmp_path, left_from_a_fine_tuning__safetensors=30)
    (tmp_path / "diffusion_pytorch_model.safetensors.index.json").write_text(index(*parts, parts[0], "gone", "../up"))
    assert loading.checkpoint_bytes(tmp_path) == 16


@pytest.mark.parametrize("text", ["", "[]", "{", '{"weight_map": 3}', '{"weight_map": {"a": 1}}', "[" * 100_000, "{}"])
def test_an_index_that_cannot_be_read_costs_nothing(tmp_path, text):
    (tmp_path / "model.safetensors.index.json").write_text(text)
    assert loading.checkpoint_bytes(folder(tmp_path, a__safetensors=3, b__safetensors=4)) == 7


@pytest.mark.parametrize("name", ["diffusion_pytorch_model", "pytorch_model"])
def test_pickled_weights_count_where_there_are_no_others(tmp_path, name):
    folder(tmp_path, training_args__bin=100, optimizer__pt=50, **{f"{name}-1__bin": 3, f"{name}-2__bin": 4})
    assert loading.checkpoint_bytes(tmp_path) == 7
    (tmp_path / f"{name}.bin.index.json").write_text(index(f"{name}-1.bin"))
    assert loading.checkpoint_bytes(tmp_path) == 3
    assert loading.checkpoint_bytes(folder(tmp_path, model__safetensors=20)) == 20
