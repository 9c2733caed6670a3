"""The three places that describe the trace format agree: record.h, format.py and docs/trace-format.md."""

from __future__ import annotations

import pickle
import re
from enum import IntEnum, IntFlag
from pathlib import Path

import numpy as np
import pytest

from wanhook.tracefile import format as layout
from wanhook.tracefile.format import RECORDS, Kind, TraceFormatError

ROOT = Path(__file__).parents[2]
HEADER = re.sub(r"//[^\n]*", "", (ROOT / "csrc/core/record.h").read_text())
DOCUMENT = (ROOT / "docs/trace-format.md").read_text()

C_TYPES = {
    "uint8_t": "u1",
    "unsigned char": "u1",
    "char": "u1",
    "int8_t": "i1",
    "uint16_t": "u2",
    "uint32_t": "u4",
    "int32_t": "i4",
    "uint64_t": "u8",
    "int64_t": "i8",
    "double": "f8",
}
ENUMS = {
    name: enum
    for name, enum in vars(layout).items()
    if isinstance(enum, type) and issubclass(enum, IntEnum | IntFlag) and enum not in (IntEnum, IntFlag)
}


def snake(camel: str) -> str:
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", camel).upper()


def camel(kind: Kind) -> str:
    return kind.name.title().replace("_", "")


def constant(name: str) -> int:
    value = re.search(rf"constexpr \w+ {name} = ([^;]+);", HEADER)[1]
    return eval(value, {"kChunkBytes": 256 * 1024, "kRecordBytes": 64})


