// Frames fitted to a model as vta_rt/video/frames.py fits them: Pillow's antialiased resizing, in its fixed-point arithmetic.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "manifest.hpp"

namespace vta {

// RGB pixels, 3 bytes each, that lie elsewhere.
struct ImageView {
  const uint8_t* pixels = nullptr;
  size_t stride = 0;  // bytes from one row to the next
  int64_t width = 0, height = 0;

  const uint8_t* at(int64_t x, int64_t y) const { return pixels + static_cast<size_t>(y) * stride + 3 * static_cast<size_t>(x); }
};

struct Image {
  int64_t width = 0, height = 0;
  std::vector<uint8_t> pixels;

  Image() = default;
  Image(int64_t width_, int64_t height_) : width(width_), height(height_), pixels(static_cast<size_t>(3 * width_ * height_)) {}
  ImageView view() const { return {pixels.data(), static_cast<size_t>(3 * width), width, height}; }
  uint8_t* at(int64_t x, int64_t y) { return pixels.data() + 3 * static_cast<size_t>(y * width + x); }
};

// Resizes an image and, unless it is squashed, crops its centre; aspect is the width over the height of a pixel.
Image fit_frame(const ImageView& image, const FrameConfig& config, double aspect = 1.0);

}  // namespace vta
