#include "hooks/operator_shape.h"

#include <ATen/core/Tensor.h>

#include <set>

namespace wanhook {
namespace {

bool is_class(const c10::TypePtr& type, const char* name) { return type->str().find(name) != std::string::npos; }

bool begins_with(const std::string& text, const char* prefix) { return text.rfind(prefix, 0) == 0; }

// getFuture() throws for these on gloo.
bool gloo_gives_future(const std::string& name) {
  static const std::set<std::string> without = {"send", "recv_", "recv_any_source_", "monitored_barrier_"};
  return without.count(name) == 0 && name.find("reduce_scatter") == std::string::npos;
}

void place_argument(const c10::Argument& argument, size_t index, OperatorShape* shape) {
  const std::string& name = argument.name();
  const bool tensors = is_class(argument.type(), "Tensor");
  if (name == "async_op") shape->async_op = static_cast<int>(index);
  if (name == "dst" || name == "src" || name == "root_rank") shape->peer = static_cast<int>(index);
  if (!tensors || name == "sparse_indices") return;
  if (!begins_with(name, "input")) shape->outputs.push_back(index);
  if (!begins_with(name, "output")) shape->inputs.push_back(index);
}

}  // namespace

bool read_shape(const c10::FunctionSchema& schema, OperatorShape* shape) {
  shape->name = schema.name().substr(schema.name().rfind(':') + 1);
  shape->arguments = schema.arguments().size();
  shape->results = schema.returns().size();
  bool has_group = false;
  for (size_t index = 0; index < shape->arguments; ++index) {
    const c10::Argument& argument = schema.arguments()[index];
    if (argument.name() == "process_group" && is_class(argument.type(), "ProcessGroup")) {
      shape->group = index;
      has_group = true;
    } else {
      place_argument(argument, index, shape);
    }
  }
  for (size_t index = 0; index < shape->results; ++index) {
    if (is_class(schema.returns()[index].type(), "c10d.Work")) shape->work = static_cast<int>(index);
  }
  shape->point_to_point = shape->name == "send" || begins_with(shape->name, "recv_");
  shape->coalesces = shape->name.find("coalesced") != std::string::npos;
  shape->has_future = gloo_gives_future(shape->name);
  shape->moves_data = shape->name.find("barrier") == std::string::npos;
  return has_group;
}

void add_tensors(const c10::IValue& value, CallTensors* tensors) {
  if (value.isList()) {
    for (const c10::IValue& each : value.toListRef()) add_tensors(each, tensors);
    return;
  }
  if (!value.isTensor()) return;
  const at::Tensor& tensor = value.toTensor();
  if (!tensor.defined()) return;
  if (tensor.key_set().has(c10::DispatchKey::Python)) {
    tensors->has_python_key = true;
    return;
  }
  ++tensors->count;
  tensors->bytes += tensor.is_sparse() ? 0 : tensor.nbytes();
  const int dtype = static_cast<int>(tensor.scalar_type());
  tensors->dtype = tensors->dtype == -1 || tensors->dtype == dtype ? dtype : -2;
  if (tensor.is_cuda()) {
    tensors->has_cuda = true;
    tensors->device = tensor.device().index();
  }
}

}  // namespace wanhook
