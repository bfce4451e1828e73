#include "platform.hpp"

#include <algorithm>
#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <random>
#include <system_error>
#include <thread>

#ifdef _WIN32
#include <fcntl.h>
#include <io.h>
#include <sys/stat.h>
#include <windows.h>
#else
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>
#endif

namespace vta {
namespace {

namespace fs = std::filesystem;

fs::path to_path(const std::string& text) { return {std::u8string(text.begin(), text.end())}; }

std::string to_text(const fs::path& path) {
  const std::u8string text = path.u8string();
  return {text.begin(), text.end()};
}

std::string describe(int error) { return std::generic_category().message(error); }

#ifdef _WIN32
int open_to_read(const std::string& path) { return _wopen(to_path(path).c_str(), _O_RDONLY | _O_BINARY); }
int close_handle(int handle) { return _close(handle); }
using Status = struct _stat64;
bool get_status(int handle, Status& status) { return _fstat64(handle, &status) == 0; }
int64_t read_at(int handle, void* buffer, size_t count, int64_t offset) {
  OVERLAPPED place{};
  place.Offset = static_cast<DWORD>(offset);
  place.OffsetHigh = static_cast<DWORD>(offset >> 32);
  DWORD done = 0;
  const auto file = reinterpret_cast<HANDLE>(_get_osfhandle(handle));
  if (ReadFile(file, buffer, static_cast<DWORD>(count), &done, &place) == 0 && GetLastError() != ERROR_HANDLE_EOF) return -1;
  return done;
}
bool may_write(const fs::path&) { return true; }
#else
int open_to_read(const std::string& path) { return ::open(path.c_str(), O_RDONLY | O_NONBLOCK | O_CLOEXEC); }
int close_handle(int handle) { return ::close(handle); }
using Status = struct stat;
bool get_status(int handle, Status& status) { return ::fstat(handle, &status) == 0; }
int64_t read_at(int handle, void* buffer, size_t count, int64_t offset) { return ::pread(handle, buffer, count, offset); }
bool may_write(const fs::path& path) { return ::access(path.c_str(), W_OK) == 0; }
#endif

std::string random_name() {
  std::random_device device;
  std::string name;
  for (int index = 0; index < 16; ++index) name += "0123456789abcdef"[device() & 15];
  return name;
}

// The file that is written: what a symbolic link points to, even if that is not there yet.
fs::path follow_links(const fs::path& path) {
  return fs::is_symlink(path) ? fs::weakly_canonical(path) : path;
}

fs::path folder_of(const fs::path& path) { return path.has_parent_path() ? path.parent_path() : fs::path("."); }

// Calls a function and returns, in words, what the system said against it.
std::string attempt(const std::function<std::string()>& work) {
  try {
    return work();
  } catch (const std::system_error& error) {
    return "cannot be written (" + error.code().message() + ")";
  }
}

}  // namespace

std::string join_path(const std::string& folder, const std::string& name) { return to_text(to_path(folder) / to_path(name)); }

bool exists(const std::string& path) {
  std::error_code error;
  return fs::exists(to_path(path), error);
}

bool is_folder(const std::string& path) {
  std::error_code error;
  return fs::is_directory(to_path(path), error);
}

bool is_ordinary_file(const std::string& path) {
  std::error_code error;
  return fs::is_regular_file(to_path(path), error);
}

int64_t file_size(const std::string& path) {
  std::error_code error;
  const auto size = fs::file_size(to_path(path), error);
  return error ? -1 : static_cast<int64_t>(size);
}

std::string real_path(const std::string& path) {
  std::error_code error;
  const fs::path real = fs::weakly_canonical(fs::absolute(to_path(path), error), error);
  return error ? path : to_text(real);
}

bool is_same_file(const std::string& left, const std::string& right) {
  std::error_code error;
  return fs::equivalent(to_path(left), to_path(right), error) && !error;
}

std::optional<std::array<int64_t, 4>> file_stamp([[maybe_unused]] const std::string& path) {
#ifdef __linux__
  struct stat status {};
  if (::stat(path.c_str(), &status) != 0) return std::nullopt;
  const auto nanoseconds = [](const timespec& time) { return int64_t{time.tv_sec} * 1'000'000'000 + time.tv_nsec; };
  return std::array<int64_t, 4>{status.st_size, nanoseconds(status.st_mtim), nanoseconds(status.st_ctim),
                                static_cast<int64_t>(status.st_ino)};
#else
  return std::nullopt;
#endif
}

std::string get_environment(const char* name) {
  const char* value = std::getenv(name);
  return value == nullptr ? "" : value;
}

void set_default_environment(const char* name, const char* value) {
#ifdef _WIN32
  if (std::getenv(name) == nullptr) _putenv_s(name, value);
#else
  ::setenv(name, value, 0);
#endif
}

std::string read_file(const std::string& path, int64_t max_bytes, std::string& content) {
  InputFile file;
  const std::string problem = file.open(path);
  if (!problem.empty()) return "cannot be read (" + problem + ")";
  if (file.size() > max_bytes) {
    return "has " + std::to_string(file.size()) + " bytes, at most " + std::to_string(max_bytes) + " are read";
  }
  content.resize(static_cast<size_t>(file.size()));
  const int64_t count = file.read(content.data(), file.size(), 0);
  if (count < 0) return "cannot be read (" + describe(errno) + ")";
  content.resize(static_cast<size_t>(count));
  return "";
}

InputFile::InputFile(InputFile&& other) noexcept { *this = std::move(other); }

InputFile& InputFile::operator=(InputFile&& other) noexcept {
  std::swap(handle_, other.handle_);
  std::swap(size_, other.size_);
  return *this;
}

InputFile::~InputFile() {
  if (handle_ >= 0) close_handle(static_cast<int>(handle_));
}

std::string InputFile::open(const std::string& path) {
  if (path.find('\0') != std::string::npos) return "embedded null byte";
  const int handle = open_to_read(path);
  if (handle < 0) return describe(errno);
  handle_ = handle;
  Status status{};
  if (!get_status(handle, status)) return describe(errno);
  if ((status.st_mode & S_IFMT) == S_IFDIR) return describe(EISDIR);
  if ((status.st_mode & S_IFMT) != S_IFREG) return "it is not an ordinary file";
  size_ = static_cast<int64_t>(status.st_size);
  return "";
}

int64_t InputFile::read(void* buffer, int64_t count, int64_t offset) const {
  int64_t total = 0;
  while (total < count) {
    constexpr int64_t MAX_CHUNK = 1 << 30;  // systems read no more than about 2 GiB at once
    const auto wanted = static_cast<size_t>(std::min(count - total, MAX_CHUNK));
    const int64_t done = read_at(static_cast<int>(handle_), static_cast<char*>(buffer) + total, wanted, offset + total);
    if (done < 0 && errno == EINTR) continue;
    if (done < 0) return -1;
    if (done == 0) break;
    total += done;
  }
  return total;
}

std::string write_atomically(const std::string& path, const std::function<void(const std::string&)>& write) {
  if (is_folder(path)) return "is a folder, a file name is needed";
  struct Temporary {
    fs::path path;
    ~Temporary() {
      std::error_code ignored;
      if (!path.empty()) fs::remove(path, ignored);
    }
  } temporary;
  return attempt([&]() -> std::string {
    const fs::path target = follow_links(to_path(path));
    const fs::file_status before = fs::status(target);
    const bool is_replaced = fs::exists(before);
    if (is_replaced && !fs::is_regular_file(before)) {  // a named pipe or a device gets the content once it is complete
      temporary.path = fs::temp_directory_path() / ("vta_rt-" + random_name() + to_text(to_path(path).extension()));
      write(to_text(temporary.path));
      fs::copy_file(temporary.path, target, fs::copy_options::overwrite_existing);
      return "";
    }
    temporary.path = folder_of(target) / ("." + random_name() + ".part" + to_text(to_path(path).extension()));
    write(to_text(temporary.path));
    std::error_code ignored;
    if (is_replaced) fs::permissions(temporary.path, before.permissions(), ignored);
    fs::rename(temporary.path, target);
    return "";
  });
}

std::string check_writable(const std::string& path) {
  if (is_folder(path)) return "is a folder, a file name is needed";
  return attempt([&]() -> std::string {
    const fs::path target = follow_links(to_path(path));
    if (fs::exists(target) && !fs::is_regular_file(target)) {
      if (!may_write(target)) throw std::system_error(EACCES, std::generic_category());
      return "";
    }
    fs::path folder = fs::absolute(folder_of(target));
    while (!fs::exists(folder) && folder.has_relative_path()) folder = folder.parent_path();
    if (!fs::is_directory(folder)) throw std::system_error(ENOTDIR, std::generic_category());
    if (!may_write(folder)) throw std::system_error(EACCES, std::generic_category());
    const fs::file_status status = fs::symlink_status(folder / target.filename());  // throws for a name that is too long
    static_cast<void>(status);
    return "";
  });
}

std::string make_folders(const std::string& path) {
  return attempt([&]() -> std::string {
    const fs::path folder = folder_of(to_path(path));
    if (!fs::is_directory(folder)) fs::create_directories(folder);
    return "";
  });
}

int usable_cores() { return std::max(1, static_cast<int>(std::thread::hardware_concurrency())); }

}  // namespace vta
