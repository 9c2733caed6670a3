// The arguments of a scope or mark as a JSON object.
#pragma once

#include <Python.h>

#include <string>

namespace wanhook {

// Appends `"key":value`. int, float, bool, None and str are written as they are; of anything else only the type's name,
// because asking it more could cost the host program: the text of a CUDA tensor, for one, waits for the GPU. Returns
// false with a Python error set when the key is not a str.
bool append_json_member(std::string* json, PyObject* key, PyObject* value);

}  // namespace wanhook
