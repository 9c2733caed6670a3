// The system calls by which a trace file takes room on disk, in one place so that a test can make any of them fail.
//
// Every function returns 0 or an errno value, retries EINTR, and never raises SIGXFSZ: RLIMIT_FSIZE is looked at first.
#pragma once

#include <cstdint>
#include <string>

namespace wanhook::disk {

// Creates `path` exclusively for reading and writing; the descriptor is closed on exec.
int create(const std::string& path, int* fd) noexcept;
// Makes [0, end) of the file exist with disk blocks from `begin` on. On failure the file is `begin` bytes long again.
int allocate(int fd, uint64_t begin, uint64_t end) noexcept;
int truncate(int fd, uint64_t size) noexcept;
// Maps `bytes` of the file shared at one address; the file may be shorter and grow later.
int map(int fd, uint64_t bytes, void** address) noexcept;
// Bytes of address space that the host program can do without: an eighth of what `ulimit -v` leaves, UINT64_MAX without
// such a limit.
uint64_t address_space_to_spare() noexcept;
// Makes the pages of an allocated range present and writable, so that a store into them does not fault.
void populate(void* address, uint64_t bytes) noexcept;

// From now on the call number `after` (0: the next one) and all later ones fail with `error`; error 0 ends that.
void inject_fault(int64_t after, int error) noexcept;

}  // namespace wanhook::disk
