// The border: no exception and no C++ type crosses it.
#include <algorithm>
#include <cmath>
#include <cstring>
#include <new>

#include "error.hpp"
#include "pipeline.hpp"
#include "resize.hpp"
#include "text.hpp"
#include "vta_rt.h"
#ifdef VTA_RT_VIDEO
#include "frames.hpp"
#include "mux.hpp"
#endif

struct vta_bundle {
  std::unique_ptr<vta::Bundle> bundle;  // none if it could not be opened
  std::string message;
};

struct vta_result {
  vta::Audio audio;
  std::string message;
};

namespace {

constexpr int64_t MAX_SIDE = 32'768;  // of frames that are handed in, in pixels

// Runs `work`; whatever it throws becomes a code and, in `message`, a sentence.
template <typename Work>
vta_status guard(std::string& message, Work&& work) noexcept {
  vta_status status = VTA_OK;
  try {
    message.clear();
    try {
      work();
    } catch (const vta::Error& error) {
      status = error.code;
      message = error.what();
    } catch (const std::bad_alloc&) {
      status = VTA_ERROR_MEMORY;
      message = "there is not enough memory";
    } catch (const std::exception& error) {
      status = VTA_ERROR_INTERNAL;
      message = vta::one_line(error.what());
    } catch (...) {
      status = VTA_ERROR_INTERNAL;
      message = "an unknown error";
    }
  } catch (...) {
    status = VTA_ERROR_MEMORY;  // not even for the sentence
  }
  return status;
}

// A handle is there after a failure, too; NULL only where memory ran out.
template <typename Handle, typename Work>
vta_status make(Handle** handle, Work&& work) noexcept {
  if (handle == nullptr) return VTA_ERROR_OPTION;
  *handle = new (std::nothrow) Handle();
  if (*handle == nullptr) return VTA_ERROR_MEMORY;
  return guard((*handle)->message, [&] { work(**handle); });
}

// A caller's structure, of which older versions have fewer fields: what it does not have keeps its default.
template <typename Structure>
Structure read_structure(const Structure* given, Structure own) {
  if (given != nullptr) std::memcpy(&own, given, std::min(given->size, sizeof own));
  return own;
}

const char* require(const char* text, const char* name) {
  if (text == nullptr) throw vta::OptionError(std::string(name) + " is NULL, a text is needed");
  return text;
}

const vta::Bundle& require(const vta_bundle* bundle) {
  if (bundle == nullptr || !bundle->bundle) throw vta::OptionError("the bundle is not open");
  return *bundle->bundle;
}

vta::GenerateOptions read_options(const vta_generate_options* given) {
  constexpr vta_generate_options DEFAULTS = VTA_GENERATE_OPTIONS_INIT;
  const vta_generate_options own = read_structure(given, DEFAULTS);
  vta::GenerateOptions options;
  options.seed = own.seed;
  if (own.steps != 0) options.sampling.steps = own.steps;
  if (own.solver != nullptr) options.sampling.solver = own.solver;
  if (own.spacing != nullptr) options.sampling.spacing = own.spacing;
  if (!(own.guidance < 0)) options.sampling.guidance = own.guidance;
  if (own.guidance_low != 0 || own.guidance_high != 0) options.sampling.guidance_interval = {own.guidance_low, own.guidance_high};
  if (own.progress != nullptr) {
    options.progress = [own](const char* stage, int64_t done, int64_t total) {
      if (own.progress(own.user, stage, static_cast<int32_t>(done), static_cast<int32_t>(total)) != 0) throw vta::Cancelled();
    };
  }
  if (own.observe != nullptr) {
    options.observe = [own](const char* name, const vta::Shape& shape, const void* values) {
      own.observe(own.user, name, shape.data(), shape.size(), values);
    };
  }
  return options;
}

vta::Clip take_frames(const vta_frames* given, const vta::Manifest& manifest) {
  if (given == nullptr) throw vta::OptionError("frames is NULL, frames are needed");
  constexpr vta_frames DEFAULTS = VTA_FRAMES_INIT;
  const vta_frames frames = read_structure(given, DEFAULTS);
  vta::check_integer("count", frames.count, 1);
  vta::check_integer("width", frames.width, 1, MAX_SIDE);
  vta::check_integer("height", frames.height, 1, MAX_SIDE);
  if (frames.rows == nullptr || frames.times == nullptr) throw vta::OptionError("rows and times are needed for every frame");
  const auto row_bytes = 3 * static_cast<size_t>(frames.width);
  const size_t stride = frames.stride != 0 ? frames.stride : row_bytes;
  if (stride < row_bytes) throw vta::OptionError("stride is " + std::to_string(stride) + ", at least " + std::to_string(row_bytes) + " is needed");
  constexpr double NANOSECONDS = 1e9, MAX_SECONDS = 1e9;
  const auto time_after = [&](int32_t index) { return index + 1 < frames.count ? frames.times[index + 1] : frames.duration; };
  if (frames.times[0] != 0) throw vta::OptionError("times[0] is " + vta::show(frames.times[0]) + ", the first frame appears at 0");
  for (int32_t index = 0; index < frames.count; ++index) {
    const double before = frames.times[index], after = time_after(index);
    if (!(after > before && after < MAX_SECONDS)) {
      throw vta::OptionError("a frame appears at " + vta::show(before) + " s and disappears at " + vta::show(after) + " s; times must rise");
    }
    if (frames.rows[index] == nullptr) throw vta::OptionError("rows[" + vta::show(int64_t{index}) + "] is NULL, a frame is needed");
  }
  vta::FrameTimes times(manifest.frames.rate, manifest.model.seconds);
  vta::Clip clip;
  clip.duration = frames.duration;
  for (int32_t index = 0; index < frames.count && !times.is_done(); ++index) {
    const int64_t count = times.count_until(std::nearbyint(time_after(index) * NANOSECONDS), static_cast<int64_t>(NANOSECONDS));
    if (count == 0) continue;
    const vta::Image fitted = vta::fit_frame({frames.rows[index], stride, frames.width, frames.height}, manifest.frames);
    for (int64_t copy = 0; copy < count; ++copy) clip.frames.insert(clip.frames.end(), fitted.pixels.begin(), fitted.pixels.end());
    clip.count += count;
  }
  return clip;
}

[[maybe_unused]] [[noreturn]] void refuse_files() {
  throw vta::OptionError("this library was built without video files (VTA_RT_VIDEO=OFF); hand in frames");
}

}  // namespace

