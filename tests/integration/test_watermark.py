"""WANHOOK_WARN_AT marks and tells stages that begin or end with too much memory in use."""

import pytest

import wanhook
from recorded import only_trace, recorded
from wanhook import settings, watermark
from wanhook._native import load as load_native


@pytest.fixture
def use(monkeypatch):
    """use(share): that share of the device's memory is in use from now on."""
    monkeypatch.setattr(settings, "_said", set(), raising=False)
    monkeypatch.setenv("WANHOOK_WARN_AT", "0.85")
    monkeypatch.setenv("RANK", "3")
    native = load_native()
    yield native.inject_memory_use
    native.inject_memory_use(-1)


def marked(trace):
    """(path, share in use) of the watermark's marks, by time."""
    names = [trace.strings[name] for name in trace.marks["name"]]
    args = [trace.mark_args[row] for row, name in enumerate(names) if name == watermark.MARK]
    return [(each["path"], each["used"]) for each in args]


def test_each_stage_is_marked_and_told_once(use, tmp_path, capfd):
    use(0.5)
    with recorded(tmp_path) as result, wanhook.trace("request"):
        with wanhook.trace("below"):
            use(0.8499)
        for _ in range(3):
            with wanhook.trace("vae_decode"):
                use(0.875)
        with wanhook.trace("denoise"), wanhook.trace("op", level="op"):
            pass
        use(0.9)
    assert marked(result.trace) == [
        ("request/vae_decode", 0.875), ("request/denoise", 0.875), ("request", 0.9)]  # fmt: skip
    assert capfd.readouterr().err.splitlines() == [
        f"wanhook: rank 3: {share} of the GPU's memory is in use in stage {path} (WANHOOK_WARN_AT=0.85). The report "
        "says who holds it; wanhook.memory.clear() gives back the cache."
        for path, share in (("request/vae_decode", "87.5%"), ("request/denoise", "87.5%"), ("request", "90.0%"))
    ]


def test_another_recording_is_marked_again_and_not_told(use, tmp_path, capfd):
    use(1.0)
    for name in ("a", "b"):
        with recorded(tmp_path / name), wanhook.trace("request"):
            pass
    assert marked(only_trace(tmp_path / "a")) == marked(only_trace(tmp_path / "b")) == [("request", 1.0)]
    assert capfd.readouterr().err.count("\n") == 1


def test_a_parent_of_another_thread_is_in_the_path(use, tmp_path):
    use(0.1)
    with recorded(tmp_path) as result, wanhook.trace("request") as request, wanhook.trace("aside"):
        with wanhook.trace("offload", parent=request):
            use(0.86)
        use(0.1)
    assert marked(result.trace) == [("request/offload", 0.86)]
    assert [result.trace.paths[path] for path in result.trace.scopes["path"]][-1] == "request/offload"


def test_off_by_default_and_while_nothing_is_recorded(use, tmp_path, monkeypatch, capfd):
    use(1.0)
    monkeypatch.delenv("WANHOOK_WARN_AT")
    with recorded(tmp_path) as result, wanhook.trace("request"):
        wanhook.pause()
        with wanhook.trace("unrecorded"):
            pass
        wanhook.resume()
    assert marked(result.trace) == []
    assert capfd.readouterr().err == ""


def test_stopping_inside_a_stage_leaves_it_untold(use, tmp_path, capfd):
    use(0.1)
    wanhook.start(tmp_path)
    with wanhook.trace("request"):
        wanhook.stop()
        use(1.0)
    assert marked(only_trace(tmp_path)) == []
    assert capfd.readouterr().err == ""


def test_names_without_end_are_bounded(use, tmp_path, monkeypatch, capfd):
    monkeypatch.setattr(watermark, "MOST_PATHS", 3)
    use(1.0)
    with recorded(tmp_path) as result:
        for number in range(10):
            with wanhook.trace(f"job {number}"):
                pass
    assert [path for path, _ in marked(result.trace)] == ["job 0", "job 1", "job 2"]
    assert capfd.readouterr().err.count("\n") == 3


def test_an_error_of_ours_is_not_the_program_s(use, tmp_path, monkeypatch):
    def broken(*arguments):
        raise OSError("nobody may see this")

    told = []
    monkeypatch.setattr("sys.unraisablehook", told.append)
    monkeypatch.setattr(watermark, "_reached", broken)
    use(1.0)
    with recorded(tmp_path), wanhook.trace("request"):
        pass
    assert [str(each.exc_value) for each in told] == ["nobody may see this"] * 2
