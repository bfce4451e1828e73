// What differs between operating systems, all of it: files, their places and the environment. Paths are UTF-8.
#pragma once

#include <array>
#include <cstdint>
#include <functional>
#include <optional>
#include <string>

namespace vta {

std::string join_path(const std::string& folder, const std::string& name);
bool exists(const std::string& path);
bool is_folder(const std::string& path);
bool is_ordinary_file(const std::string& path);
int64_t file_size(const std::string& path);             // -1 if it cannot be told
std::string real_path(const std::string& path);         // with symbolic links followed, as far as it exists
// What shows that a file was changed: size, modification and change time in ns, inode; nothing where a system does not tell.
std::optional<std::array<int64_t, 4>> file_stamp(const std::string& path);
bool is_same_file(const std::string& left, const std::string& right);
std::string get_environment(const char* name);          // empty if it is not set
void set_default_environment(const char* name, const char* value);  // unless it is set

// All of an ordinary file; returns what is wrong, in words, or nothing. Never waits for a pipe's writer.
std::string read_file(const std::string& path, int64_t max_bytes, std::string& content);

// An ordinary file opened for reading at any place.
class InputFile {
 public:
  InputFile() = default;
  InputFile(InputFile&& other) noexcept;
  InputFile& operator=(InputFile&& other) noexcept;
  ~InputFile();

  // Returns what is wrong, in words, or nothing.
  std::string open(const std::string& path);
  int64_t size() const { return size_; }
  // Bytes read, fewer only at the end of the file; -1 after an error.
  int64_t read(void* buffer, int64_t count, int64_t offset) const;

 private:
  int64_t handle_ = -1;
  int64_t size_ = 0;
};

// Writes a file completely or not at all: `write` gets a temporary path beside it, with its suffix, that replaces it on
// success and is removed on any failure. Returns what is wrong, in words, or nothing.
std::string write_atomically(const std::string& path, const std::function<void(const std::string&)>& write);

// What would be wrong if a file were written at that path, or nothing; its folder may be missing.
std::string check_writable(const std::string& path);
std::string make_folders(const std::string& path);  // likewise

int usable_cores();

}  // namespace vta
