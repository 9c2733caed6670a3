// The extension wanhook._replay: arrays in, arrays out. It knows neither torch nor CUDA.

#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <algorithm>
#include <cstddef>
#include <initializer_list>
#include <memory>
#include <optional>
#include <string>
#include <type_traits>
#include <vector>

#include "replay/replay.h"

namespace py = pybind11;

namespace wanhook::replay {
namespace {

template <class Value>
using Column = py::array_t<Value, py::array::c_style | py::array::forcecast>;

// The columns of wanhook._replay.SEGMENT_LIFE.
struct SegmentLife {
  uint64_t address;
  int64_t size;
  int64_t begin;
  int64_t end;
  int64_t scope;
  uint64_t stream;
  uint32_t pool;
  uint8_t large;
  uint8_t expandable;
};

Settings make_settings(int64_t max_split_size, const std::vector<uint64_t>& divisions, uint64_t large_segment_size,
                       bool expandable_segments, double garbage_collection_threshold) {
  Settings settings;
  if (max_split_size != -1 && max_split_size <= 0) throw py::value_error("max_split_size must be positive, or -1");
  if (max_split_size > 0) settings.max_split_size = static_cast<uint64_t>(max_split_size);
  if (!divisions.empty() && divisions.size() != static_cast<size_t>(kRoundupIntervals)) {
    throw py::value_error("roundup_power2_divisions must be empty or have 16 entries, not " +
                          std::to_string(divisions.size()));
  }
  std::copy(divisions.begin(), divisions.end(), settings.roundup_power2_divisions.begin());
  settings.large_segment_size = large_segment_size;
  settings.expandable_segments = expandable_segments;
  settings.garbage_collection_threshold = garbage_collection_threshold;
  return settings;
}

int64_t max_split_size_of(const Settings& settings) {
  return settings.max_split_size == kNoLimit ? -1 : static_cast<int64_t>(settings.max_split_size);
}

std::vector<uint64_t> divisions_of(const Settings& settings) {
  const auto& all = settings.roundup_power2_divisions;
  return {all.begin(), all.end()};
}

template <class Value>
Column<Value> column(const py::array& table, const char* name) {
  Column<Value> values = table[py::str(name)].cast<Column<Value>>();
  if (values.ndim() != 1) throw py::value_error("segments and blocks must have one dimension");
  return values;
}

AddressMap make_known_state(int64_t position, const py::array& segments, const py::array& blocks) {
  if (position < 0) throw py::value_error("a position must not be negative");
  AddressMap state;
  state.position = static_cast<uint64_t>(position);
  const auto address = column<uint64_t>(segments, "address"), total = column<uint64_t>(segments, "total"),
             stream = column<uint64_t>(segments, "stream");
  const auto pool = column<uint32_t>(segments, "pool");
  const auto flags = column<uint8_t>(segments, "flags");
  for (py::ssize_t row = 0; row < address.shape(0); ++row) {
    state.segments.push_back({address.at(row), total.at(row), 0, 0, 0, stream.at(row), pool.at(row), 0, flags.at(row)});
  }
  const auto begin = column<uint64_t>(blocks, "address"), size = column<uint64_t>(blocks, "size"),
             requested = column<uint64_t>(blocks, "requested"), segment = column<uint64_t>(blocks, "segment");
  const auto scope = column<int64_t>(blocks, "scope");
  const auto block_state = column<uint8_t>(blocks, "state");
  for (py::ssize_t row = 0; row < begin.shape(0); ++row) {
    state.blocks.push_back(
        {begin.at(row), size.at(row), requested.at(row), segment.at(row), scope.at(row), block_state.at(row)});
  }
  const auto by_address = [](const auto& left, const auto& right) { return left.address < right.address; };
  std::stable_sort(state.segments.begin(), state.segments.end(), by_address);
  std::stable_sort(state.blocks.begin(), state.blocks.end(), by_address);
  return state;
}

size_t offset_of(const py::object& fields, const char* name, const py::dtype& wanted) {
  if (!fields.contains(name)) throw py::value_error(std::string("events have no column ") + name);
  const py::tuple field = fields[name];
  if (!py::object(field[0]).equal(wanted)) {
    throw py::value_error(std::string("column ") + name + " of the events must be " +
                          wanted.attr("str").cast<std::string>());
  }
  return field[1].cast<size_t>();
}

EventTable table_of(const py::array& events) {
  if (events.ndim() != 1) throw py::value_error("events must have one dimension");
  const py::object fields = events.dtype().attr("fields");
  if (fields.is_none()) throw py::value_error("events must be a structured array");
  EventTable table;
  table.rows = static_cast<const unsigned char*>(events.data());
  table.stride = events.strides(0);
  table.count = static_cast<uint64_t>(events.shape(0));
  table.action = offset_of(fields, "action", py::dtype::of<uint8_t>());
  table.flags = offset_of(fields, "flags", py::dtype::of<uint8_t>());
  table.sequence = offset_of(fields, "sequence", py::dtype::of<uint64_t>());
  table.address = offset_of(fields, "address", py::dtype::of<uint64_t>());
  table.size = offset_of(fields, "size", py::dtype::of<uint64_t>());
  table.stream = offset_of(fields, "stream", py::dtype::of<uint64_t>());
  table.pool = offset_of(fields, "pool", py::dtype::of<uint32_t>());
  table.scope = offset_of(fields, "scope", py::dtype::of<uint32_t>());
  return table;
}

std::vector<uint64_t> positions_of(const std::vector<int64_t>& given, uint64_t last, const char* what) {
  std::vector<uint64_t> positions;
  for (const int64_t position : given) {
    if (position < 0 || static_cast<uint64_t>(position) > last) {
      throw py::value_error(std::string(what) + " must lie between 0 and the number of events");
    }
    positions.push_back(static_cast<uint64_t>(position));
  }
  std::sort(positions.begin(), positions.end());
  return positions;
}

struct Field {
  const char* name;
  const char* format;
  size_t offset;
};

template <class Value>
constexpr const char* format_of() {
  if (std::is_same_v<Value, int64_t>) return "<i8";
  if (std::is_same_v<Value, uint64_t>) return "<u8";
  if (std::is_same_v<Value, int32_t>) return "<i4";
  if (std::is_same_v<Value, uint32_t>) return "<u4";
  static_assert(sizeof(Value) >= 4 || std::is_same_v<Value, uint8_t>);
  return "u1";
}

// numpy's dtype of a row, made once by numpy itself. Not PYBIND11_NUMPY_DTYPE: with pybind11 3.1.0, GCC 13 and the link
// flags of Ubuntu's Python it crashed the import.
template <class Row>
PyObject* row_dtype = nullptr;

template <class Row>
py::dtype dtype_of() {
  return py::reinterpret_borrow<py::dtype>(row_dtype<Row>);
}

template <class Row>
void make_dtype(py::module_& module, const char* name, std::initializer_list<Field> fields) {
  py::list names, formats, offsets;
  for (const Field& field : fields) {
    names.append(field.name);
    formats.append(field.format);
    offsets.append(field.offset);
  }
  py::dict layout;
  layout["names"] = names;
  layout["formats"] = formats;
  layout["offsets"] = offsets;
  layout["itemsize"] = sizeof(Row);
  py::object made = py::module_::import("numpy").attr("dtype")(layout);
  module.attr(name) = made;
  row_dtype<Row> = made.release().ptr();  // for the life of the process
}

// Without data: not filled in.
template <class Row>
py::array array_of(size_t rows, const Row* data = nullptr, py::handle owner = {}) {
  return py::array(dtype_of<Row>(), std::vector<py::ssize_t>{static_cast<py::ssize_t>(rows)}, {}, data, owner);
}

template <class Row>
Row* rows_of(py::array& array) {
  return static_cast<Row*>(array.mutable_data());
}

template <class Row>
py::array copied(const std::vector<Row>& rows) {
  return array_of(rows.size(), rows.data());
}

py::array handed_over(GrowingRows<BlockLife>& lives) {
  const size_t rows = lives.size();
  BlockLife* data = lives.release();
  if (data == nullptr) return array_of<BlockLife>(0);
  return array_of(rows, data, py::capsule(data, [](void* memory) { std::free(memory); }));
}

py::array segment_lives(const std::vector<Segment>& segments) {
  py::array lives = array_of<SegmentLife>(segments.size());
  auto* life = rows_of<SegmentLife>(lives);
  for (const Segment& segment : segments) {
    *life++ = {segment.address,
               static_cast<int64_t>(segment.largest),
               static_cast<int64_t>(segment.begin),
               static_cast<int64_t>(segment.end),
               scope_number(segment.scope),
               segment.stream,
               segment.pool,
               segment.kind == SegmentKind::kLarge,
               segment.expandable};
  }
  return lives;
}

struct Result {
  py::array counters;
  py::array blocks;
  py::array segments;
  py::array contradictions;
  uint64_t contradiction_count;
  py::array exact;
  std::vector<Epoch> epochs;
  std::vector<AddressMap> maps;

