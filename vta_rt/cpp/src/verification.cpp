#include "verification.hpp"

#include <fstream>
#include <limits>
#include <nlohmann/json.hpp>

#include "error.hpp"
#include "platform.hpp"
#include "sha256.hpp"

namespace vta {
namespace {

using nlohmann::json;

constexpr int64_t MAX_CACHE_BYTES = 16 << 20;

std::string cache_file() {
  std::string base = get_environment("XDG_CACHE_HOME");
  if (base.empty()) {
    const std::string home = get_environment("HOME");
    if (home.empty()) return "";
    base = join_path(home, ".cache");
  }
  return join_path(join_path(base, "vta_rt"), "verified.json");
}

}  // namespace

struct Verification::Memory {
  json known = json::object();  // [size, mtime, ctime, inode, sha256] by a file's real path
  bool is_changed = false;
};

Verification::Verification() : memory_(std::make_unique<Memory>()) {
  std::string text;
  const std::string path = cache_file();
  if (path.empty() || !read_file(path, MAX_CACHE_BYTES, text).empty()) return;
  json known = json::parse(text, nullptr, false);
  if (known.is_object()) memory_->known = std::move(known);
}

Verification::~Verification() = default;

bool Verification::has_hash(const std::string& path, const std::string& expected) {
  const std::string name = real_path(path);
  const auto stamp = file_stamp(path);  // before reading: a change meanwhile must show
  json entry;
  if (stamp) {
    entry = *stamp;
    entry.push_back(expected);
    const auto found = memory_->known.find(name);
    if (found != memory_->known.end() && *found == entry) return true;
  }
  std::string content;
  const std::string problem = read_file(path, std::numeric_limits<int64_t>::max(), content);
  if (!problem.empty()) throw BundleError(path + ": " + problem);
  if (sha256(content) != expected) return false;
  if (stamp) {
    memory_->known[name] = entry;
    memory_->is_changed = true;
  }
  return true;
}

void Verification::save() const {
  const std::string path = cache_file();
  if (!memory_->is_changed || path.empty() || !make_folders(path).empty()) return;
  json kept = json::object();
  for (const auto& [name, entry] : memory_->known.items()) {
    if (exists(name)) kept[name] = entry;
  }
  try {
    write_atomically(path, [&](const std::string& part) { std::ofstream(part) << kept.dump(1); });
  } catch (const std::exception&) {  // without it, files are hashed each time
  }
}

}  // namespace vta