def c_fields(struct: str) -> dict[str, tuple[int, int, str]]:
    """Field -> (offset, size, type code) as a C++ compiler lays them out, reserved ones left out."""
    body = re.search(rf"struct {struct} \{{(.*?)\}};", HEADER, re.S)[1]
    fields, offset = {}, 0
    for ctype, name, count in re.findall(r"((?:unsigned )?\w+) (\w+)(?:\[(\w+)\])?;", body):
        code = C_TYPES[ctype]
        size = int(code[1])
        offset = -(-offset // size) * size
        length = size * (int(count) if count.isdigit() else constant(count) if count else 1)
        if not re.fullmatch(r"reserved\d", name):
            fields[name] = (offset, length, "text" if count else code)
        offset += length
    return fields


def numpy_fields(dtype: np.dtype) -> dict[str, tuple[int, int, str]]:
    fields = {}
    for name, (form, offset) in dtype.fields.items():
        fields[name] = (offset, form.itemsize, "text" if form.kind in "SV" else form.str[1:])
    return fields


def document_tables(headings: str) -> list[tuple[str, list[list[str]]]]:
    """Each heading and the cells of the first table under it."""
    tables = []
    for part in re.split(r"^#{2,4} ", DOCUMENT, flags=re.M)[1:]:
        lines = [line for line in part.split("\n") if line.startswith("|")]
        if lines and lines[0].startswith(headings):
            cells = [re.split(r"(?<!\\)\|", line)[1:-1] for line in lines[2:]]
            tables.append((part.split("\n")[0], [[cell.strip() for cell in row] for row in cells]))
    return tables


def document_structs() -> dict[str, list[tuple[int, str, str]]]:
    found = document_tables("| offset | type | field |")
    return {name: [(int(row[0]), row[1], row[2]) for row in rows] for name, rows in found}


def document_type(text: str) -> tuple[int, str]:
    if found := re.fullmatch(r"(?:byte|char)\[(\d+)\]", text):
        return int(found[1]), "text"
    size = int(text[1:]) // 8
    return size, f"{text[0]}{size}"


STRUCTS = {"FileHeader": layout.FILE_HEADER, "ChunkHeader": layout.CHUNK_HEADER}
STRUCTS |= {f"{camel(kind)}Record": dtype for kind, dtype in RECORDS.items()}


@pytest.mark.parametrize("struct", STRUCTS)
def test_fields_are_where_the_c_header_has_them(struct):
    assert numpy_fields(STRUCTS[struct]) == c_fields(struct)


@pytest.mark.parametrize("struct", STRUCTS)
def test_fields_are_where_the_document_has_them(struct):
    rows = document_structs()[struct.removesuffix("Record")]
    end = 0
    for offset, text, name in rows:
        assert offset == end, f"{name} leaves a gap or overlaps"
        end += document_type(text)[0]
    assert end == STRUCTS[struct].itemsize
    described = {name: (offset, *document_type(text)) for offset, text, name in rows if name != "reserved"}
    assert described == numpy_fields(STRUCTS[struct])


def test_no_struct_is_left_out():
    assert set(re.findall(r"struct (\w+) \{", HEADER)) == STRUCTS.keys()
    assert document_structs().keys() == {name.removesuffix("Record") for name in STRUCTS}
    assert set(RECORDS) == set(Kind) - {Kind.EMPTY}


def test_records_are_one_slot_with_the_kind_first():
    for kind, dtype in RECORDS.items():
        assert dtype.itemsize == layout.RECORD_BYTES
        assert dtype.fields["kind"][1] == 0, kind


def c_enums() -> dict[str, dict[str, int]]:
    enums = {}
    for name, body in re.findall(r"enum (?:class )?(\w+) : \w+ \{(.*?)\};", HEADER, re.S):
        members = {key: int(value) for key, value in re.findall(r"k(\w+) = (\d+)", body)}
        for prefix in ("Scope", "Collective", "Segment", "Anchor"):
            if name.endswith("Flags") and all(key.startswith(prefix) for key in members):
                members = {key.removeprefix(prefix): value for key, value in members.items()}
        enums[name] = {snake(key): value for key, value in members.items()}
    return enums


def test_enums_agree_with_the_c_header():
    assert {name: dict(enum.__members__) for name, enum in ENUMS.items()} == c_enums()


def test_enums_agree_with_the_document():
    described = {}
    for name, rows in document_tables("| value | name |"):
        described[name] = {row[1].upper(): int(row[0]) for row in rows}
    ((_, kinds),) = document_tables("| value | kind |")
    described["Kind"] = {re.search(r"\w+", row[1])[0].upper(): int(row[0]) for row in kinds}
    assert described == {name: dict(enum.__members__) for name, enum in ENUMS.items()}


def test_constants_agree_with_the_c_header():
    assert constant("kFormatMajor") == layout.FORMAT_MAJOR
    assert constant("kFormatMinor") == layout.FORMAT_MINOR
    assert constant("kHeaderBytes") == layout.HEADER_BYTES
    assert constant("kChunkBytes") == layout.CHUNK_BYTES
    assert constant("kRecordBytes") == layout.RECORD_BYTES
    assert constant("kChunkMagic") == layout.CHUNK_MAGIC
    assert constant("kTextBytes") == layout.TEXT_BYTES
    magic = re.search(r"kFileMagic\[8\] = \{(.*?)\}", HEADER)[1]
    bytes_of = {"'W'": 0x57, "'H'": 0x48, "'K'": 0x4B, "'\\r'": 0x0D, "'\\n'": 0x0A}
    parts = [part.strip() for part in magic.split(",")]
    assert bytes(bytes_of.get(part) or int(part, 16) for part in parts) == layout.FILE_MAGIC


def test_links_of_the_document_lead_somewhere():
    headings = [
        re.sub(r"[^\w -]", "", head).lower().replace(" ", "-") for head in re.findall(r"^#+ (.*)", DOCUMENT, re.M)
    ]
    anchors = {f"{head}-{n}" if n else head for i, head in enumerate(headings) for n in [headings[:i].count(head)]}
    assert set(re.findall(r"\]\(#([\w-]+)\)", DOCUMENT)) <= anchors


def test_error_says_path_offset_and_reason():
    error = TraceFormatError("a/b.wanhook", 16, "chunk_bytes is 3")
    assert (error.path, error.offset, error.reason) == ("a/b.wanhook", 16, "chunk_bytes is 3")
    assert str(error) == "a/b.wanhook: chunk_bytes is 3 (at byte 16)"
    assert str(pickle.loads(pickle.dumps(error))) == str(error)
    assert isinstance(error, ValueError)
