// libvta_rt from C++: vta_rt.h with handles that close themselves and exceptions. Header only; C++17.
//
//     vta_rt::Bundle bundle("engines/demo");
//     vta_rt::Options options;
//     options.seed = 7;
//     bundle.generate("clip.mp4", options).save("clip.wav");
#pragma once

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <exception>
#include <functional>
#include <memory>
#include <new>
#include <optional>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "vta_rt.h"

namespace vta_rt {

class Error : public std::runtime_error {
 public:
  Error(vta_status status, const char* message) : std::runtime_error(message), status_(status) {}
  vta_status status() const noexcept { return status_; }

 private:
  vta_status status_;
};

// Called with a stage's name, steps done and all steps; false stops the work.
using Progress = std::function<bool(const std::string& stage, int done, int total)>;

// What is left out comes from the bundle.
struct Options {
  std::uint64_t seed = 0;
  std::optional<int> steps;
  std::optional<std::string> solver, spacing;
  std::optional<double> guidance;
  std::optional<std::pair<double, double>> guidance_interval;
  Progress progress;
};

// RGB frames that the caller holds, the seconds at which each appears, and when the last one disappears.
struct Frames {
  std::vector<const std::uint8_t*> rows;
  int width = 0, height = 0;
  std::size_t stride = 0;  // bytes from one row to the next; 0 for 3 * width
  std::vector<double> times;
  double duration = 0;
};

class Sound {
 public:
  const float* data() const noexcept { return vta_result_samples(result_.get()); }
  std::size_t size() const noexcept { return vta_result_count(result_.get()); }
  const float* begin() const noexcept { return data(); }
  const float* end() const noexcept { return data() + size(); }
  int sample_rate() const noexcept { return vta_result_rate(result_.get()); }

  // Write a .wav.
  void save(const std::string& path) { check(vta_result_save(result_.get(), path.c_str())); }
  // Write the video of a file, its packets copied, with this sound.
  void mux(const std::string& video, const std::string& path) {
    check(vta_result_mux(result_.get(), video.c_str(), path.c_str()));
  }

 private:
  friend class Bundle;
  struct Close {
    void operator()(vta_result* result) const noexcept { vta_result_close(result); }
  };

  explicit Sound(vta_result* result) : result_(result) {}
  void check(vta_status status) const {
    if (status != VTA_OK) throw Error(status, vta_result_message(result_.get()));
  }

  std::unique_ptr<vta_result, Close> result_;
};

// An opened bundle; may be used by any number of threads at the same time.
class Bundle {
 public:
  explicit Bundle(const std::string& folder, const std::string& backend = "auto", int threads = 0) {
    vta_open_options options = VTA_OPEN_OPTIONS_INIT;
    options.backend = backend.c_str();
    options.threads = threads;
    vta_bundle* bundle = nullptr;
    const vta_status status = vta_bundle_open(folder.c_str(), &options, &bundle);
    bundle_.reset(bundle);
    if (status != VTA_OK) throw Error(status, vta_bundle_message(bundle));
  }

  vta_facts facts() const {
    vta_facts facts = VTA_FACTS_INIT;
    vta_bundle_facts(bundle_.get(), &facts);
    return facts;
  }
  std::string backend() const { return vta_bundle_backend(bundle_.get()); }

  Sound generate(const std::string& path, const Options& options = {}) const {
    return run(options, [&](const vta_generate_options* own, vta_result** result) {
      return vta_generate_file(bundle_.get(), path.c_str(), own, result);
    });
  }

  Sound generate(const Frames& frames, const Options& options = {}) const {
    if (frames.rows.size() != frames.times.size()) throw Error(VTA_ERROR_OPTION, "every frame needs a time");
    vta_frames own = VTA_FRAMES_INIT;
    own.rows = frames.rows.data();
    own.stride = frames.stride;
    own.count = static_cast<std::int32_t>(frames.rows.size());
    own.width = frames.width;
    own.height = frames.height;
    own.times = frames.times.data();
    own.duration = frames.duration;
    return run(options, [&](const vta_generate_options* settings, vta_result** result) {
      return vta_generate_frames(bundle_.get(), &own, settings, result);
    });
  }

 private:
  struct Close {
    void operator()(vta_bundle* bundle) const noexcept { vta_bundle_close(bundle); }
  };

  // The caller's function and what it threw, which is thrown again on this side of the border.
  struct Watch {
    const Progress* progress;
    std::exception_ptr error;
  };

  static int report(void* user, const char* stage, std::int32_t done, std::int32_t total) noexcept {
    auto* watch = static_cast<Watch*>(user);
    try {
      return (*watch->progress)(stage, done, total) ? 0 : 1;
    } catch (...) {
      watch->error = std::current_exception();
      return 1;
    }
  }

  template <typename Call>
  Sound run(const Options& options, Call&& call) const {
    Watch watch{&options.progress, nullptr};
    vta_generate_options own = VTA_GENERATE_OPTIONS_INIT;
    own.seed = options.seed;
    if (options.steps) {
      if (*options.steps == 0) throw Error(VTA_ERROR_OPTION, "steps is 0, an integer of 1 or more is needed");
      own.steps = *options.steps;
    }
    if (options.solver) own.solver = options.solver->c_str();
    if (options.spacing) own.spacing = options.spacing->c_str();
    if (options.guidance) own.guidance = *options.guidance < 0 ? std::nan("") : *options.guidance;
    if (options.guidance_interval) {
      own.guidance_low = options.guidance_interval->first;
      own.guidance_high = options.guidance_interval->second;
    }
    if (options.progress) {
      own.progress = &report;
      own.user = &watch;
    }
    vta_result* result = nullptr;
    const vta_status status = call(&own, &result);
    Sound sound(result);
    if (watch.error) std::rethrow_exception(watch.error);
    if (result == nullptr) throw std::bad_alloc();
    sound.check(status);
    return sound;
  }

  std::unique_ptr<vta_bundle, Close> bundle_;
};

}  // namespace vta_rt
