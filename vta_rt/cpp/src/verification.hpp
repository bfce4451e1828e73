// Files checked by their sha256, with the memory that vta_rt/verification.py keeps: a file is hashed once a machine, and again
// when anything about it has changed.
#pragma once

#include <memory>
#include <string>

namespace vta {

class Verification {
 public:
  Verification();
  ~Verification();

  // Whether a file has this hash: remembered, if it has not changed since it was hashed, or else by reading it.
  bool has_hash(const std::string& path, const std::string& sha256);
  // Write what was found to the user's cache folder; nothing is said where that cannot be.
  void save() const;

 private:
  struct Memory;
  std::unique_ptr<Memory> memory_;
};

}  // namespace vta
