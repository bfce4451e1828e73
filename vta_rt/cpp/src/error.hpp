// Errors of one line that name the file or value and what is allowed; never let through the C interface.
#pragma once

#include <stdexcept>
#include <string>

#include "vta_rt.h"

namespace vta {

class Error : public std::runtime_error {
 public:
  Error(vta_status status, const std::string& message) : std::runtime_error(message), code(status) {}
  vta_status code;
};

struct OptionError : Error {
  explicit OptionError(const std::string& message) : Error(VTA_ERROR_OPTION, message) {}
};
struct VideoError : Error {
  explicit VideoError(const std::string& message) : Error(VTA_ERROR_VIDEO, message) {}
};
struct BundleError : Error {
  explicit BundleError(const std::string& message) : Error(VTA_ERROR_BUNDLE, message) {}
};
struct BackendError : Error {
  explicit BackendError(const std::string& message) : Error(VTA_ERROR_BACKEND, message) {}
};
struct OutputError : Error {
  explicit OutputError(const std::string& message) : Error(VTA_ERROR_OUTPUT, message) {}
};
struct ModelError : Error {
  explicit ModelError(const std::string& message) : Error(VTA_ERROR_MODEL, message) {}
};
struct Cancelled : Error {
  Cancelled() : Error(VTA_CANCELLED, "cancelled") {}
};

}  // namespace vta
