// A file of any bytes is read as a video, or refused with a VideoError; --limit takes any text.
#include <unistd.h>

#include <cstdio>

#include "error.hpp"
#include "frames.hpp"
#include "mux.hpp"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  static const std::string path = "/tmp/fuzz_video_" + std::to_string(getpid());
  av_log_set_level(AV_LOG_QUIET);
  try {
    vta::Limits().set(std::string(reinterpret_cast<const char*>(data), size < 40 ? size : 40));
  } catch (const vta::OptionError&) {
  }
  std::FILE* file = std::fopen(path.c_str(), "wb");
  if (file == nullptr) return 0;
  std::fwrite(data, 1, size, file);
  std::fclose(file);
  vta::Manifest manifest;
  manifest.model.seconds = 1;
  manifest.frames.rate = 10;
  manifest.frames.size = 16;
  try {
    vta::VideoOptions options;
    options.limits.pixels = 1 << 20;
    options.limits.read_seconds = 2;
    vta::Video video(path, options);
    vta::read_clip(video, manifest);
    vta::check_mux(video, "out.mp4");
  } catch (const vta::Error&) {
  }
  return 0;
}
