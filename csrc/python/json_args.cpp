#include "python/json_args.h"

#include <cmath>
#include <cstdio>
#include <string_view>

namespace wanhook {
namespace {

constexpr size_t kLongestText = 4096;

void append_text(std::string* json, std::string_view text) {
  json->push_back('"');
  for (const char character : text) {
    const auto byte = static_cast<unsigned char>(character);
    if (byte == '"' || byte == '\\') {
      json->push_back('\\');
      json->push_back(character);
    } else if (byte < 0x20) {
      char escaped[8];
      std::snprintf(escaped, sizeof(escaped), "\\u%04x", byte);
      json->append(escaped);
    } else {
      json->push_back(character);
    }
  }
  json->push_back('"');
}

// UTF-8 of a str, clipped to whole characters; strs that UTF-8 cannot hold (lone surrogates) become "?".
std::string_view text_of(PyObject* text) {
  Py_ssize_t length = 0;
  const char* utf8 = PyUnicode_AsUTF8AndSize(text, &length);
  if (utf8 == nullptr) {
    PyErr_Clear();
    return "?";
  }
  auto end = static_cast<size_t>(length);
  if (end > kLongestText) {
    end = kLongestText;
    while (end > 0 && (static_cast<unsigned char>(utf8[end]) & 0xc0) == 0x80) --end;
  }
  return {utf8, end};
}

void append_float(std::string* json, double value) {
  if (!std::isfinite(value)) {
    json->append("null");
    return;
  }
  char* text = PyOS_double_to_string(value, 'r', 0, Py_DTSF_ADD_DOT_0, nullptr);
  json->append(text == nullptr ? "null" : text);
  PyMem_Free(text);
}

void append_int(std::string* json, PyObject* value) {
  int overflow = 0;
  const long long number = PyLong_AsLongLongAndOverflow(value, &overflow);
  if (overflow != 0) {
    const double rounded = PyLong_AsDouble(value);
    const bool too_large = PyErr_Occurred() != nullptr;
    PyErr_Clear();
    append_float(json, too_large ? HUGE_VAL : rounded);
    return;
  }
  json->append(std::to_string(number));
}

void append_value(std::string* json, PyObject* value) {
  if (value == Py_None) {
    json->append("null");
  } else if (value == Py_True || value == Py_False) {
    json->append(value == Py_True ? "true" : "false");
  } else if (PyLong_CheckExact(value)) {
    append_int(json, value);
  } else if (PyFloat_CheckExact(value)) {
    append_float(json, PyFloat_AS_DOUBLE(value));
  } else if (PyUnicode_CheckExact(value)) {
    append_text(json, text_of(value));
  } else {
    append_text(json, "<" + std::string(Py_TYPE(value)->tp_name) + ">");
  }
}

}  // namespace

bool append_json_member(std::string* json, PyObject* key, PyObject* value) {
  if (!PyUnicode_Check(key)) {
    PyErr_SetString(PyExc_TypeError, "argument names must be str");
    return false;
  }
  append_text(json, text_of(key));
  json->push_back(':');
  append_value(json, value);
  return true;
}

}  // namespace wanhook