const char* vta_version(void) { return VTA_RT_VERSION; }

vta_status vta_bundle_open(const char* folder, const vta_open_options* options, vta_bundle** bundle) {
  return make(bundle, [&](vta_bundle& made) {
    constexpr vta_open_options DEFAULTS = VTA_OPEN_OPTIONS_INIT;
    const vta_open_options own = read_structure(options, DEFAULTS);
    made.bundle = std::make_unique<vta::Bundle>(require(folder, "folder"), own.backend != nullptr ? own.backend : "auto", own.threads);
  });
}

void vta_bundle_close(vta_bundle* bundle) { delete bundle; }

const char* vta_bundle_message(const vta_bundle* bundle) { return bundle != nullptr ? bundle->message.c_str() : "there is no bundle"; }

const char* vta_bundle_backend(const vta_bundle* bundle) {
  return bundle != nullptr && bundle->bundle ? bundle->bundle->backend().c_str() : "";
}

vta_status vta_bundle_facts(const vta_bundle* bundle, vta_facts* facts) {
  std::string ignored;
  return guard(ignored, [&] {
    const vta::Manifest& manifest = require(bundle).manifest();
    if (facts == nullptr) throw vta::OptionError("facts is NULL");
    const auto shape = manifest.model.latent_shape();
    const auto narrow = [](int64_t value) { return static_cast<int32_t>(value); };
    const size_t size = std::min(facts->size, sizeof(vta_facts));
    const vta_facts found = {size,
                             manifest.model.seconds,
                             narrow(manifest.model.sample_rate),
                             manifest.frames.rate,
                             narrow(manifest.frames.size),
                             narrow(manifest.model.frame_count(manifest.frames)),
                             narrow(manifest.model.token_width),
                             {narrow(shape[1]), narrow(shape[2]), narrow(shape[3])},
                             narrow(manifest.sampling.steps),
                             manifest.sampling.guidance,
                             manifest.model.text ? 1 : 0};
    std::memcpy(facts, &found, size);
  });
}

vta_status vta_generate_file(const vta_bundle* bundle, [[maybe_unused]] const char* path, const vta_generate_options* options,
                             vta_result** result) {
  return make(result, [&](vta_result& made) {
    const vta::Bundle& own = require(bundle);
    const std::string name = require(path, "path");
    const auto read = [&]() -> vta::Clip {
#ifdef VTA_RT_VIDEO
      vta::Video video(name);
      return vta::read_clip(video, own.manifest());
#else
      refuse_files();
#endif
    };
    made.audio = own.generate(read, read_options(options), name);
  });
}

vta_status vta_generate_frames(const vta_bundle* bundle, const vta_frames* frames, const vta_generate_options* options,
                               vta_result** result) {
  return make(result, [&](vta_result& made) {
    const vta::Bundle& own = require(bundle);
    made.audio = own.generate([&] { return take_frames(frames, own.manifest()); }, read_options(options), "frames");
  });
}

void vta_result_close(vta_result* result) { delete result; }

const char* vta_result_message(const vta_result* result) { return result != nullptr ? result->message.c_str() : "there is no result"; }

const float* vta_result_samples(const vta_result* result) {
  return result != nullptr && !result->audio.samples.empty() ? result->audio.samples.data() : nullptr;
}

size_t vta_result_count(const vta_result* result) { return result != nullptr ? result->audio.samples.size() : 0; }

int32_t vta_result_rate(const vta_result* result) { return result != nullptr ? static_cast<int32_t>(result->audio.sample_rate) : 0; }

vta_status vta_result_save(vta_result* result, const char* path) {
  if (result == nullptr) return VTA_ERROR_OPTION;
  return guard(result->message, [&] {
    if (result->audio.samples.empty()) throw vta::OptionError("there is no sound to save");
    vta::save_wav(result->audio, require(path, "path"));
  });
}

vta_status vta_result_mux(vta_result* result, [[maybe_unused]] const char* video, const char* path) {
  if (result == nullptr) return VTA_ERROR_OPTION;
  return guard(result->message, [&] {
    if (result->audio.samples.empty()) throw vta::OptionError("there is no sound to write");
    require(path, "path");
#ifdef VTA_RT_VIDEO
    vta::Video source(require(video, "video"));
    vta::mux(source, result->audio, path);
#else
    refuse_files();
#endif
  });
}