  py::tuple address_map(int64_t position) const {
    for (const AddressMap& map : maps) {
      if (static_cast<int64_t>(map.position) == position) {
        return py::make_tuple(copied(map.segments), copied(map.blocks));
      }
    }
    throw py::key_error("no address map was kept at position " + std::to_string(position) +
                        ": ask for it in maps_at; of very many large ones only the first are kept");
  }

  py::array_t<bool> exact_at(const Column<int64_t>& positions) const {
    if (positions.ndim() != 1) throw py::value_error("positions must have one dimension");
    py::array_t<bool> found(positions.shape(0));
    for (py::ssize_t row = 0; row < positions.shape(0); ++row) {
      const int64_t position = positions.at(row);
      const auto behind = std::upper_bound(epochs.begin(), epochs.end(), position,
                                           [](int64_t value, const Epoch& epoch) { return value < epoch.end; });
      found.mutable_at(row) =
          behind != epochs.end() && behind->known && position >= behind->begin && position < behind->inexact_from;
    }
    return found;
  }
};

Result run(const py::array& events, const std::vector<AddressMap>& states, const Settings& settings, bool host,
           bool complete_from_start, bool largest_free, bool blocks, const std::vector<int64_t>& maps_at,
           const std::vector<int64_t>& unknown_from) {
  Plan plan;
  plan.events = table_of(events);
  plan.states = states;
  for (size_t number = 0; number < states.size(); ++number) {
    const bool ascending = number == 0 || states[number - 1].position <= states[number].position;
    if (states[number].position > plan.events.count || !ascending) {
      throw py::value_error("known states must be in ascending order of positions, within those of the events");
    }
  }
  plan.maps_at = positions_of(maps_at, plan.events.count, "maps_at");
  plan.unknown_from = positions_of(unknown_from, plan.events.count, "unknown_from");
  plan.known_at_start = complete_from_start;
  py::array counters = array_of<Counters>(plan.events.count + 1);
  auto* rows = rows_of<Counters>(counters);
  Outcome outcome;
  const auto model = std::make_unique<Model>(settings, ModelOptions{host, largest_free && !host, blocks});
  {
    const py::gil_scoped_release released;
    outcome = replay(*model, plan, rows);
    model->finish(plan.events.count + 1);
  }
  const Contradictions& found = model->contradictions();
  return {std::move(counters),
          handed_over(model->lives()),
          segment_lives(model->map().segments()),
          copied(found.kept()),
          found.count(),
          copied(outcome.epochs),
          outcome.epochs,
          std::move(outcome.maps)};
}

py::dict contradiction_kinds() {
  py::dict kinds;
  for (size_t kind = 1; kind < kContradictionPhrases.size(); ++kind)
    kinds[py::int_(kind)] = kContradictionPhrases[kind];
  return kinds;
}

#define WANHOOK_FIELD(Row, field) \
  Field { #field, format_of<decltype(Row::field)>(), offsetof(Row, field) }

void make_dtypes(py::module_& module) {
  make_dtype<Counters>(
      module, "COUNTERS",
      {WANHOOK_FIELD(Counters, requested), WANHOOK_FIELD(Counters, allocated), WANHOOK_FIELD(Counters, active),
       WANHOOK_FIELD(Counters, reserved), WANHOOK_FIELD(Counters, inactive_split), WANHOOK_FIELD(Counters, free),
       WANHOOK_FIELD(Counters, largest_free)});
  make_dtype<BlockLife>(
      module, "BLOCK_LIFE",
      {WANHOOK_FIELD(BlockLife, address), WANHOOK_FIELD(BlockLife, size), WANHOOK_FIELD(BlockLife, requested),
       WANHOOK_FIELD(BlockLife, begin), WANHOOK_FIELD(BlockLife, freed), WANHOOK_FIELD(BlockLife, end),
       WANHOOK_FIELD(BlockLife, scope), WANHOOK_FIELD(BlockLife, stream), WANHOOK_FIELD(BlockLife, segment)});
  make_dtype<SegmentLife>(
      module, "SEGMENT_LIFE",
      {WANHOOK_FIELD(SegmentLife, address), WANHOOK_FIELD(SegmentLife, size), WANHOOK_FIELD(SegmentLife, begin),
       WANHOOK_FIELD(SegmentLife, end), WANHOOK_FIELD(SegmentLife, scope), WANHOOK_FIELD(SegmentLife, stream),
       WANHOOK_FIELD(SegmentLife, pool), WANHOOK_FIELD(SegmentLife, large), WANHOOK_FIELD(SegmentLife, expandable)});
  make_dtype<Contradiction>(module, "CONTRADICTION",
                            {WANHOOK_FIELD(Contradiction, position), WANHOOK_FIELD(Contradiction, kind),
                             WANHOOK_FIELD(Contradiction, address), WANHOOK_FIELD(Contradiction, size)});
  make_dtype<Epoch>(module, "EPOCH",
                    {WANHOOK_FIELD(Epoch, begin), WANHOOK_FIELD(Epoch, end), WANHOOK_FIELD(Epoch, inexact_from),
                     WANHOOK_FIELD(Epoch, known)});
  make_dtype<SegmentRow>(
      module, "SEGMENT",
      {WANHOOK_FIELD(SegmentRow, address), WANHOOK_FIELD(SegmentRow, total), WANHOOK_FIELD(SegmentRow, allocated),
       WANHOOK_FIELD(SegmentRow, active), WANHOOK_FIELD(SegmentRow, requested), WANHOOK_FIELD(SegmentRow, stream),
       WANHOOK_FIELD(SegmentRow, pool), WANHOOK_FIELD(SegmentRow, blocks), WANHOOK_FIELD(SegmentRow, flags)});
  make_dtype<BlockRow>(
      module, "BLOCK",
      {WANHOOK_FIELD(BlockRow, address), WANHOOK_FIELD(BlockRow, size), WANHOOK_FIELD(BlockRow, requested),
       WANHOOK_FIELD(BlockRow, segment), WANHOOK_FIELD(BlockRow, scope), WANHOOK_FIELD(BlockRow, state)});
}

#undef WANHOOK_FIELD

}  // namespace

PYBIND11_MODULE(_replay, module) {
  module.doc() = "The block model of torch's CUDA caching allocator, driven by recorded events.";
  make_dtypes(module);
  module.attr("CONTRADICTION_KINDS") = contradiction_kinds();
  py::class_<Settings>(module, "Settings")
      .def(py::init(&make_settings), py::kw_only(), py::arg("max_split_size") = -1,
           py::arg("roundup_power2_divisions") = py::tuple(), py::arg("large_segment_size") = uint64_t{20} << 20,
           py::arg("expandable_segments") = false, py::arg("garbage_collection_threshold") = 0.0)
      .def_property_readonly("max_split_size", &max_split_size_of)
      .def_property_readonly("roundup_power2_divisions",
                             [](const Settings& s) { return py::tuple(py::cast(divisions_of(s))); })
      .def_readonly("large_segment_size", &Settings::large_segment_size)
      .def_readonly("expandable_segments", &Settings::expandable_segments)
      .def_readonly("garbage_collection_threshold", &Settings::garbage_collection_threshold)
      .def("block_size", &Settings::block_size, py::arg("requested"));
  py::class_<AddressMap>(module, "KnownState")
      .def(py::init(&make_known_state), py::arg("position"), py::arg("segments"), py::arg("blocks"))
      .def_readonly("position", &AddressMap::position);
  py::class_<Result>(module, "Replay")
      .def_readonly("counters", &Result::counters)
      .def_readonly("blocks", &Result::blocks)
      .def_readonly("segments", &Result::segments)
      .def_readonly("contradictions", &Result::contradictions)
      .def_readonly("contradiction_count", &Result::contradiction_count)
      .def_readonly("exact", &Result::exact)
      .def("address_map", &Result::address_map, py::arg("position"))
      .def("exact_at", &Result::exact_at, py::arg("positions"));
  module.def("replay", &run, py::arg("events"), py::arg("states"), py::arg("settings"), py::kw_only(),
             py::arg("host") = false, py::arg("complete_from_start") = false, py::arg("largest_free") = true,
             py::arg("blocks") = true, py::arg("maps_at") = py::tuple(), py::arg("unknown_from") = py::tuple());
}

}  // namespace wanhook::replay
