import pytest

from made_trace import TraceBuilder
from wanhook import _replay
from wanhook.analysis.allocator_settings import UnknownSettings, in_force, settings_changed, settings_of
from wanhook.tracefile.model import load

MIB = 1 << 20


def as_tuple(settings):
    return (
        settings.max_split_size,
        settings.roundup_power2_divisions,
        settings.large_segment_size,
        settings.expandable_segments,
        settings.garbage_collection_threshold,
    )


def trace_with(tmp_path, allocator, device="cuda"):
    builder = TraceBuilder(device=device, meta={"allocator": allocator})
    return load(builder.save(tmp_path / "a.wanhook")).traces[0]


DEFAULT = (-1, (0,) * 16, 20 * MIB, False, 0.0)


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("", DEFAULT),
        ("max_split_size_mb:64", (64 * MIB, *DEFAULT[1:])),
        (" expandable_segments : True ,", (*DEFAULT[:3], True, 0.0)),
        ("large_segment_size_mb:64,garbage_collection_threshold:0.6", (-1, (0,) * 16, 64 * MIB, False, 0.6)),
        ("backend:native,roundup_power2_divisions:4", (-1, (4,) * 16, *DEFAULT[2:])),
        (
            "roundup_power2_divisions:[2:8,64:4,>:16],max_split_size_mb:100",
            (100 * MIB, (8, 8, 0, 0, 0, 0, 4, *[16] * 9), *DEFAULT[2:]),
        ),
        ("roundup_power2_divisions:[8:4,1:2]", (-1, (2, 4, 4, 4, *[0] * 12), *DEFAULT[2:])),
        ("roundup_power2_divisions:[>:4]", (-1, (0, *[4] * 15), *DEFAULT[2:])),
        ("roundup_power2_divisions:[1048576:2]", (-1, (2,) * 16, *DEFAULT[2:])),
        ("roundup_power2_divisions:[]", DEFAULT),
    ],
)
def test_a_string_is_read_as_torch_reads_it(text, wanted):
    assert as_tuple(in_force([text])) == wanted


def test_later_strings_reset_some_settings_and_keep_others():
    first = "large_segment_size_mb:64,expandable_segments:True,max_split_size_mb:64,roundup_power2_divisions:2"
    assert as_tuple(in_force([first, "garbage_collection_threshold:0.5"])) == (-1, (0,) * 16, 64 * MIB, True, 0.5)


@pytest.mark.parametrize(
    "text",
    [
        "max_split_size_mb",
        "max_split_size_mb:",
        "max_split_size_mb:x",
        "max_split_size_mb:-4",
        "max_split_size_mb:[1]",
        "expandable_segments:true",
        "garbage_collection_threshold:much",
        "roundup_power2_divisions:3",
        "roundup_power2_divisions:0",
        "roundup_power2_divisions:[3:4]",
        "roundup_power2_divisions:[4:4",
        "roundup_power2_divisions:[4]",
        "max_split_size_mb:64 expandable_segments:True",
        ":::",
    ],
)
def test_what_torch_would_refuse_is_not_guessed(text):
    with pytest.raises(UnknownSettings):
        in_force([text])


def test_settings_of_a_trace(tmp_path):
    found = settings_of(trace_with(tmp_path, {"settings": "max_split_size_mb:64"}))
    assert as_tuple(found) == (64 * MIB, *DEFAULT[1:])


def test_settings_that_the_program_set_before_the_recording(tmp_path):
    allocator = {
        "settings": "large_segment_size_mb:64,max_split_size_mb:64",
        "settings_at_start": "max_split_size_mb:80",
    }
    assert as_tuple(settings_of(trace_with(tmp_path, allocator))) == (80 * MIB, (0,) * 16, 64 * MIB, False, 0.0)


@pytest.mark.parametrize(
    ("allocator", "reason"),
    [
        ({"backend": "cudaMallocAsync"}, "the allocator was cudaMallocAsync"),
        ({"backend": None}, "the file does not say which allocator ran"),
        ({"settings": None}, "the file does not tell the allocator's settings"),
        ({"settings": "max_split_size_mb:x"}, "the allocator's settings cannot be read: max_split_size_mb cannot be x"),
    ],
)
def test_unknown_settings_have_a_reason(tmp_path, allocator, reason):
    assert settings_of(trace_with(tmp_path, allocator)) == reason


def test_a_cpu_trace_needs_no_settings(tmp_path):
    found = settings_of(trace_with(tmp_path, {"backend": "cpu", "settings": None}, device="cpu"))
    assert isinstance(found, _replay.Settings)


@pytest.mark.parametrize(("last", "changed"), [("a:1", False), ("b:2", True), (None, False)])
def test_a_change_while_recording_is_told(tmp_path, last, changed):
    trace = trace_with(tmp_path, {"settings_at_start": "a:1", "settings_in_use": last})
    assert settings_changed(trace) is changed


@pytest.mark.parametrize(
    "wrong", [{"max_split_size": 0}, {"max_split_size": -2}, {"roundup_power2_divisions": [1, 2]}, {"roundup": 1}]
)
def test_settings_that_cannot_be_are_refused(wrong):
    with pytest.raises((ValueError, TypeError)):
        _replay.Settings(**wrong)


@pytest.mark.parametrize(
    ("divisions", "requested", "size"),
    [
        (0, 0, 512),
        (0, 1, 512),
        (0, 513, 1024),
        (0, 12_000_004, 12_000_256),
        (4, 1200 * MIB, 1280 * MIB),
        (4, 1280 * MIB, 1280 * MIB),
        (4, 1024 * MIB, 1024 * MIB),
        (4, 2048, 2048),
        (4, 2049, 2560),
        (1024, 600_000, 600_064),
        (1, 12_000_004, 12_000_256),
    ],
)
def test_block_sizes(divisions, requested, size):
    settings = _replay.Settings(roundup_power2_divisions=[divisions] * 16)
    assert settings.block_size(requested) == size
