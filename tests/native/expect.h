// Assertions of the native tests: a failed one says where and what, and ends the program with status 1.
#pragma once

#include <cstdio>
#include <cstdlib>

#define EXPECT(condition)                                                            \
  do {                                                                               \
    if (!(condition)) {                                                              \
      std::fprintf(stderr, "%s:%d: expected: %s\n", __FILE__, __LINE__, #condition); \
      std::_Exit(1);                                                                 \
    }                                                                                \
  } while (false)

// For whole numbers and enums.
#define EXPECT_EQUAL(left, right)                                                                                \
  do {                                                                                                           \
    const auto left_value = static_cast<long long>(left);                                                        \
    const auto right_value = static_cast<long long>(right);                                                      \
    if (left_value != right_value) {                                                                             \
      std::fprintf(stderr, "%s:%d: expected %s == %s, found %lld and %lld\n", __FILE__, __LINE__, #left, #right, \
                   left_value, right_value);                                                                     \
      std::_Exit(1);                                                                                             \
    }                                                                                                            \
  } while (false)
