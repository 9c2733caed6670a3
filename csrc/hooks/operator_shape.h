// Where the arguments of a c10d operator are, found by name and type: their order differs between versions of torch.
#pragma once

#include <ATen/core/function_schema.h>
#include <ATen/core/ivalue.h>

#include <cstdint>
#include <string>
#include <vector>

namespace wanhook {

struct OperatorShape {
  std::string name;            // without the namespace
  uint32_t name_id = 0;        // string id
  size_t arguments = 0;
  size_t group = 0;            // index of process_group
  int async_op = -1;           // -1: the operator has no such argument
  int peer = -1;               // dst, src or root_rank
  int work = -1;               // index of the Work among the results
  size_t results = 0;
  bool point_to_point = false;
  bool coalesces = false;      // takes the tensors of several calls: what a coalescing manager may end in
  bool moves_data = true;      // false for barriers, whose tensor only names a device
  bool has_future = true;      // gloo: getFuture() of its Work does not throw
  std::vector<size_t> inputs;
  std::vector<size_t> outputs;
};

// False for operators without a process group.
bool read_shape(const c10::FunctionSchema& schema, OperatorShape* shape);

// What a call moves. Tensors with a Python key (fake tensors while compiling) make the call untouchable.
struct CallTensors {
  uint64_t bytes = 0;
  uint32_t count = 0;
  int dtype = -1;              // c10::ScalarType; -1 none yet, -2 mixed
  int device = -1;             // CUDA device, -1 CPU or none
  bool has_cuda = false;
  bool has_python_key = false;
};
[[gnu::hot]] void add_tensors(const c10::IValue& value, CallTensors* tensors);

}  // namespace wanhook
