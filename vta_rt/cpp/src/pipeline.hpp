// A bundle ready to run: frames -> tokens -> latents -> mel -> wave, as in vta_rt/pipeline.py, stages.py and denoise.py.
#pragma once

#include <functional>
#include <memory>
#include <mutex>
#include <string>

#include "manifest.hpp"
#include "session.hpp"
#include "wav.hpp"

namespace vta {

// The frames of a video that the model takes, [count, size, size, 3], and the seconds of the whole video.
struct Clip {
  std::vector<uint8_t> frames;
  int64_t count = 0;
  double duration = 0;
};

using Progress = std::function<void(const char* stage, int64_t done, int64_t total)>;  // may throw, which ends the work
using Observe = std::function<void(const char* name, const Shape& shape, const void* values)>;

struct GenerateOptions {
  uint64_t seed = 0;
  SamplingOptions sampling;
  Progress progress;
  Observe observe;
};

// When the frames that a model takes are on screen: at 0, 1/rate, 2/rate ... seconds, before `seconds`. Exact: times are
// fractions, and a rate is the decimal number that it is written as.
class FrameTimes {
 public:
  FrameTimes(double rate, double seconds);

  // How many more frames are taken until a time, numerator / denominator seconds, at which another frame appears.
  int64_t count_until(long double numerator, int64_t denominator);
  bool is_done() const { return index_ >= total_; }
  int64_t total() const { return total_; }

 private:
  int64_t rate_numerator_ = 0, rate_denominator_ = 1, index_ = 0, total_ = 0;
};

class Bundle {
 public:
  // Raises BundleError, BackendError, OptionError.
  Bundle(const std::string& folder, const std::string& backend, int threads);

  const std::string& folder() const { return folder_; }
  const Manifest& manifest() const { return manifest_; }
  const std::string& backend() const { return backend_.title; }

  // Sound for the clip that `read` gives; graphs are loaded while it reads. `name` is what the clip is called in messages.
  // Safe to call from several threads at once.
  Audio generate(const std::function<Clip()>& read, const GenerateOptions& options, const std::string& name) const;

  // The graph of that name, loaded when it is first asked for.
  Session& session(const std::string& graph) const;

 private:
  struct Slot {
    std::mutex loading;
    std::unique_ptr<Session> session;
  };

  Array encode(const Clip& clip) const;
  Array denoise(const SamplingPlan& plan, uint64_t seed, const Array& tokens, const GenerateOptions& options) const;

  std::string folder_;
  Manifest manifest_;
  Backend backend_;
  mutable std::map<std::string, Slot> slots_;
};

}  // namespace vta
