// Frames of any size, shape of pixels and settings are fitted, and counted at any time.
#include <algorithm>
#include <cstring>

#include "pipeline.hpp"
#include "resize.hpp"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  struct Header {
    uint16_t width, height, size, resize;
    uint8_t flags, aspect;
    double rate, seconds;
    int64_t time;
  } header;
  if (size < sizeof header) return 0;
  std::memcpy(&header, data, sizeof header);
  vta::FrameConfig config;
  config.size = 1 + header.size % 64;
  config.resize = header.resize % 2 != 0 ? config.size + header.resize % 64 : 0;
  config.fit = (header.flags & 1) != 0 ? "crop" : "squash";
  config.kernel = (header.flags & 2) != 0 ? "bicubic" : "bilinear";
  vta::Image image(1 + header.width % 300, 1 + header.height % 300);
  for (size_t index = 0; index < image.pixels.size(); ++index) image.pixels[index] = data[index % size];
  const vta::Image fitted = vta::fit_frame(image.view(), config, std::clamp(header.aspect / 16.0, 0.05, 20.0));
  if (fitted.width != config.size || fitted.height != config.size) __builtin_trap();
  if (header.rate > 0 && header.rate <= 1000 && header.seconds > 0 && header.seconds <= 3600) {
    vta::FrameTimes times(header.rate, header.seconds);
    if (times.count_until(static_cast<long double>(header.time), 90'000) > times.total()) __builtin_trap();
  }
  return 0;
}
