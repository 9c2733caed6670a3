"""Load table, waits and records of files with flipped bits: figures, or a TraceFormatError, and nothing else."""

import random
import warnings

import orjson

import made_load
from made_load import SECOND
from wanhook.analysis.inference import inference_records
from wanhook.report.build import build
from wanhook.report.inference_record import as_json
from wanhook.report.terminal import render
from wanhook.tracefile.format import TraceFormatError
from wanhook.tracefile.model import load

SEED, FILES = 20_261_121, 400


def whole_file() -> bytes:
    """A load, two requests with steps, a collective and memory."""
    builder = made_load.loading_rank(0, t5_ends=4, from_disk=True)
    builder.group("0", (0, 1))
    builder.snapshot(0, [{"address": 0, "total": 1 << 21}], [{"address": 0, "size": 512, "requested": 500}])
    for begin in (40 * SECOND, 60 * SECOND):
        args = {"pipeline": "WanT2V", "seed": 3, "sample_solver": "unipc"}
        request = builder.scope("request", begin, begin + SECOND, gpu=(begin, begin + SECOND), args=args)
        for step in range(3):
            at = begin + step * 1000
            inside = builder.scope("denoise_step", at, at + 900, parent=request, gpu=(at, at + 900))
            builder.scope("expert_switch", at, at + 90, parent=inside, gpu=(at, at + 90))
            builder.collective("alltoall_", at, returned=at + 5, gpu=(at, at + 9), role="qkv", scope=inside)
            builder.alloc(0x1000, 512, at, scope=inside)
            builder.free(0x1000, 512, at + 9, completed=at + 10)
    builder.end(70 * SECOND)
    return builder.to_bytes()


def test_flipped_bits(tmp_path):
    whole, chance, read = whole_file(), random.Random(SEED), 0
    used = [at for at in range(len(whole)) if whole[at]]
    for number in range(FILES):
        raw = bytearray(whole)
        for _ in range(1 + number % 12):
            raw[chance.choice(used)] ^= 1 << chance.randrange(8)
        file = tmp_path / "a.wanhook"
        file.write_bytes(raw)
        try:
            run = load(tmp_path)
        except TraceFormatError:
            continue
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            records = inference_records(run)
            assert render(build(run))
        read += 1
        for record in records:
            assert orjson.loads(as_json(record))["schema"] == "wanhook.inference_record/1"
    assert read > FILES // 2
